"""Everything that is counted by group, in one pass over the groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from glyphrl.errors import UserError
from glyphrl.evaluation.compare.groups import (
    Block,
    Signs,
    best_changes,
    blocks,
    centre,
    rank_correlations,
    regret,
    spread,
)

Pair = tuple[str, str]
LARGEST_GROUP = 2048


@dataclass(frozen=True)
class OfReward:
    """One reward (or truth): (M,) by group, `advantages` (N,) by completion."""

    count: np.ndarray
    std: np.ndarray
    flat: np.ndarray
    advantages: np.ndarray


@dataclass(frozen=True)
class OfPair:
    """Two rewards, or a reward and a truth: (M,) by group, NaN where undefined.

    Attributes:
        spearman: Of the completions that both apply to.
        kendall: The same, tau-b.
        best_changes: 1 where no completion is best under both.
        regret: Truth that is lost by taking the best completion by the first; only against a truth.
        gap: How far the two rewards disagree about the two completions that they disagree about most, in
            standard deviations of each reward over the log; 0 where they never contradict each other.
        preferred: (M, 2) rows of those: the one that the first prefers, the one that the second prefers.
    """

    spearman: np.ndarray
    kendall: np.ndarray
    best_changes: np.ndarray
    regret: np.ndarray
    gap: np.ndarray
    preferred: np.ndarray


@dataclass(frozen=True)
class Measured:
    """What one pass over the groups gave."""

    rewards: dict[str, OfReward]
    """Of rewards and of truths."""
    pairs: dict[Pair, OfPair]
    centred: dict[str, np.ndarray]
    """Reward -> (N, 3): the reward, the length and the first truth, each less its mean over those completions of
    the group that the reward applies to."""


def measure(
    group: np.ndarray,
    rewards: Mapping[str, np.ndarray],
    truths: Mapping[str, np.ndarray],
    length: np.ndarray,
) -> Measured:
    """Measures rewards against each other and against truths, group by group.

    Args:
        group: (N,) numbers of the groups, each of 0 to M - 1 at least once.
        rewards: Name -> (N,) values; NaN where the reward does not apply.
        truths: Name -> (N,) values.
        length: (N,) lengths.

    Raises:
        UserError: A group is larger than any that was ever sampled together.
    """
    sizes = np.bincount(group)
    if sizes.max(initial=0) > LARGEST_GROUP:
        raise UserError(
            f"a group has {sizes.max():,} completions; expected at most {LARGEST_GROUP:,}: is group_id what the "
            "completions of one prompt share?"
        )
    columns = {**rewards, **truths}
    scales = {name: _scale(values) for name, values in columns.items()}
    pairs = [*combinations(rewards, 2), *((r, t) for r in rewards for t in truths)]
    groups, rows = len(sizes), len(group)
    found = Measured(
        {n: OfReward(_ints(groups), _floats(groups), np.zeros(groups, bool), _floats(rows)) for n in columns},
        {pair: _of_pair(groups) for pair in pairs},
        {name: np.full((rows, 3), np.nan) for name in rewards},
    )
    truth = next(iter(truths))
    for block in blocks(group):
        values = {name: column[block.rows] for name, column in columns.items()}
        _measure_rewards(found, block, values)
        for name in rewards:
            beside = (values[name], length[block.rows], values[truth])
            known = ~np.isnan(values[name])
            for i, x in enumerate(beside):
                found.centred[name][block.rows, i] = centre(np.where(known, x, np.nan))
        signs = {name: Signs.of(x) for name, x in values.items()}
        for a, b in pairs:
            _measure_pair(found.pairs[a, b], block, (signs[a], signs[b]), (values[a], values[b]), b in truths)
            if b not in truths:
                scaled = values[a] / scales[a], values[b] / scales[b]
                _widest_gap(found.pairs[a, b], block, *scaled)
    return found


def _scale(values: np.ndarray) -> float:
    """The standard deviation over the log; infinite where there is none, so that nothing is far apart."""
    known = values[~np.isnan(values)]
    std = float(known.std()) if len(known) else 0.0
    return std if std > 1e-12 else np.inf


def _floats(size: int) -> np.ndarray:
    return np.full(size, np.nan)


def _ints(size: int) -> np.ndarray:
    return np.zeros(size, np.int64)


def _of_pair(groups: int) -> OfPair:
    rho, tau, changes, lost = (_floats(groups) for _ in range(4))
    return OfPair(rho, tau, changes, lost, np.zeros(groups), np.zeros((groups, 2), np.int64))


def _measure_rewards(found: Measured, block: Block, values: Mapping[str, np.ndarray]) -> None:
    for name, x in values.items():
        own, into = spread(x), found.rewards[name]
        into.count[block.groups] = own.count
        into.std[block.groups] = own.std
        into.flat[block.groups] = own.flat
        into.advantages[block.rows] = own.advantages


def _measure_pair(
    into: OfPair,
    block: Block,
    signs: tuple[Signs, Signs],
    values: tuple[np.ndarray, np.ndarray],
    truth: bool,
) -> None:
    rho, tau = rank_correlations(*signs)
    into.spearman[block.groups] = rho
    into.kendall[block.groups] = tau
    into.best_changes[block.groups] = best_changes(*values)
    if truth:
        into.regret[block.groups] = regret(*values)


def _widest_gap(into: OfPair, block: Block, a: np.ndarray, b: np.ndarray) -> None:
    """The two completions of each group that the rewards put in opposite orders most clearly."""
    size = a.shape[1]
    more, less = a[:, :, None] - a[:, None, :], b[:, None, :] - b[:, :, None]
    opposed = np.nan_to_num(np.minimum(more, less), nan=0.0).reshape(len(a), -1)
    at = opposed.argmax(1)
    each = np.arange(len(a))
    into.gap[block.groups] = np.maximum(opposed[each, at], 0.0)
    into.preferred[block.groups, 0] = block.rows[each, at // size]
    into.preferred[block.groups, 1] = block.rows[each, at % size]
