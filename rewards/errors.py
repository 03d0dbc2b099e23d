"""Errors of scoring."""

from __future__ import annotations

from glyphrl.errors import UserError


class RewardError(UserError):
    """A reward function failed on a completion: it raised, returned no score, crashed or hung.

    It is never turned into a score: a bug in a scorer would train the model.

    Attributes:
        reward: Name of the reward function.
        index: Position of the completion in the scored batch, or None where the whole call failed.
    """

    def __init__(self, message: str, reward: str | None = None, index: int | None = None) -> None:
        super().__init__(message)
        self.reward = reward
        self.index = index


def excerpt(text: object, limit: int = 200) -> str:
    """`text` quoted on one line, at most about `limit` characters, cut in the middle.

    >>> excerpt("a" * 30, limit=10)
    "'aaaaa' ... 'aaaaa' (30 characters)"
    """
    if not isinstance(text, str):
        text = repr(text)
        return text if len(text) <= limit else f"{text[:limit]} ..."
    if len(text) <= limit:
        return ascii_safe(text)
    half = limit // 2
    return f"{ascii_safe(text[:half])} ... {ascii_safe(text[-half:])} ({len(text):,} characters)"


def ascii_safe(text: str) -> str:
    """`repr` that can always be encoded: lone surrogates stand as escapes."""
    return repr(text).encode("utf-8", "backslashreplace").decode("utf-8")
