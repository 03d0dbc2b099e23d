"""Reward `math_verify`: is the answer the same expression as the reference, by the math-verify library?

math-verify guards itself with SIGALRM, which works in the main thread only. Here it runs without that guard
in worker processes that are killed when they take too long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from glyphrl.errors import UserError
from glyphrl.rewards.errors import RewardError
from glyphrl.rewards.pool import WorkerPool
from glyphrl.rewards.text_reward import TextReward

_MEMORY_LIMIT = 8 * 2**30
"""Address space of a worker in bytes."""
_LONGEST = 4000
"""Answers of more characters than this are no mathematical expression; they score 0 without being parsed."""


def make_verifier() -> Callable[[str, str], bool | None]:
    """Returns the comparison that runs in a worker."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    @lru_cache(maxsize=256)  # the members of a group share their reference
    def parse_reference(reference: str) -> list[Any]:
        return parse(reference, parsing_timeout=None)

    def compare(reference: str, answer: str) -> bool | None:
        gold = parse_reference(reference)
        if not gold:
            return None
        return bool(verify(gold, parse(answer, parsing_timeout=None), timeout_seconds=None))

    return compare


@lru_cache(maxsize=4)
def _shared_pool(processes: int) -> WorkerPool:
    return WorkerPool("glyphrl.rewards.math_verify:make_verifier", {}, processes, _MEMORY_LIMIT)


def compare_expressions(
    pairs: Sequence[tuple[str, str]], processes: int, time_limit: float
) -> list[bool | None]:
    """Compares references with answers.

    Returns:
        For each pair whether they are equal; None where the reference is no expression. An answer that takes
        longer than `time_limit` seconds, or that breaks the process, is not equal: no sensible answer does.
    """
    outcomes = _shared_pool(processes).map(pairs, time_limit)
    results: list[bool | None] = []
    for outcome in outcomes:
        if outcome.kind == "error" and "ImportError" in outcome.message:
            raise RewardError(f"math-verify cannot run: {outcome.message}")
        results.append(outcome.value if outcome.kind == "ok" else False)
    return results


@dataclass(frozen=True)
class MathVerify(TextReward):
    r"""1 where math-verify finds answer and reference equal, else 0; None: the reference is no expression.

    It takes expressions out of the texts: "x = 2" equals "2". For texts that merely contain numbers use
    `weighted_cer`. An empty answer, one that takes too long and one of more than 4,000 characters score 0.

    >>> MathVerify()([r"<answer>$\frac{1}{2}$</answer>", "<answer>0.4</answer>"], ["0.5", "0.5"])
    [1.0, 0.0]
    """

    time_limit: float = 5.0
    """Seconds for one comparison."""
    processes: int = 1
    """Worker processes."""

    def __post_init__(self) -> None:
        """Refuses limits that nothing can meet."""
        super().__post_init__()
        if not self.time_limit > 0:
            raise UserError(f"time_limit is {self.time_limit}; expected a positive number of seconds")
        if self.processes < 1:
            raise UserError(f"processes is {self.processes}; expected at least 1")

    def __call__(
        self, completions: Sequence[str], solution: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Scores each completion."""
        pairs = self.pairs(completions, solution)
        compared = [(pair.reference, pair.answer if len(pair.answer) <= _LONGEST else "") for pair in pairs]
        equal = compare_expressions(compared, self.processes, self.time_limit)
        return [
            None if result is None else float(result and not self.refused(pair))
            for pair, result in zip(pairs, equal, strict=True)
        ]
