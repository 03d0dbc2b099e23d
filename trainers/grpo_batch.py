"""What one generation yields: groups with completions, rewards and advantages, cut into micro-batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from glyphrl.rewards.compose import Scores
from glyphrl.trainers.completions_log import extra_column
from glyphrl.trainers.packing import Group, PackedGroups, RopeIndex, pack_groups
from glyphrl.trainers.prompts import EncodedPrompt
from glyphrl.trainers.rollout import Rollout


@dataclass(frozen=True)
class SampledGroup:
    """A prompt with the completions drawn for it."""

    prompt: EncodedPrompt
    rollouts: list[Rollout]
    texts: list[str]
    """Completions as text, without special tokens: what the reward functions read."""

    def packable(self) -> Group:
        """The group as the packer takes it."""
        prompt = self.prompt
        completions = [rollout.token_ids for rollout in self.rollouts]
        return Group(prompt.ids, completions, prompt.pixel_values, prompt.image_grid_thw)


@dataclass
class MicroBatch:
    """Groups of one forward and backward pass. C completions, T tokens at most."""

    packed: PackedGroups
    advantages: torch.Tensor
    """(C,)"""
    mask: torch.Tensor
    """(C, T): 1 for tokens that count in the loss."""
    sampler_logps: torch.Tensor | None
    """(C, T): NaN where the sampler gave none; None where it keeps none."""
    window_tokens: float
    """Tokens that count in one accumulation window, per rank on average."""
    old_logps: torch.Tensor | None = None
    """(C, T), where the step does not start from the sampled policy."""
    ref_logps: torch.Tensor | None = None
    """(C, T) under the reference model."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, torch.Tensor | PackedGroups) else value
            for name, value in vars(self).items()
        }
        return MicroBatch(**moved)


def columns_of(groups: Sequence[SampledGroup]) -> dict[str, list[Any]]:
    """Columns for the reward functions, one value per completion: solution, prompts, completion ids, extra keys."""
    extras = sorted({key for group in groups for key in group.prompt.sample.extra})
    columns: dict[str, list[Any]] = {name: [] for name in ("solution", "prompts", "completion_ids", *extras)}
    for group in groups:
        sample = group.prompt.sample
        for rollout in group.rollouts:
            columns["solution"].append(sample.solution)
            columns["prompts"].append(sample.prompt)
            columns["completion_ids"].append(rollout.token_ids)
            for key in extras:
                columns[key].append(sample.extra.get(key))
    return columns


def micro_batches(
    groups: Sequence[SampledGroup],
    advantages: torch.Tensor,
    *,
    count: int,
    rope_index: RopeIndex,
    pad_token_id: int,
    mask_truncated: bool,
) -> list[MicroBatch]:
    """Cuts groups into `count` micro-batches of equally many groups, in order.

    Args:
        groups: Groups of one rank.
        advantages: (completions of all groups,).
        count: Micro-batches; it divides the number of groups.
        rope_index: Positions of the model.
        pad_token_id: Fills rows to equal length.
        mask_truncated: Completions cut off at the length limit do not count in the loss.
    """
    if len(groups) % count:
        raise ValueError(f"{len(groups)} groups cannot be cut into {count} equal micro-batches")
    size = len(groups) // count
    batches = []
    start = 0
    for first in range(0, len(groups), size):
        part = groups[first : first + size]
        packed = pack_groups([group.packable() for group in part], rope_index, pad_token_id)
        rollouts = [rollout for group in part for rollout in group.rollouts]
        batches.append(
            MicroBatch(
                packed=packed,
                advantages=advantages[start : start + len(rollouts)],
                mask=loss_mask(rollouts, mask_truncated),
                sampler_logps=sampler_logps(rollouts),
                window_tokens=1.0,
            )
        )
        start += len(rollouts)
    return batches


