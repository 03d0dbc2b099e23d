"""Reward `repetition`: a penalty for text that goes round in circles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glyphrl.errors import UserError
from glyphrl.rewards.parsing import parse_answer
from glyphrl.rewards.text_reward import check_lengths


def repetition(text: str, ngram: int) -> float:
    """Share of the character n-grams that occurred before, in [0, 1); 0 for texts without two n-grams.

    >>> repetition("abcabcabc", 3)  # abc bca cab, and then four that occurred before
    0.5714285714285714
    >>> repetition("发票发票发票", 2)  # 发票 票发 发票 票发 发票: two different ones of five
    0.6
    >>> repetition("abc", 4)
    0.0
    """
    total = len(text) - ngram + 1
    if total < 2:
        return 0.0
    return 1.0 - len({text[i : i + ngram] for i in range(total)}) / total


@dataclass(frozen=True)
class Repetition:
    """-(share of repeated character n-grams in the answer, above that of the reference), in [-1, 0].

    Characters, not words: it works where no white space is written. What the reference itself repeats (dotted
    lines, forms) costs nothing. Saying the same again never scores higher. After "Demystifying Long
    Chain-of-Thought Reasoning" (arXiv 2502.03373), which counts words.

    >>> Repetition(ngram=3)(["<answer>abcabcabc</answer>", "<answer>abcdef</answer>"], ["abc", "abc"])
    [-0.5714285714285714, 0.0]
    >>> Repetition(ngram=3)(["<answer>.......</answer>"], ["......."])
    [0.0]
    """

    ngram: int = 6
    """Characters in an n-gram. Small values punish ordinary text, where short strings recur."""
    scope: Literal["answer", "completion"] = "answer"
    """Look at the answer alone, or at everything that was written."""

    def __post_init__(self) -> None:
        """Refuses n-grams of nothing."""
        if self.ngram < 1:
            raise UserError(f"ngram is {self.ngram}; expected at least 1")

    def __call__(self, completions: Sequence[str], solution: Sequence[Any], **columns: Any) -> list[float]:
        """Scores each completion."""
        check_lengths(completions, solution)
        scores = []
        for completion, reference in zip(completions, solution, strict=True):
            text = parse_answer(completion).answer if self.scope == "answer" else completion
            allowed = repetition(reference, self.ngram) if isinstance(reference, str) else 0.0
            scores.append(-max(0.0, repetition(text, self.ngram) - allowed) + 0.0)  # + 0.0: no negative zero
        return scores
