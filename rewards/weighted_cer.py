"""Reward `weighted_cer`: 1 minus the weighted character error rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glyphrl.config_schema import IMPORTANT_CHARS
from glyphrl.errors import UserError
from glyphrl.rewards.edit_distance import weighted_cer_batch
from glyphrl.rewards.text_reward import TextReward


@dataclass(frozen=True)
class WeightedCer(TextReward):
    """max(0, 1 - WCER), in [0, 1]: characters read right, where digits and currency signs count double.

    WCER is defined in `glyphrl.rewards.edit_distance`. An empty reference scores 1 for an empty answer, else
    0. One more error (a higher alignment cost) never scores higher.

    >>> reward = WeightedCer()
    >>> reward(["<answer>等:¥476.0</answer>"], ["等:¥476.0"])
    [1.0]
    >>> reward(["<answer>等:¥475.0</answer>"], ["等:¥476.0"])  # 1 - 2/13
    [0.8461538461538461]
    >>> reward(["<answer>abx</answer>", "abc", "<answer></answer>"], ["abc", "abc", ""])  # the first: 1 - 1/3
    [0.6666666666666667, 1.0, 1.0]
    >>> WeightedCer(answer_mode="strict")(["abc"], ["abc"])
    [0.0]
    """

    important_chars: str = IMPORTANT_CHARS
    """Characters whose errors weigh `important_weight`."""
    important_weight: float = 2.0
    """Weight of an important character; all others weigh 1."""
    graphemes: bool = False
    """Count grapheme clusters instead of code points."""
    threads: int = 1
    """Threads that share a batch."""

    def __post_init__(self) -> None:
        """Refuses weights that make no metric."""
        super().__post_init__()
        if not (self.important_weight > 0 and np.isfinite(self.important_weight)):
            raise UserError(f"important_weight is {self.important_weight}; expected a positive finite number")
        if self.threads < 1:
            raise UserError(f"threads is {self.threads}; expected at least 1")

    def __call__(self, completions: Sequence[str], solution: Sequence[Any], **columns: Any) -> list[float]:
        """Scores each completion."""
        pairs = self.pairs(completions, solution)
        rates = weighted_cer_batch(
            [pair.reference for pair in pairs],
            [pair.answer for pair in pairs],
            important_chars=self.clean(self.important_chars)
            if self.normalization != "none"
            else self.important_chars,
            important_weight=self.important_weight,
            graphemes=self.graphemes,
            max_rate=1.0,
            threads=self.threads,
        )
        return [
            0.0 if self.refused(pair) else 1.0 - rate
            for pair, rate in zip(pairs, rates.tolist(), strict=True)
        ]