def loss_mask(rollouts: Sequence[Rollout], mask_truncated: bool) -> torch.Tensor:
    """(C, T): 1 where a token counts in the loss."""
    kept = [0.0 if mask_truncated and rollout.finish_reason == "length" else 1.0 for rollout in rollouts]
    rows = [torch.full((len(r.token_ids),), value) for r, value in zip(rollouts, kept, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def sampler_logps(rollouts: Sequence[Rollout]) -> torch.Tensor | None:
    """(C, T) log-probabilities by the sampler; None where it keeps none."""
    rows = []
    for rollout in rollouts:
        if rollout.logps is None:
            return None
        rows.append(torch.tensor(rollout.logps))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@dataclass(frozen=True)
class RunPlace:
    """Where in the run a generation happened."""

    run: str
    step: int
    epoch: float
    rank: int
    stage: str = "grpo"
    time: float = field(default_factory=time.time)


def log_rows(
    groups: Sequence[SampledGroup],
    scores: Scores,
    advantages: np.ndarray,
    place: RunPlace,
    spec_hash: str,
    hashes: dict[str, str],
) -> list[dict[str, Any]]:
    """Rows of the completions log, see `completions_log.COLUMNS`.

    Args:
        groups: Groups of one rank.
        scores: Of all their completions, in order.
        advantages: (C,), one per completion.
        place: Run, step and rank.
        spec_hash: Hash of the reward's definition.
        hashes: Content hash of each image path.
    """
    rows: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        sample = group.prompt.sample
        images = [{"path": path, "sha256": hashes[path]} for path in sample.images]
        for index, (rollout, text) in enumerate(zip(group.rollouts, group.texts, strict=True)):
            at = len(rows)
            rows.append(
                {
                    **vars(place),
                    "group_id": f"{place.step}-{place.rank}-{number}",
                    "sample_id": sample.id,
                    "completion_index": index,
                    "prompt": group.prompt.text,
                    "images": images,
                    "solution": sample.solution,
                    "completion": text,
                    "answer": scores.answers[at],
                    "format_fault": scores.faults[at],
                    "finish_reason": rollout.finish_reason,
                    "num_tokens": len(rollout.token_ids),
                    "mean_logprob": mean_or_none(rollout.logps),
                    "reward": none_for_nan(scores.reward[at]),
                    "advantage": float(advantages[at]),
                    "reward_spec_hash": spec_hash,
                    **{extra_column(name): values[at] for name, values in scores.extras.items()},
                }
            )
    return rows


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Scores of several chunks of completions as those of all of them, in order."""
    if len(parts) == 1:
        return parts[0]
    sizes = [len(part.reward) for part in parts]
    extras = {name for part in parts for name in part.extras}
    metrics = {}
    for name in {name for part in parts for name in part.metrics}:
        values = [
            (part.metrics[name], size)
            for part, size in zip(parts, sizes, strict=True)
            if name in part.metrics
        ]
        total = sum(value * size for value, size in values)
        # counts add up, everything else is a mean
        metrics[name] = (
            sum(value for value, _ in values)
            if name.endswith("/skipped")
            else total / sum(size for _, size in values)
        )
    return Scores(
        per_function={
            name: np.concatenate([part.per_function[name] for part in parts])
            for name in parts[0].per_function
        },
        reward=np.concatenate([part.reward for part in parts]),
        answers=[answer for part in parts for answer in part.answers],
        faults=[fault for part in parts for fault in part.faults],
        extras={
            name: [
                value
                for part, size in zip(parts, sizes, strict=True)
                for value in part.extras.get(name, [None] * size)
            ]
            for name in extras
        },
        metrics=metrics,
    )


def mean_or_none(values: Sequence[float] | None) -> float | None:
    """The mean of what is a number; None for nothing."""
    known = [value for value in values or () if value == value]
    return sum(known) / len(known) if known else None


def none_for_nan(value: float) -> float | None:
    """A number, or None where it is NaN."""
    return None if value != value else float(value)
