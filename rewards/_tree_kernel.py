# mypy: allow-untyped-defs
"""Compiled tree edit distance (Zhang and Shasha, 1989). Imported on first use: it pulls in numba."""

from __future__ import annotations

import numpy as np
from numba import njit

from glyphrl.rewards._kernel_cache import cacheable


@njit(cache=cacheable(), nogil=True)
def tree_distance(first_a, roots_a, first_b, roots_b, rename, trees, forest):
    """Least cost of turning one ordered tree into another; deleting or inserting a node costs 1.

    Nodes are numbered in postorder. Time: the product of the sizes, times the smaller of depth and leaves of
    either.

    Args:
        first_a: (n,) the leftmost leaf below each node.
        roots_a: (r,) nodes that are the root or have a left sibling, ascending.
        first_b: (m,) the same for the other tree.
        roots_b: (s,) the same for the other tree.
        rename: (n, m) float32, cost of changing a node into another.
        trees: (n, m) float32, work space: distances of subtrees.
        forest: (n + 1, m + 1) float32, work space: distances of forests.

    Returns:
        The distance.
    """
    for root_a in roots_a:
        start_a = first_a[root_a]
        for root_b in roots_b:
            start_b = first_b[root_b]
            rows, columns = root_a - start_a + 1, root_b - start_b + 1
            forest[0, 0] = 0
            for i in range(1, rows + 1):
                forest[i, 0] = forest[i - 1, 0] + np.float32(1)
            for j in range(1, columns + 1):
                forest[0, j] = forest[0, j - 1] + np.float32(1)
            for i in range(1, rows + 1):
                node_a = start_a + i - 1
                whole_a = first_a[node_a] == start_a
                for j in range(1, columns + 1):
                    node_b = start_b + j - 1
                    best = min(forest[i - 1, j], forest[i, j - 1]) + np.float32(1)
                    if whole_a and first_b[node_b] == start_b:
                        best = min(best, forest[i - 1, j - 1] + rename[node_a, node_b])
                        trees[node_a, node_b] = best
                    else:
                        left = forest[first_a[node_a] - start_a, first_b[node_b] - start_b]
                        best = min(best, left + trees[node_a, node_b])
                    forest[i, j] = best
    return trees[first_a.shape[0] - 1, first_b.shape[0] - 1]
