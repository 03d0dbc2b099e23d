"""Compiled edit distance with character weights. Imported on first use: it pulls in numba.

Every function works on flat arrays of many strings, releases the GIL and allocates memory linear in the
longest string.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def pair_distance(a, b, wa, wb, row, cutoff):
    """Least cost of turning `a` into `b`; anything >= cutoff where it is at least `cutoff`.

    Args:
        a: (n,) code points.
        b: (m,) code points.
        wa: (n,) weights of `a`.
        wb: (m,) weights of `b`.
        row: (>= m + 1,) work space of the weights' type.
        cutoff: Stop once the distance is known to be at least this.
    """
    start = 0
    end_a, end_b = a.shape[0], b.shape[0]
    while start < end_a and start < end_b and a[start] == b[start]:
        start += 1
    while end_a > start and end_b > start and a[end_a - 1] == b[end_b - 1]:
        end_a -= 1
        end_b -= 1
    row[0] = 0
    width = end_b - start
    for j in range(width):
        row[j + 1] = row[j] + wb[start + j]
    for i in range(start, end_a):
        diagonal = row[0]
        weight = wa[i]
        row[0] = diagonal + weight
        char = a[i]
        left = row[0]
        least = left
        for j in range(width):
            above = row[j + 1]
            if char == b[start + j]:
                value = diagonal
            else:
                value = diagonal + max(weight, wb[start + j])
                value = min(value, above + weight, left + wb[start + j])
            diagonal = above
            left = value
            row[j + 1] = value
            least = min(least, value)
        if least >= cutoff:
            return least
    return row[width]


@njit(cache=True, nogil=True)
def batch_distances(a, offsets_a, b, offsets_b, table, light, heavy, relative_cutoff, distances, totals):
    """Fills `distances` and `totals` (weight of each reference) for N pairs.

    Args:
        a: Code points of all references, one after the other.
        offsets_a: (N + 1,) where each reference begins.
        b: Code points of all hypotheses.
        offsets_b: (N + 1,) where each hypothesis begins.
        table: (T,) 1 where the code point is important; code points from T on are not.
        light: Weight of ordinary characters.
        heavy: Weight of important ones.
        relative_cutoff: Distances of at least this many times the reference's weight need not be exact.
        distances: (N,) output, float64.
        totals: (N,) output, float64.
    """
    longest = 0
    for k in range(distances.shape[0]):
        longest = max(longest, offsets_b[k + 1] - offsets_b[k])
    weights_a = np.full(a.shape[0], light)
    weights_b = np.full(b.shape[0], light)
    for i in range(a.shape[0]):
        if a[i] < table.shape[0] and table[a[i]]:
            weights_a[i] = heavy
    for i in range(b.shape[0]):
        if b[i] < table.shape[0] and table[b[i]]:
            weights_b[i] = heavy
    row = np.empty(longest + 1, weights_a.dtype)
    for k in range(distances.shape[0]):
        i0, i1, j0, j1 = offsets_a[k], offsets_a[k + 1], offsets_b[k], offsets_b[k + 1]
        total_a = weights_a[i0:i1].sum()
        total_b = weights_b[j0:j1].sum()
        totals[k] = total_a
        cutoff = relative_cutoff * total_a
        difference = abs(total_b - total_a)
        if difference >= cutoff:
            distances[k] = difference
        else:
            distances[k] = pair_distance(a[i0:i1], b[j0:j1], weights_a[i0:i1], weights_b[j0:j1], row, cutoff)
