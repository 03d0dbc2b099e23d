"""Reward `legacy_ocr`: math-verify or weighted CER, times confidence, without the faults of the original."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glyphrl.rewards.confidence import claimed_confidence
from glyphrl.rewards.math_verify import compare_expressions
from glyphrl.rewards.weighted_cer import WeightedCer

_ARITHMETIC = re.compile(r"[\d\s.,+\-*/^()=%×÷·]*\d[\d\s.,+\-*/^()=%×÷·]*")
_LATEX = re.compile(r"\$[^$]+\$|\\\(.+\\\)|\\\[.+\\\]|\\boxed\{.+\}", re.DOTALL)
_LONGEST = 1000


def is_expression(text: str) -> bool:
    r"""Whether `text` as a whole is a number, an arithmetical expression or a LaTeX formula.

    >>> [is_expression(t) for t in ("476.0", "1/2", r"$\frac{1}{2}$", "等:¥476.0", "476 kg", "")]
    [True, True, True, False, False, False]
    """
    if not text or len(text) > _LONGEST:
        return False
    return _ARITHMETIC.fullmatch(text) is not None or _LATEX.fullmatch(text) is not None


@dataclass(frozen=True)
class LegacyOcr(WeightedCer):
    r"""max(weighted CER score, math-verify), times the claimed confidence where that is asked for; in [0, 1].

    math-verify is asked only where reference and answer are expressions as a whole, so that two texts that
    merely hold the same number are not taken for equal. The confidence is clamped to [0, 1]; where none is
    claimed it counts as 1.

    >>> reward = LegacyOcr()
    >>> reward([r"<answer>$\frac{1}{2}$</answer>"], ["0.5"])
    [1.0]
    >>> reward(["<answer>等:¥475.0</answer>"], ["等:¥476.0"])  # 1 - 2/13, see weighted_cer
    [0.8461538461538461]
    >>> LegacyOcr(use_confidence=True)(["<answer>ab</answer><confidence>0.5</confidence>"], ["ab"])
    [0.5]
    >>> LegacyOcr(use_confidence=True)(["<answer>ab</answer><confidence>95</confidence>"], ["ab"])
    [1.0]
    """

    use_confidence: bool = False
    """Multiply by the claimed confidence."""
    time_limit: float = 5.0
    """Seconds for one comparison by math-verify."""

    def __call__(self, completions: Sequence[str], solution: Sequence[Any], **columns: Any) -> list[float]:
        """Scores each completion."""
        scores = super().__call__(completions, solution)
        pairs = self.pairs(completions, solution)
        compared = [
            i
            for i, pair in enumerate(pairs)
            if scores[i] < 1 and is_expression(pair.reference) and is_expression(pair.answer)
            if not self.refused(pair)
        ]
        if compared:
            expressions = [(pairs[i].reference, pairs[i].answer) for i in compared]
            for i, equal in zip(compared, compare_expressions(expressions, 1, self.time_limit), strict=True):
                if equal:
                    scores[i] = 1.0
        if self.use_confidence:
            claims = [claimed_confidence(completion) for completion in completions]
            scores = [s if c is None else s * c for s, c in zip(scores, claims, strict=True)]
        return scores
