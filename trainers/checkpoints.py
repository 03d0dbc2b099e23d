"""Going on from a checkpoint as if the run had never stopped: all weights, and the samples in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from trl.trainer.utils import RepeatSampler

from glyphrl.trainers.models import is_adapter


class WholeCheckpoints(Trainer):
    """A Trainer that takes all weights out of its checkpoints; to be named before the trainer that it mends.

    transformers saves Qwen-VL models under the names of their published checkpoints (`visual.*`). `from_pretrained`
    translates them to those of the module (`model.visual.*`), the Trainer does not: resuming, and loading the best
    model at the end, would leave the weights as they are, with no more than a warning
    (https://github.com/huggingface/transformers/issues/43701). Where a checkpoint holds a second adapter in a folder
    of its own, as TRL's reference adapter is, the Trainer would load that one alone.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        if not is_adapter(resume_from_checkpoint):
            load_weights(model, resume_from_checkpoint)
            return
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        model.load_adapter(resume_from_checkpoint, model.active_adapters[0], is_trainable=True)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if self.is_deepspeed_enabled or is_adapter(best):
            super()._load_best_model()
        else:
            load_weights(self.model, best)


class EpochSampler(RepeatSampler):
    """TRL's sampler of groups, in the order that belongs to the epoch.

    TRL's own draws a new order each time it is asked: a run resumed in its second epoch would begin with the order of
    the first one again.
    """

    def __init__(self, *args: Any, epoch: Callable[[], int], **kwargs: Any) -> None:
        """TRL's arguments, and how to ask which epoch the run is in."""
        super().__init__(*args, **kwargs)
        self.epoch = epoch
        self.order = torch.arange(self.num_samples)
        """Samples of the epoch, in order."""

    def __iter__(self) -> Iterator[int]:
        """The indices of one epoch."""
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch()):
                torch.randperm(self.num_samples, generator=self.generator)
            state = self.generator.get_state()
            self.order = torch.randperm(self.num_samples, generator=self.generator)
            self.generator.set_state(state)
        yield from super().__iter__()

    def after(self, indices: Sequence[int], ranks: int) -> list[int] | None:
        """The samples that a rank gets next after these; None at the end of an epoch.

        Args:
            indices: The rank's present samples.
            ranks: Ranks that share the epoch, each with as many samples at a time.
        """
        place = (self.order == indices[0]).nonzero()
        start = int(place) + len(indices) * ranks if len(place) == 1 else self.num_samples
        following = self.order[start : start + len(indices)].tolist()
        return following if len(following) == len(indices) else None


def load_weights(model: Any, folder: str | Path) -> None:
    """Copies the weights of a saved model into one of the same kind, each and every one.

    Args:
        model: A transformers model.
        folder: Where `save_pretrained` has put another one.

    Raises:
        RuntimeError: The two are not of the same shape.
    """
    saved = type(model).from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
