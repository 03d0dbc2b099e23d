"""Reward `lines`: pages of text, where lines may be found in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glyphrl.errors import UserError
from glyphrl.rewards.normalization import normalize
from glyphrl.rewards.text_reward import TextReward


@dataclass(frozen=True)
class LineScore:
    """The parts of the score, each in [0, 1]."""

    similarity: float
    """1 - (edits under the best assignment of lines) / (characters of the reference)."""
    order: float
    """The same, for the best assignment that keeps the order of the lines."""
    count: float
    """(Smaller number of lines) / (greater number of lines)."""

    def total(self, order_weight: float, count_weight: float) -> float:
        """((1 - wo) * similarity + wo * order) * (1 - wc * (1 - count))."""
        text = (1.0 - order_weight) * self.similarity + order_weight * self.order
        return text * (1.0 - count_weight * (1.0 - self.count))


def score_lines(reference: Sequence[str], answer: Sequence[str]) -> LineScore:
    """Compares two pages, given as lines that are not empty.

    A line without partner costs its length. Two empty pages score 1 throughout, one empty page 0.

    >>> score_lines(["ab", "cd"], ["ab", "cd"])
    LineScore(similarity=1.0, order=1.0, count=1.0)
    >>> score_lines(["ab", "cd"], ["cd", "ab"])  # in order, one line can keep its partner: 1 - 4/4
    LineScore(similarity=1.0, order=0.0, count=1.0)
    >>> score_lines(["abcd", "ef"], ["abxd"])  # 1 + 2 edits of 6
    LineScore(similarity=0.5, order=0.5, count=0.5)
    """
    if not reference or not answer:
        same = float(len(reference) == len(answer))
        return LineScore(same, same, same)
    lengths_r, lengths_a = np.array([*map(len, reference)]), np.array([*map(len, answer)])
    count = min(len(reference), len(answer)) / max(len(reference), len(answer))
    total = int(lengths_r.sum())
    if int(lengths_a.sum()) >= 2 * total:
        return LineScore(0.0, 0.0, count)  # more surplus than reference: no assignment can score
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist
    from scipy.optimize import linear_sum_assignment

    edits = cdist(reference, answer, scorer=Levenshtein.distance, dtype=np.int64)
    # What a partnership saves against leaving both lines alone; never negative.
    savings = lengths_r[:, None] + lengths_a[None, :] - edits
    alone = total + int(lengths_a.sum())
    free = alone - int(savings[linear_sum_assignment(savings, maximize=True)].sum())
    ordered = alone - _best_in_order(savings)
    return LineScore(max(0.0, 1.0 - free / total), max(0.0, 1.0 - ordered / total), count)


def _best_in_order(savings: np.ndarray) -> int:
    """Greatest total of an assignment without crossings, (n, m) -> int."""
    best = np.zeros(savings.shape[1] + 1, np.int64)
    for row in savings:
        best[1:] = np.maximum.accumulate(np.maximum(best[1:], best[:-1] + row))
    return int(best[-1])


@dataclass(frozen=True)
class Lines(TextReward):
    r"""Similarity of two pages under the best assignment of their lines, in [0, 1].

    ((1 - order_weight) * similarity + order_weight * order) * (1 - count_weight * (1 - count)); see
    `LineScore`. Lines are stripped and empty ones dropped. Line breaks matter: for running text that may be
    broken anywhere use `weighted_cer` with `fold_whitespace`. One more wrong character never scores higher.

    >>> Lines()(["<answer>ab\ncd</answer>", "<answer>cd\nab</answer>"], ["ab\ncd", "ab\ncd"])
    [1.0, 0.8]
    >>> Lines()(["<answer>abcd</answer>"], ["abcd\nef"])  # (0.8 * 4/6 + 0.2 * 4/6) * (1 - 0.1 * 0.5)
    [0.6333333333333334]
    """

    order_weight: float = 0.2
    """Share of the score that only lines in the right order earn."""
    count_weight: float = 0.1
    """How much a wrong number of lines takes away."""

    def __post_init__(self) -> None:
        """Refuses weights that would leave [0, 1]."""
        super().__post_init__()
        for name in ("order_weight", "count_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected a number from 0 to 1")

    def __call__(self, completions: Sequence[str], solution: Sequence[Any], **columns: Any) -> list[float]:
        """Scores each completion."""
        return [
            0.0
            if self.refused(pair)
            else score_lines(pair.reference.splitlines(), pair.answer.splitlines()).total(
                self.order_weight, self.count_weight
            )
            for pair in self.pairs(completions, solution)
        ]

    def clean(self, text: str) -> str:
        """Normalises line by line, so that folding white space keeps the lines."""
        lines = (
            normalize(line, self.normalization, self.fold_whitespace).strip() for line in text.splitlines()
        )
        return "\n".join(line for line in lines if line)
