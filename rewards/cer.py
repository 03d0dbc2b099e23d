"""Reward `cer`: 1 minus the character error rate."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from glyphrl.rewards.normalization import graphemes
from glyphrl.rewards.text_reward import TextReward


def error_rate_score(reference: Sequence[Hashable], answer: Sequence[Hashable]) -> float:
    """max(0, 1 - distance / length of the reference); an empty reference asks for an empty answer.

    >>> error_rate_score("kitten", "sitting")  # 1 - 3/6
    0.5
    >>> error_rate_score("ab", "abcdefg"), error_rate_score("", ""), error_rate_score("", "a")
    (0.0, 1.0, 0.0)
    """
    from rapidfuzz.distance import Levenshtein

    if not reference:
        return float(not answer)
    # A distance above the length scores 0 anyway, so it need not be exact.
    distance = Levenshtein.distance(reference, answer, score_cutoff=len(reference))
    return max(0.0, 1.0 - distance / len(reference))


@dataclass(frozen=True)
class Cer(TextReward):
    r"""max(0, 1 - CER), in [0, 1]; CER is the Levenshtein distance over the length of the reference.

    One more error (a greater distance) never scores higher.

    >>> Cer()(["<answer>kitten</answer>", "<answer>sitting</answer>"], ["kitten", "kitten"])
    [1.0, 0.5]
    >>> Cer(graphemes=True)(["<answer>e\u0301a</answer>"], ["e\u0300a"])  # one of two clusters is wrong
    [0.5]
    """

    graphemes: bool = False
    """Count grapheme clusters instead of code points."""

    def __call__(self, completions: Sequence[str], solution: Sequence[Any], **columns: Any) -> list[float]:
        """Scores each completion."""
        return [
            0.0
            if self.refused(pair)
            else error_rate_score(self._units(pair.reference), self._units(pair.answer))
            for pair in self.pairs(completions, solution)
        ]

    def _units(self, text: str) -> Sequence[str]:
        return graphemes(text) if self.graphemes else text
