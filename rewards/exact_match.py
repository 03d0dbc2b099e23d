"""Reward `exact_match`: all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glyphrl.rewards.text_reward import TextReward


@dataclass(frozen=True)
class ExactMatch(TextReward):
    """1 where the answer equals the reference after normalisation, else 0.

    >>> ExactMatch()(["<answer>476.0</answer>", "<answer>476</answer>"], ["476.0", "476.0"])
    [1.0, 0.0]
    >>> ExactMatch(normalization="nfkc", fold_whitespace=True)(["<answer>４７６  kg</answer>"], ["476 kg"])
    [1.0]
    >>> ExactMatch(ignore_case=True)(["<answer>Total</answer>"], ["TOTAL"])
    [1.0]
    """

    ignore_case: bool = False
    """Treat upper and lower case as equal (Unicode case folding)."""

    def __call__(self, completions: Sequence[str], solution: Sequence[Any], **columns: Any) -> list[float]:
        """Scores each completion."""
        return [
            float(not self.refused(pair) and self._key(pair.reference) == self._key(pair.answer))
            for pair in self.pairs(completions, solution)
        ]

    def _key(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text
