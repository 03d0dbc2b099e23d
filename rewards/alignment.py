"""Least-cost alignment of many pairs of texts: hands each pair to the compiled algorithm that suits it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

FIRST_SLACK = 96
"""Half width of the first band; a narrower one is hardly faster."""


@dataclass(frozen=True)
class Costs:
    """Weights of ordinary and important characters, as numpy scalars of one type, and their common factor."""

    light: Any
    heavy: Any
    far: Any
    """A cost of the same type that no alignment has."""
    scale: float


@dataclass(frozen=True)
class Texts:
    """N texts as the kernel takes them."""

    characters: np.ndarray
    """(C,) int32, all texts one after the other, important characters flagged."""
    offsets: np.ndarray
    """(N + 1,) int64, where each begins."""
    weights: np.ndarray
    """(N,) float64, sums of the characters' costs."""

    def part(self, first: int, last: int) -> Texts:
        """Texts `first` to `last` - 1."""
        return Texts(self.characters, self.offsets[first : last + 1], self.weights[first:last])


def flag_important(codes: np.ndarray, offsets: np.ndarray, table: np.ndarray, costs: Costs) -> Texts:
    """Marks the important characters.

    Args:
        codes: (C,) uint32 code points of N texts.
        offsets: (N + 1,) int64.
        table: (T,) uint8, 1 where a code point is important; the last entry is 0 and stands for all further
            ones.
        costs: Weights.
    """
    from glyphrl.rewards import _kernel  # numba takes half a second to import

    flagged, counts = np.empty(len(codes), np.int32), np.empty(len(offsets) - 1, np.int64)
    _kernel.flag_important(codes, offsets, table, flagged, counts)
    weights = (np.diff(offsets) - counts) * float(costs.light) + counts * float(costs.heavy)
    return Texts(flagged, offsets, weights)


def distances(a: Texts, b: Texts, costs: Costs, relative_cutoff: float = np.inf) -> np.ndarray:
    """Least cost of turning each text of `a` into that of `b`.

    Args:
        a: N reference texts.
        b: N other texts.
        costs: Weights.
        relative_cutoff: A distance of at least this many times the reference's weight need not be exact.

    Returns:
        (N,) float64. Where the distance is at least the cut-off: something from there up to it.
    """
    from glyphrl.rewards import _kernel

    count = len(a.weights)
    spans, order = np.empty((4, count), np.int64), np.empty(count, np.int64)
    counts = np.zeros(_kernel.SHORT + 2, np.int64)
    shorts = _kernel.cut_common_ends(a.characters, a.offsets, b.characters, b.offsets, spans, order, counts)
    # Every edit changes the weight of a text by at most its cost: a lower bound, and exact for an empty rest.
    result = np.abs(a.weights - b.weights)
    cutoffs = relative_cutoff * a.weights if np.isfinite(relative_cutoff) else np.full(count, np.inf)
    sizes_a, sizes_b = spans[1], spans[3]
    alone = np.maximum(sizes_a, sizes_b) > _kernel.SHORT
    alone &= (sizes_a > 0) & (sizes_b > 0) & (result < cutoffs)
    order = order[:shorts]
    tail = _not_worth_a_block(order, sizes_a, sizes_b, _kernel.LANES)
    alone[order[tail:]] = True
    if tail:
        kind = np.asarray(costs.light).dtype
        _kernel.block_distances(
            a.characters,
            b.characters,
            spans,
            order[:tail],
            costs.light,
            costs.heavy,
            np.zeros((2, _kernel.SHORT * _kernel.LANES), np.int32),
            np.empty((_kernel.SHORT + 1) * _kernel.LANES, kind),
            np.empty((4, _kernel.LANES), kind),
            result,
        )
    for k in np.flatnonzero(alone):
        start_a, size_a, start_b, size_b = spans[:, k]
        rest_a = a.characters[start_a : start_a + size_a]
        rest_b = b.characters[start_b : start_b + size_b]
        result[k] = long_distance(rest_a, rest_b, costs, float(cutoffs[k]))
    return result


def _not_worth_a_block(order: np.ndarray, sizes_a: np.ndarray, sizes_b: np.ndarray, lanes: int) -> int:
    """Where in `order` the incomplete block begins, if its pairs are done faster one by one; else the end."""
    begin = len(order) // lanes * lanes
    rest = order[begin:]
    if not len(rest):
        return begin
    whole = 10 * sizes_a[rest].max() * sizes_b[rest].max()  # nanoseconds, both
    single = len(rest) * 6000 + 45 * (sizes_a[rest] + sizes_b[rest]).sum()
    return begin if single < whole else len(order)


def long_distance(a: np.ndarray, b: np.ndarray, costs: Costs, cutoff: float) -> float:
    """Distance of one pair of texts that are not empty; `cutoff` where it is at least that.

    The band is widened until its result is at most what a path outside it must cost: with K the difference in
    length, such a path needs K + 2 * (slack + 1) insertions and deletions or more.
    """
    from glyphrl.rewards import _kernel

    if len(a) > len(b):
        a, b = b, a
    n, m = len(a), len(b)
    kind = type(costs.light)
    padded, backwards = np.zeros(n + 1, np.int32), np.zeros(m + 1, np.int32)
    padded[1:] = a
    backwards[:m] = b[::-1]
    work = np.empty((3, n + 3), kind)
    lightest = float(min(costs.light, costs.heavy))
    slack = FIRST_SLACK
    while True:
        slack = min(slack, n)
        outside = lightest * (m - n + 2 * (slack + 1)) if slack < n else np.inf
        limit = min(outside, cutoff)
        value, gave_up = _kernel.band_distance(
            padded, backwards, slack, costs.light, costs.heavy, costs.far, work, limit
        )
        if not gave_up and value <= outside:
            return float(value)
        if limit == cutoff:
            return cutoff
        # What the whole way would cost at the rate so far; or a cost that is known to be enough.
        guess = value * 1.1 * (n + m) / gave_up if gave_up else value
        slack = max(2 * slack, min(4 * slack, int((guess / lightest - (m - n)) / 2) + 1))
