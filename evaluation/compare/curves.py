"""How rewards move over training: curves by step, and the change from the first third to the last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Steps:
    """Which step each completion and each group belongs to, as indices 0 to count - 1."""

    row: np.ndarray
    group: np.ndarray
    count: int

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Mean over the completions of each step, (S,)."""
        return mean_by(self.row, values, self.count)

    def groups(self, values: np.ndarray) -> np.ndarray:
        """Mean over the groups of each step, (S,)."""
        return mean_by(self.group, values, self.count)

    def correlation(self, x: np.ndarray, y: np.ndarray, centred: bool) -> np.ndarray:
        """Correlation over the completions of each step that have both; `centred`: their means are 0. (S,)."""
        known = ~np.isnan(x + y)
        index, x, y = self.row[known], x[known], y[known]

        def total(values: np.ndarray) -> np.ndarray:
            return np.bincount(index, values, self.count)

        if not centred:
            n = np.maximum(np.bincount(index, minlength=self.count), 1)
            x, y = x - (total(x) / n)[index], y - (total(y) / n)[index]
        return correlation(total(x * y), total(x * x), total(y * y))

    def extreme(self, values: np.ndarray, least: bool) -> np.ndarray:
        """The least or the greatest value of each step, (S,)."""
        found = np.full(self.count, np.nan)
        (np.fmin if least else np.fmax).at(found, self.row, values)
        return found


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
    names, by_row = np.unique(step, return_inverse=True)
    by_group = np.zeros(int(group.max()) + 1, np.int64)
    by_group[group] = by_row
    steps = _Steps(by_row, by_group, len(names))
    return Curves(
        steps=names,
        rewards={name: _of_reward(steps, name, values, measured) for name, values in rewards.items()},
        against={
            name: {
                truth: _against(steps, name, values, truth, true, measured) for truth, true in truths.items()
            }
            for name, values in rewards.items()
        },
        truths={name: steps.rows(values) for name, values in truths.items()},
        length=steps.rows(length),
        pairs={f"{a} | {b}": _of_pair(steps, a, b, measured) for a, b in combinations(rewards, 2)},
    )


def _of_reward(steps: _Steps, name: str, values: np.ndarray, measured: Measured) -> dict[str, np.ndarray]:
    own = measured.rewards[name]
    known = ~np.isnan(values)
    low, high = np.nanmin(values), np.nanmax(values)
    mean = steps.rows(values)
    reward, length, _ = measured.centred[name].T
    return {
        "mean": mean,
        "std": np.sqrt(steps.rows((values - mean[steps.row]) ** 2)),
        "low": steps.extreme(values, least=True),
        "high": steps.extreme(values, least=False),
        "at_floor": steps.rows(np.where(known, values <= low, np.nan)),
        "at_ceiling": steps.rows(np.where(known, values >= high, np.nan)),
        "spread": steps.groups(own.std),
        "zero_spread": steps.groups(np.where(own.count >= 2, own.flat, np.nan)),
        "length": steps.correlation(reward, length, centred=True),
    }


def _against(
    steps: _Steps, name: str, values: np.ndarray, truth: str, true: np.ndarray, measured: Measured
) -> dict[str, np.ndarray]:
    pair = measured.pairs[name, truth]
    return {
        "spearman": steps.groups(pair.spearman),
        "kendall": steps.groups(pair.kendall),
        "correlation": steps.correlation(values, true, centred=False),
        "regret": steps.groups(pair.regret),
    }


def _of_pair(steps: _Steps, a: str, b: str, measured: Measured) -> dict[str, np.ndarray]:
    pair = measured.pairs[a, b]
    x, y = measured.rewards[a].advantages, measured.rewards[b].advantages
    return {
        "spearman": steps.groups(pair.spearman),
        "kendall": steps.groups(pair.kendall),
        "best_changes": steps.groups(pair.best_changes),
        "sign_changes": steps.rows(np.where(np.isnan(x + y), np.nan, x * y < 0)),
        # the cosine of two vectors is the correlation that takes their means for 0
        "cosine": steps.correlation(x, y, centred=True),
    }


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
