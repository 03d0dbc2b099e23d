"""Bootstrap intervals where the groups are what is drawn: completions of one group are not independent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from glyphrl.evaluation.bootstrap import CELLS_AT_ONCE, CONFIDENCE, Interval

Statistic = Callable[[np.ndarray], np.ndarray]


def group_intervals(
    columns: np.ndarray, statistic: Statistic, *, resamples: int, seed: int
) -> list[Interval | None]:
    """Percentile intervals of statistics that are functions of sums over groups.

    A resample is known by how often it holds each group, so the sums of all columns over it are one product of
    matrices (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        columns: (G, C): what each group adds to the sums.
        statistic: Sums (R, C) of R resamples -> (R, S) statistics; NaN where one is undefined.
        resamples: Number of resamples.
        seed: Of the drawing.

    Returns:
        S intervals; None where the statistic is undefined on the log itself.
    """
    values = statistic(columns.sum(0, keepdims=True))[0]
    count = len(columns)
    if count < 2:
        return [None if np.isnan(value) else Interval(float(value), None, None) for value in values]
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS_AT_ONCE // count)
    found = []
    for begin in range(0, resamples, at_once):
        size = min(at_once, resamples - begin)
        drawn = rng.integers(0, count, (size, count), dtype=np.int32)
        counts = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(float)
        found.append(statistic(counts @ columns))
    results = np.concatenate(found)
    tail = (1 - CONFIDENCE) / 2
    intervals: list[Interval | None] = []
    for value, drawn_values in zip(values, results.T, strict=True):
        known = drawn_values[~np.isnan(drawn_values)]
        if np.isnan(value):
            intervals.append(None)
        elif len(known) < resamples // 2:  # mostly undefined: an interval would say too much
            intervals.append(Interval(float(value), None, None))
        else:
            low, high = np.quantile(known, [tail, 1 - tail])
            intervals.append(Interval(float(value), float(low), float(high)))
    return intervals


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """`numerator / denominator`, NaN where the denominator is not positive."""
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), np.nan)


def correlation(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """Σxy / √(Σx² Σy²) of centred sums; NaN where one of them does not vary."""
    # Sums of squares that are rounding errors of centring are none.
    product = np.where((xx > 1e-12) & (yy > 1e-12), xx * yy, 0.0)
    return np.clip(ratio(xy, np.sqrt(product)), -1.0, 1.0)
