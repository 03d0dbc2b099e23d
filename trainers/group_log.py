"""Writing what one generation has sampled to the completions log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glyphrl.data.images import image_hash
from glyphrl.rewards.compose import Scores
from glyphrl.trainers.completions_log import CompletionsLog, LogKey
from glyphrl.trainers.grpo_batch import RunPlace, SampledGroup, log_rows, none_for_nan


class GroupLog:
    """Writes one file per generation, several where a step samples more than once."""

    def __init__(self, log: CompletionsLog, spec_hash: str) -> None:
        """Writes to `log` completions scored by the reward with this hash."""
        self.log = log
        self.spec_hash = spec_hash
        self.hashes: dict[str, str] = {}
        """Content hash of each image seen so far."""
        self._step = -1
        self._files = self._groups = 0

    def hash_images(self, groups: Sequence[SampledGroup]) -> None:
        """Brings `hashes` up to date with the images of some groups."""
        for path in {path for group in groups for path in group.prompt.sample.images}:
            if path not in self.hashes:
                self.hashes[path] = image_hash(path)

    def write(
        self, place: RunPlace, groups: Sequence[SampledGroup], scores: Scores, advantages: np.ndarray
    ) -> None:
        """Writes all completions of some groups.

        Args:
            place: Run, step and rank.
            groups: Groups of this rank.
            scores: Of their C completions.
            advantages: (C,).
        """
        self.hash_images(groups)
        if place.step != self._step:
            self._step, self._files, self._groups = place.step, 0, 0
        rows = log_rows(groups, scores, advantages, place, self.spec_hash, self.hashes, self._groups)
        rewards = {name: [none_for_nan(v) for v in values] for name, values in scores.per_function.items()}
        self.log.write(LogKey(place.step, place.rank, self._files), rows, rewards)
        self._files += 1
        self._groups += len(groups)
