"""Statistics within groups, for all groups at once. NaN: the reward does not apply to a completion.

Groups of one size stand below each other in a matrix (n, G). Ranks and rank correlations come from the signs of
all differences within a group, s_ij = sign(x_i − x_j): the average rank of i is (Σ_j s_ij + G + 1) / 2, so that
Spearman's rho is the correlation of those sums, and Kendall's tau-b is Σ s_ij t_ij / √(Σ s_ij² Σ t_ij²)
(Kendall, The Treatment of Ties in Ranking Problems, 1945).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from glyphrl.trainers.advantages import EPSILON

_CELLS = 1_000_000
"""Entries of the (n, G, G) arrays that are held at once."""
FLAT = 1e-8
"""A standard deviation up to this is none, as in training (`numpy.isclose`)."""


@dataclass(frozen=True)
class Block:
    """Groups of one size.

    Attributes:
        rows: (n, G) rows of the log.
        groups: (n,) numbers of the groups.
    """

    rows: np.ndarray
    groups: np.ndarray


def blocks(group: np.ndarray) -> Iterator[Block]:
    """Sorts rows into groups; each block is small enough for the pairwise arrays.

    Args:
        group: (N,) number of each row's group.
    """
    order = np.argsort(group, kind="stable")
    names, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        rows = order[starts[chosen][:, None] + np.arange(size)]
        step = max(1, _CELLS // int(size) ** 2)
        for begin in range(0, len(chosen), step):
            yield Block(rows[begin : begin + step], names[chosen[begin : begin + step]])


@dataclass(frozen=True)
class Spread:
    """Of the rewards (n, G) of n groups.

    Attributes:
        count: (n,) completions that have a reward.
        std: (n,) standard deviation with Bessel's correction; NaN below two completions.
        flat: (n,) bool: two completions or more, all with the same reward: no signal.
        advantages: (n, G) as GRPO computes them: less the mean, over the standard deviation; NaN where undefined.
    """

    count: np.ndarray
    std: np.ndarray
    flat: np.ndarray
    advantages: np.ndarray


def spread(x: np.ndarray) -> Spread:
    """Spread and advantages of each group (Shao et al. 2024, equation 4), as `glyphrl.trainers.advantages`."""
    known = ~np.isnan(x)
    count = known.sum(1)
    centred = centre(x)
    std = np.sqrt(np.nansum(centred**2, 1) / np.maximum(count - 1, 1))
    flat = (count >= 2) & (std <= FLAT)
    advantages = centred / (std[:, None] + EPSILON)
    # What is left of a mean that is not exact in floating point is no advantage.
    advantages[(np.abs(advantages) < 1e-6) | (flat[:, None] & known)] = 0.0
    advantages[~known] = np.nan
    return Spread(count, np.where(count >= 2, std, np.nan), flat, advantages)


def centre(x: np.ndarray) -> np.ndarray:
    """The values (n, G) less the mean of their group; NaN stays NaN."""
    count = np.maximum((~np.isnan(x)).sum(1, keepdims=True), 1)
    return x - np.nansum(x, 1, keepdims=True) / count


@dataclass(frozen=True)
class Signs:
    """Signs of all differences within groups: (n, G, G) int8, 0 where one of both is undefined."""

    values: np.ndarray
    known: np.ndarray
    """(n, G) bool."""

    @classmethod
    def of(cls, x: np.ndarray) -> Signs:
        """Of x (n, G)."""
        known = ~np.isnan(x)
        clean = np.where(known, x, 0.0)
        values = (clean[:, :, None] > clean[:, None, :]).view(np.int8) - (
            clean[:, :, None] < clean[:, None, :]
        ).view(np.int8)
        if not known.all():
            values *= (known[:, :, None] & known[:, None, :]).view(np.int8)
        return cls(values, known)

    def among(self, known: np.ndarray) -> np.ndarray:
        """The signs with only the completions of `known` (n, G) left."""
        if known.all():
            return self.values
        return self.values * (known[:, :, None] & known[:, None, :]).view(np.int8)


def rank_correlations(a: Signs, b: Signs) -> tuple[np.ndarray, np.ndarray]:
    """Spearman's rho and Kendall's tau-b of each group, over the completions that both rewards apply to.

    Returns:
        (n,) each; NaN where one of the rewards is the same for all of them, or there are fewer than two.
    """
    both = a.known & b.known
    s, t = a.among(both), b.among(both)
    row_s, row_t = s.sum(2, dtype=np.int64), t.sum(2, dtype=np.int64)
    concordance = (s * t).sum((1, 2), dtype=np.int64)
    untied = (s != 0).sum((1, 2), dtype=np.int64) * (t != 0).sum((1, 2), dtype=np.int64)
    squares = (row_s**2).sum(1) * (row_t**2).sum(1)
    rho = _over_root((row_s * row_t).sum(1), squares)
    return rho, _over_root(concordance, untied)


def _over_root(numerator: np.ndarray, square: np.ndarray) -> np.ndarray:
    result = np.full(len(numerator), np.nan)
    some = square > 0
    result[some] = numerator[some] / np.sqrt(square[some].astype(float))
    return np.clip(result, -1.0, 1.0)


def best(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which completions earn the most among those of `known`, (n, G) bool; ties are all best."""
    value = np.where(known, x, -np.inf)
    return known & (value == value.max(1, keepdims=True))


def best_changes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 where no completion is best under both, 0 where one is; NaN where one of them gives no signal. (n,)."""
    both = ~np.isnan(a) & ~np.isnan(b)
    best_a, best_b = best(a, both), best(b, both)
    count = both.sum(1)
    signal = (count >= 2) & (best_a.sum(1) < count) & (best_b.sum(1) < count)
    return np.where(signal, ~(best_a & best_b).any(1), np.nan)


def regret(reward: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How much truth is lost by taking the group's best completion by the reward, (n,).

    Among completions that the reward calls equally good, one is drawn: their mean counts. NaN below two
    completions.
    """
    both = ~np.isnan(reward) & ~np.isnan(truth)
    chosen = best(reward, both)
    clean = np.where(both, truth, 0.0)
    got = (clean * chosen).sum(1) / np.maximum(chosen.sum(1), 1)
    most = np.where(both, truth, -np.inf).max(1)
    # The mean of equal numbers differs from them in the last digits.
    lost = np.round(np.where(np.isfinite(most), most, 0.0) - got, 12)
    return np.where(both.sum(1) >= 2, np.maximum(0.0, lost), np.nan)
