"""Reward `overlong`: a soft penalty for completions that come close to the length limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glyphrl.errors import UserError
from glyphrl.rewards.errors import RewardError


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """Equation 13 of the DAPO paper (arXiv 2503.14476), in [-1, 0].

    0 up to `max_length - buffer`, then falling in a straight line to -1 at `max_length`.

    >>> [overlong_penalty(n, max_length=100, buffer=20) for n in (80, 90, 100, 5000)]
    [0.0, -0.5, -1.0, -1.0]
    """
    return max(-1.0, min(0, max_length - buffer - length) / buffer)


@dataclass(frozen=True)
class Overlong:
    """A soft length limit, in [-1, 0]: 0 up to `max_length - buffer` tokens, then falling to -1 at the limit.

    It looks at the whole completion, not at the answer. A longer completion never scores higher.

    >>> Overlong(max_length=100, buffer=20)(["…", "…"], completion_ids=[[7] * 60, [7] * 95])
    [0.0, -0.75]
    >>> Overlong(max_length=10, buffer=5, unit="characters")(["12345678"])
    [-0.6]
    """

    max_length: int
    """Length that scores -1; normally `grpo.max_completion_length`."""
    buffer: int
    """Length of the slope before it."""
    unit: Literal["tokens", "characters"] = "tokens"
    """What is counted; tokens need the column `completion_ids`, which the trainer provides."""

    def __post_init__(self) -> None:
        """Refuses a slope that does not fit."""
        if not 0 < self.buffer <= self.max_length:
            raise UserError(
                f"buffer is {self.buffer}; expected a number from 1 to max_length, {self.max_length}"
            )

    def __call__(
        self,
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Scores each completion."""
        counted: Sequence[Any] | None = completions if self.unit == "characters" else completion_ids
        if counted is None:
            raise RewardError(
                "overlong counts tokens, but there is no column completion_ids; set unit: characters, or "
                "score where the token ids are known"
            )
        return [overlong_penalty(len(item), self.max_length, self.buffer) for item in counted]
