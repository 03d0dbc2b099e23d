"""How rewards move over training: curves by step, and the change from the first third to the last."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from glyphrl.evaluation.bootstrap import Interval
from glyphrl.evaluation.compare.measure import Measured
from glyphrl.evaluation.compare.report import Curves, Trend
from glyphrl.evaluation.compare.resampling import correlation

_NORMAL = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def mean_by(index: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Mean of the values (N,) that are not NaN, for each index 0 to count - 1; NaN where there is none."""
    known = ~np.isnan(values)
    below = np.bincount(index[known], minlength=count)
    total = np.bincount(index[known], values[known], minlength=count)
    return np.where(below > 0, total / np.maximum(below, 1), np.nan)


def build_curves(
    step: np.ndarray,
    group: np.ndarray,
    rewards: Mapping[str, np.ndarray],
    truths: Mapping[str, np.ndarray],
    length: np.ndarray,
    measured: Measured,
) -> Curves:
    """Curves by step; a group belongs to the step of its completions.

    Args:
        step: (N,) steps.
        group: (N,) groups.
        rewards: Name -> (N,).
        truths: Name -> (N,).
        length: (N,) characters.
        measured: Of the same completions.
    """
    steps, by_row = np.unique(step, return_inverse=True)
    count = len(steps)
    by_group = np.zeros(int(group.max()) + 1, np.int64)
    by_group[group] = by_row
    of_rewards = {}
    truth = next(iter(truths))
    for name, values in rewards.items():
        own = measured.rewards[name]
        flat = np.where(own.count >= 2, own.flat, np.nan)
        of_rewards[name] = {
            "mean": mean_by(by_row, values, count),
            "spread": mean_by(by_group, own.std, count),
            "zero_spread": mean_by(by_group, flat, count),
            "kendall": mean_by(by_group, measured.pairs[name, truth].kendall, count),
        }
    pairs = {}
    for a, b in combinations(rewards, 2):
        x, y = measured.rewards[a].advantages, measured.rewards[b].advantages
        known = ~np.isnan(x + y)
        sums = [np.bincount(by_row[known], (p * q)[known], count) for p, q in ((x, y), (x, x), (y, y))]
        pairs[f"{a} | {b}"] = {
            "kendall": mean_by(by_group, measured.pairs[a, b].kendall, count),
            "cosine": correlation(*sums),
        }
    return Curves(
        steps=steps,
        rewards=of_rewards,
        truths={name: mean_by(by_row, values, count) for name, values in truths.items()},
        length=mean_by(by_row, length, count),
        pairs=pairs,
    )


def build_trends(step: np.ndarray, group: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, Trend]:
    """The mean over the first third of the steps against that over the last.

    The groups' means are what varies: the interval of the difference is the normal one (Welch). Fewer than three
    steps, or two groups on either side, show no trend.
    """
    steps = np.unique(step)
    if len(steps) < 3:
        return {}
    third = len(steps) // 3
    groups = int(group.max()) + 1
    of_group = np.zeros(groups, step.dtype)
    of_group[group] = step
    early, late = of_group <= steps[third - 1], of_group >= steps[-third]
    trends = {}
    for name, values in columns.items():
        means = mean_by(group, values, groups)
        before, after = (means[side & ~np.isnan(means)] for side in (early, late))
        if min(len(before), len(after)) < 2:
            continue
        change = float(after.mean() - before.mean())
        margin = _NORMAL * float(np.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after)))
        interval = Interval(change, change - margin, change + margin)
        trends[name] = Trend(float(before.mean()), float(after.mean()), interval)
    return trends
