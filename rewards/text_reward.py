"""What the rewards share that compare an answer with a reference text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glyphrl.rewards.errors import RewardError, excerpt
from glyphrl.rewards.normalization import check_form, normalize
from glyphrl.rewards.parsing import parse_answer


@dataclass(frozen=True)
class Pair:
    """One completion made ready for comparison."""

    reference: str
    answer: str
    has_block: bool


@dataclass(frozen=True)
class TextReward:
    """Parameters of every reward that compares the answer with the solution."""

    normalization: str = "none"
    """`none`, `nfc` or `nfkc`, applied to answer and reference."""
    fold_whitespace: bool = False
    """Count every run of white space as one space."""
    answer_mode: Literal["lenient", "strict"] = "lenient"
    """`strict`: a completion without a complete answer block scores 0. The run's `rewards.answer` sets it."""

    def __post_init__(self) -> None:
        """Refuses an unknown normalisation early."""
        check_form(self.normalization)

    def pairs(self, completions: Sequence[str], solution: Sequence[Any]) -> list[Pair]:
        """Parses, strips and normalises; white space around answer and reference never counts."""
        check_lengths(completions, solution)
        made = []
        for index, (completion, reference) in enumerate(zip(completions, solution, strict=True)):
            if not isinstance(reference, str):
                raise RewardError(
                    f"solution is {excerpt(reference)} ({type(reference).__name__}); expected text",
                    index=index,
                )
            parsed = parse_answer(completion)
            made.append(Pair(self.clean(reference.strip()), self.clean(parsed.answer), parsed.has_block))
        return made

    def clean(self, text: str) -> str:
        """`text` normalised as the parameters say."""
        return normalize(text, self.normalization, self.fold_whitespace)

    def refused(self, pair: Pair) -> bool:
        """Whether the strict mode gives this completion 0 whatever it says."""
        return self.answer_mode == "strict" and not pair.has_block


def check_lengths(completions: Sequence[Any], solution: Sequence[Any]) -> None:
    """Refuses columns that do not belong to the completions."""
    if len(completions) != len(solution):
        raise RewardError(
            f"{len(completions)} completions but {len(solution)} solutions; expected one for each"
        )
