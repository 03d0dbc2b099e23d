"""From the scores of several functions to one reward per completion: gates, weights, sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def gate(values: np.ndarray, required: np.ndarray, multiply: bool) -> np.ndarray:
    """Lets `values` count only as far as another function allows. A gate never raises a score.

    Args:
        values: (N,) scores to be gated, NaN where there is none.
        required: (N,) scores of the gating function, taken as clamped to [0, 1]; NaN leaves the gate open.
        multiply: Multiply by the gating score; else 0 unless it is 1.

    Returns:
        (N,) the lower of the score and the gated score.

    >>> gate(np.array([0.8, 0.8, -0.5, 0.8]), np.array([1.0, 0.5, 0.0, np.nan]), multiply=True).tolist()
    [0.8, 0.4, -0.5, 0.8]
    >>> gate(np.array([0.8, 0.8]), np.array([1.0, 0.5]), multiply=False).tolist()
    [0.8, 0.0]
    """
    factor = np.clip(np.where(np.isnan(required), 1.0, required), 0.0, 1.0)
    if not multiply:
        factor = (factor >= 1.0).astype(float)
    return np.minimum(values, values * factor)


def weighted_sum(values: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Sum over the functions that apply to each completion.

    Args:
        values: (F, N), NaN where a function does not apply.
        weights: (F,).

    Returns:
        (N,) float64; NaN where no function applies.

    >>> weighted_sum(np.array([[1.0, np.nan, np.nan], [0.5, 0.5, np.nan]]), [1.0, 0.2]).tolist()
    [1.1, 0.1, nan]
    """
    if values.shape[0] == 0:
        return np.full(values.shape[1], np.nan)
    total = np.nansum(values * np.asarray(weights, float)[:, None], axis=0)
    return np.where(np.isnan(values).all(axis=0), np.nan, total)


def standardise(values: np.ndarray, groups: Sequence[object]) -> np.ndarray:
    """Subtracts the mean and divides by the standard deviation, function by function and group by group.

    Every function then has the same say whatever its scale (normalise, then sum; TRL's `normalize_then_sum`).
    Where a group has no spread the result is 0.

    Args:
        values: (F, N), NaN where a function does not apply.
        groups: (N,) what a completion's group is called.

    Returns:
        (F, N), NaN where `values` is.

    >>> standardise(np.array([[1.0, 3.0, 5.0, 5.0]]), ["a", "a", "b", "b"]).tolist()
    [[-1.0, 1.0, 0.0, 0.0]]
    """
    result = np.full(values.shape, np.nan)
    members: dict[object, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    for rows in members.values():
        for f in range(values.shape[0]):
            part = values[f, rows]
            known = part[~np.isnan(part)]
            if known.size:
                centred = part - known.mean()
                spread = known.std()
                # Equal scores may differ by rounding; dividing by that would blow noise up.
                flat = spread <= 1e-12 * max(1.0, float(np.abs(known).max()))
                result[f, rows] = np.where(np.isnan(part), np.nan, 0.0) if flat else centred / spread
    return result
