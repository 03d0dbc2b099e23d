"""Prompts encoded ahead of time: the next batch's images are decoded while the step runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from glyphrl.trainers.prompts import EncodedPrompt


class PromptReader:
    """Encodes the prompts of samples, those of the next batch in a thread."""

    def __init__(self, encode: Callable[[Sequence[int]], list[EncodedPrompt]]) -> None:
        """Reads through `encode`, which takes indices of samples."""
        self.encode = encode
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")
        self.ahead: tuple[tuple[int, ...], Future[list[EncodedPrompt]]] | None = None

    def begin(self, indices: Sequence[int]) -> None:
        """Starts to encode what will be asked for next."""
        key = tuple(indices)
        if self.ahead is None or self.ahead[0] != key:
            self.ahead = (key, self.thread.submit(self.encode, key))

    def read(self, indices: Sequence[int]) -> list[EncodedPrompt]:
        """The prompts, from the thread where it has begun with these very ones.

        Raises:
            UserError: A sample cannot be read; of samples ahead of time, only once they are asked for.
        """
        if self.ahead is not None and self.ahead[0] == tuple(indices):
            prompts = self.ahead[1].result()
            self.ahead = None
            return prompts
        return self.encode(indices)
