# mypy: allow-untyped-defs
"""Compiled edit distance with character weights. Imported on first use: it pulls in numba.

Two algorithms, both exact. Short pairs go `LANES` at a time, one pair per SIMD lane, row by row. A long pair
goes alone, along the anti-diagonals of its table (whose cells do not depend on one another), in a band around
the main diagonals. Everything releases the GIL and takes memory linear in the texts.
`glyphrl.rewards.alignment` puts the pieces together.

Characters are code points with `FLAG` set where they are important. Loops over lanes count in unsigned
integers and every sum is cast back to the type of the costs: without either, LLVM does not vectorise them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from glyphrl.rewards._kernel_cache import cacheable

LANES = 32
"""Pairs that share a block."""
SHORT = 128
"""Longest text, after common ends are cut off, that goes into a block."""
FLAG = np.int32(1 << 30)
"""Marks important characters."""

_U = np.uint64
_LANES = np.uint64(LANES)
_ONE = np.uint64(1)


@njit(cache=cacheable(), nogil=True)
def flag_important(codes, offsets, table, flagged, counts):
    """Writes `codes` with the important ones flagged, and how many each text has.

    Args:
        codes: (C,) code points of N texts, one after the other, uint32.
        offsets: (N + 1,) where each text begins.
        table: (T,) uint8, 1 where the code point is important; ends with a 0, for all those from T - 1 on.
        flagged: (C,) int32, output.
        counts: (N,) int64, output.
    """
    last = np.uint32(table.shape[0] - 1)
    for k in range(_U(counts.shape[0])):
        count = np.int64(0)
        for i in range(_U(offsets[k]), _U(offsets[k + _ONE])):
            code = codes[i]
            mark = table[_U(min(code, last))]  # without a branch: digits come unforeseeably
            count += mark
            flagged[i] = np.int32(code) | (np.int32(mark) << np.int32(30))
        counts[k] = count


@njit(cache=cacheable(), nogil=True)
def cut_common_ends(a, offsets_a, b, offsets_b, spans, order, counts):
    """Cuts off what both texts of a pair begin and end with, and sorts the pairs by the longer rest.

    Args:
        a: Flagged characters of N texts, one after the other.
        offsets_a: (N + 1,) where each begins.
        b: The same for the other texts.
        offsets_b: (N + 1,).
        spans: (4, N) output: where the rest of each text of `a` begins, its length, and the same for `b`.
        order: (N,) output: pairs with two rests of at most SHORT characters, the shortest first; behind them
            nothing.
        counts: (SHORT + 2,) zeros, work space.

    Returns:
        Number of pairs in `order`.
    """
    count = order.shape[0]
    for k in range(count):
        i, end_i, j, end_j = offsets_a[k], offsets_a[k + 1], offsets_b[k], offsets_b[k + 1]
        while i < end_i and j < end_j and a[_U(i)] == b[_U(j)]:
            i += 1
            j += 1
        while i < end_i and j < end_j and a[_U(end_i - 1)] == b[_U(end_j - 1)]:
            end_i -= 1
            end_j -= 1
        spans[0, k] = i
        spans[1, k] = end_i - i
        spans[2, k] = j
        spans[3, k] = end_j - j
        longer = max(end_i - i, end_j - j)
        if longer <= SHORT and i < end_i and j < end_j:
            counts[longer + 1] += 1
    for length in range(SHORT + 1):
        counts[length + 1] += counts[length]
    for k in range(count):
        longer = max(spans[1, k], spans[3, k])
        if longer <= SHORT and spans[1, k] > 0 and spans[3, k] > 0:
            order[counts[longer]] = k
            counts[longer] += 1
    return counts[SHORT]


@njit(cache=cacheable(), nogil=True)
def block_distances(a, b, spans, order, light, heavy, texts, row, lanes, out):
    """Distances of short pairs, `LANES` at a time.

    Args:
        a: Flagged characters, as for `cut_common_ends`.
        b: The same for the other texts.
        spans: (4, N) from `cut_common_ends`.
        order: (M,) pairs whose rests have 1 to SHORT characters; neighbours are of like size.
        light: Weight of ordinary characters; its type is the costs' type.
        heavy: Weight of important ones.
        texts: (2, SHORT * LANES) int32, work space: character i of pair l stands at i * LANES + l.
        row: ((SHORT + 1) * LANES,) work space of the costs' type.
        lanes: (4, LANES) work space of the costs' type.
        out: (N,) float64, output.
    """
    cost = type(light)
    nothing = cost(0)
    block_a, block_b = texts[0], texts[1]
    diagonal, left, weight_a, result = lanes[0], lanes[1], lanes[2], lanes[3]
    for begin in range(0, order.shape[0], LANES):
        used = min(LANES, order.shape[0] - begin)
        rows, columns = 0, 0
        for lane in range(_U(used)):
            k = order[_U(begin) + lane]
            start_a, length_a, start_b, length_b = spans[0, k], spans[1, k], spans[2, k], spans[3, k]
            rows, columns = max(rows, length_a), max(columns, length_b)
            for i in range(_U(length_a)):
                block_a[i * _LANES + lane] = a[_U(start_a) + i]
            for j in range(_U(length_b)):
                block_b[j * _LANES + lane] = b[_U(start_b) + j]
        # What stands in `texts` beyond a text's end is old, but no cell of this text depends on it.
        for lane in range(_LANES):
            row[lane] = nothing
        for j in range(_U(columns)):
            for lane in range(_LANES):
                weight = heavy if block_b[j * _LANES + lane] & FLAG else light
                row[(j + _ONE) * _LANES + lane] = cost(row[j * _LANES + lane] + weight)
        for i in range(_U(rows)):
            for lane in range(_LANES):
                corner = row[lane]
                weight = heavy if block_a[i * _LANES + lane] & FLAG else light
                diagonal[lane] = corner
                weight_a[lane] = weight
                row[lane] = cost(corner + weight)
                left[lane] = cost(corner + weight)
            for j in range(_U(columns)):
                for lane in range(_LANES):
                    above = row[(j + _ONE) * _LANES + lane]
                    other = block_b[j * _LANES + lane]
                    weight = weight_a[lane]
                    weight_b = heavy if other & FLAG else light
                    change = max(weight, weight_b)
                    if other == block_a[i * _LANES + lane]:
                        change = nothing
                    best = min(cost(above + weight), cost(left[lane] + weight_b))
                    best = min(best, cost(diagonal[lane] + change))
                    diagonal[lane] = above
                    left[lane] = best
                    row[(j + _ONE) * _LANES + lane] = best
            for lane in range(_U(used)):
                k = order[_U(begin) + lane]
                if _U(spans[1, k]) == i + _ONE:
                    result[lane] = row[_U(spans[3, k]) * _LANES + lane]
        for lane in range(_U(used)):
            out[order[_U(begin) + lane]] = result[lane]


@njit(cache=cacheable(), nogil=True)
def band_distance(a, b, slack, light, heavy, far, work, limit):
    """Least cost of the paths that leave the main diagonals by at most `slack`.

    Cell (i, j) is the cost of the first i characters of `a` against the first j of `b`. With i + j = d,
    anti-diagonal d needs only d - 1 and d - 2; three rows of the work space take turns. The cells beside the
    band hold `far`.

    Args:
        a: (n + 1,) flagged characters of the shorter text, after one that is not used.
        b: (m + 1,) those of the longer text in reverse, before one that is not used.
        slack: j - i stays within -slack and m - n + slack.
        light: Weight of ordinary characters, of the costs' type.
        heavy: Weight of important ones.
        far: A cost that no path has, of the costs' type; adding a weight to it must not overflow.
        work: (3, n + 3) work space of the costs' type.
        limit: Give up once every path costs at least this.

    Returns:
        The cost and 0; where it gave up, a lower bound of every path in the band, and the anti-diagonal.
    """
    n, m = a.shape[0] - 1, b.shape[0] - 1
    cost = type(light)
    nothing = cost(0)
    for i in range(n + 3):
        work[0, i] = far
        work[1, i] = far
        work[2, i] = far
    work[0, 1] = nothing
    gave_up, least = 0, far
    for d in range(1, n + m + 1):
        low = max(0, d - m, (d - (m - n) - slack + 1) >> 1)
        high = min(n, d, (d + slack) >> 1)
        here, before, before2 = work[d % 3], work[(d + 2) % 3], work[(d + 1) % 3]
        first, shift = _U(low), _U(m - d)  # where m < d, the shift wraps around and so does the sum
        for i in range(first, _U(high + 1)):
            char_a, char_b = a[i], b[shift + i]
            weight_a = heavy if char_a & FLAG else light
            weight_b = heavy if char_b & FLAG else light
            change = max(weight_a, weight_b)
            if char_a == char_b:
                change = nothing
            best = min(cost(before[i] + weight_a), cost(before[i + _ONE] + weight_b))
            here[i + _ONE] = min(best, cost(before2[i] + change))
        here[low] = far
        here[high + 2] = far
        if d & 63 == 0:
            # Every path goes through this anti-diagonal or the one before.
            least = far
            for i in range(low, high + 3):
                least = min(least, min(here[i], before[i]))
            if least >= limit:
                gave_up = d
                break
    return (least if gave_up else work[(n + m) % 3, n + 1]), gave_up
