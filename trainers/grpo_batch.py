"""What one generation yields: groups with their completions, their columns for the rewards, their rows in the log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glyphrl.rewards.compose import Scores
from glyphrl.trainers.completions_log import extra_column
from glyphrl.trainers.prompts import EncodedPrompt
from glyphrl.trainers.rollout import Rollout


@dataclass(frozen=True)
class SampledGroup:
    """A prompt with the completions drawn for it."""

    prompt: EncodedPrompt
    rollouts: list[Rollout]
    texts: list[str]
    """Completions as text, without special tokens: what the reward functions read."""


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
    first_group: int = 0,
) -> list[dict[str, Any]]:
    """Rows of the completions log, see `completions_log.COLUMNS`.

    Further columns of the samples, and what rewards logged, stand beside them: a reward that is tried later on the log
    alone gets what it would have got in training.

    Args:
        groups: Groups of one rank.
        scores: Of all their completions, in order.
        advantages: (C,), one per completion.
        place: Run, step and rank.
        spec_hash: Hash of the reward's definition.
        hashes: Content hash of each image path.
        first_group: Groups that this rank has logged in this step before.
    """
    rows: list[dict[str, Any]] = []
    data = {key: extra_column(key) for group in groups for key in group.prompt.sample.extra}
    logged = {
        name: f"extra/{name}" if extra_column(name) in data.values() else extra_column(name)
        for name in scores.extras
    }
    for number, group in enumerate(groups, start=first_group):
        sample = group.prompt.sample
        columns = {column: sample.extra.get(key) for key, column in data.items()}
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
                    **columns,
                    **{logged[name]: values[at] for name, values in scores.extras.items()},
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


def rows_of(groups: Sequence[int], num_generations: int) -> list[int]:
    """Indices of the completions of some groups, all groups being of the same size."""
    return [group * num_generations + number for group in groups for number in range(num_generations)]


def take_scores(scores: Scores, rows: Sequence[int]) -> Scores:
    """The scores of some completions, in the order of `rows`; scalars that rewards logged stay as they are."""
    picked = list(rows)
    return Scores(
        per_function={name: values[picked] for name, values in scores.per_function.items()},
        reward=scores.reward[picked],
        answers=[scores.answers[row] for row in picked],
        faults=[scores.faults[row] for row in picked],
        extras={name: [values[row] for row in picked] for name, values in scores.extras.items()},
        metrics=scores.metrics,
    )


def mean_or_none(values: Sequence[float] | None) -> float | None:
    """The mean of what is a number; None for nothing."""
    known = [value for value in values or () if value == value]
    return sum(known) / len(known) if known else None


def none_for_nan(value: float) -> float | None:
    """A number, or None where it is NaN."""
    return None if value != value else float(value)
