"""Reward `format`: does the completion have the asked-for tags?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from glyphrl.errors import UserError, did_you_mean
from glyphrl.rewards.parsing import FAULTS, ParsedAnswer, parse_answer

PENALTIES: dict[str, float] = {
    "missing": 1.0,
    "unclosed": 0.5,
    "nested": 0.5,
    "repeated": 0.5,
    "outside": 0.25,
    "empty": 0.5,
}
"""What each fault costs where partial credit is given."""


@dataclass(frozen=True)
class Format:
    """1 where the completion is exactly `<answer>…</answer>`, a think block before it or not; in [0, 1].

    By default any fault scores 0. With `partial`, each fault of `glyphrl.rewards.parsing.FAULTS` costs its
    penalty, and what is left, at least 0, is the score. One more fault never scores higher.

    >>> Format()(["<answer>476</answer>", "<think>4..</think><answer>476</answer>", "476", "<answer>476"])
    [1.0, 1.0, 0.0, 0.0]
    >>> Format(partial=True)(["It is <answer>476</answer>", "<answer>4</answer><answer>5</answer>!", "476"])
    [0.75, 0.25, 0.0]
    >>> Format(think="required")(["<answer>476</answer>"])
    [0.0]
    """

    partial: bool = False
    """Give partial credit instead of all or nothing."""
    penalties: dict[str, float] = field(default_factory=dict)
    """Costs of faults that differ from the default ones (`missing` 1, `outside` 0.25, the others 0.5)."""
    think: Literal["optional", "required", "forbidden"] = "optional"
    """Whether there has to be a think block."""
    extra_tags: list[str] = field(default_factory=list)
    """Further blocks that may stand outside the answer, e.g. `confidence`."""

    def __post_init__(self) -> None:
        """Refuses unknown faults and penalties that would reward a fault."""
        for name, cost in self.penalties.items():
            if name not in FAULTS:
                raise UserError(f"penalties: unknown fault {name!r}{did_you_mean(name, FAULTS)}")
            if not 0 <= cost <= 1:
                raise UserError(f"penalties: {name} is {cost}; expected a number from 0 to 1")

    def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
        """Scores each completion."""
        return [self.score(parse_answer(completion, self.extra_tags)) for completion in completions]

    def score(self, parsed: ParsedAnswer) -> float:
        """Score of one parsed completion."""
        faults: set[str] = set(parsed.faults)
        if (self.think == "required" and parsed.think is None) or (
            self.think == "forbidden" and parsed.think is not None
        ):
            faults.add("outside" if self.think == "forbidden" else "unclosed")
        if not self.partial:
            return float(not faults)
        costs = {**PENALTIES, **self.penalties}
        return max(0.0, 1.0 - sum(costs[fault] for fault in faults))
