"""Reward `wer`: 1 minus the word error rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glyphrl.rewards.cer import error_rate_score
from glyphrl.rewards.text_reward import TextReward


@dataclass(frozen=True)
class Wer(TextReward):
    """max(0, 1 - WER), in [0, 1]; WER is the Levenshtein distance in words over the words of the reference.

    Words are what white space separates. Scripts that write none (Chinese, Japanese, Thai) have one word per
    line; use `cer` or `weighted_cer` there. One more wrong word never scores higher.

    >>> Wer()(["<answer>the cat</answer>"], ["the black cat"])
    [0.6666666666666667]
    >>> Wer()(["<answer></answer>", "<answer>a</answer>"], ["a b", ""])
    [0.0, 0.0]
    """

    def __call__(self, completions: Sequence[str], solution: Sequence[Any], **columns: Any) -> list[float]:
        """Scores each completion."""
        return [
            0.0 if self.refused(pair) else error_rate_score(pair.reference.split(), pair.answer.split())
            for pair in self.pairs(completions, solution)
        ]
