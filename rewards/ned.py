"""Reward `ned`: normalised edit similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glyphrl.rewards.text_reward import TextReward


def edit_similarity(reference: str, answer: str) -> float:
    """1 - (Levenshtein distance) / (length of the longer text), in [0, 1]; 1 for two empty texts.

    >>> edit_similarity("kitten", "sitting")  # 1 - 3/7
    0.5714285714285714
    >>> edit_similarity("", ""), edit_similarity("", "a")
    (1.0, 0.0)
    """
    from rapidfuzz.distance import Levenshtein

    longer = max(len(reference), len(answer))
    return 1.0 - Levenshtein.distance(reference, answer) / longer if longer else 1.0


@dataclass(frozen=True)
class Ned(TextReward):
    """1 - distance / (length of the longer of answer and reference), in [0, 1]; its mean is `text_acc`.

    Two empty texts score 1. Softer than `cer` on answers that are too long: they never reach 0 by length
    alone. Replacing a right character by a wrong one never scores higher.

    >>> Ned()(["<answer>476.0</answer>", "<answer>475.0</answer>"], ["476.0", "476.0"])
    [1.0, 0.8]
    >>> Ned()(["<answer></answer>", "<answer></answer>"], ["", "ab"])
    [1.0, 0.0]
    """

    def __call__(self, completions: Sequence[str], solution: Sequence[Any], **columns: Any) -> list[float]:
        """Scores each completion."""
        return [
            0.0 if self.refused(pair) else edit_similarity(pair.reference, pair.answer)
            for pair in self.pairs(completions, solution)
        ]
