"""Group-relative advantages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

EPSILON = 1e-4  # keeps a group of equal rewards from dividing by zero; TRL's value


@dataclass(frozen=True)
class Advantages:
    """Advantages of all completions of a step, with what is worth logging."""

    values: np.ndarray
    """(C,): 0 where a completion could not be scored."""
    zero_spread: np.ndarray
    """(groups,) bool: all rewards of the group are equal, so it teaches nothing."""


def group_advantages(
    rewards: np.ndarray, num_generations: int, scale_rewards: Literal["group", "batch", "none"]
) -> Advantages:
    """Reward minus the group's mean, divided by a standard deviation (GRPO; Shao et al. 2024, equation 4).

    Args:
        rewards: (C,), groups one after the other over all ranks; NaN where no reward function applied.
        num_generations: Completions per group.
        scale_rewards: Standard deviation (with Bessel's correction) of the `group`, of the whole `batch`, or `none`.
    """
    if rewards.size % num_generations:
        raise ValueError(f"{rewards.size} rewards are no whole number of groups of {num_generations}")
    groups = rewards.astype(np.float64).reshape(-1, num_generations)
    scored = ~np.isnan(groups)
    count = np.maximum(scored.sum(1, keepdims=True), 1)
    centred = np.where(scored, groups - np.nansum(groups, 1, keepdims=True) / count, 0.0)
    spread = np.sqrt((centred**2).sum(1, keepdims=True) / np.maximum(count - 1, 1))
    flat = np.isclose(spread, 0.0)
    centred = np.where(
        flat, 0.0, centred
    )  # what is left there is rounding, which a small spread would blow up
    if scale_rewards == "none":
        values = centred
    elif scale_rewards == "group":
        values = centred / (spread + EPSILON)
    elif scale_rewards == "batch":
        known = groups[scored]
        values = centred / ((known.std(ddof=1) if known.size > 1 else 0.0) + EPSILON)
    else:
        raise ValueError(f"unknown scale_rewards {scale_rewards!r}; known: group, batch, none")
    return Advantages(values.reshape(-1), flat[:, 0])
