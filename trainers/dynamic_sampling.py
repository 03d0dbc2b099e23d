"""Dynamic sampling (DAPO; Yu et al. 2025, section 3.2): groups without spread give way to groups of fresh samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from glyphrl.rewards.compose import Scores
from glyphrl.trainers.advantages import group_advantages
from glyphrl.trainers.grpo_batch import SampledGroup, join_scores

Draw = Callable[[Sequence[int]], tuple[list[SampledGroup], Scores]]


@dataclass(frozen=True)
class Refilled:
    """Everything that was drawn for a step, and what of it is trained on."""

    groups: list[SampledGroup]
    """First the groups of the step's own samples, then the fresh ones, in the order in which they were drawn."""
    scores: Scores
    """Of all of them."""
    chosen: list[int]
    """Indices of the groups that the step trains on, as many as it has samples of its own."""


def refill(
    indices: Sequence[int], draw: Draw, fresh: Iterator[int], *, num_generations: int, rounds: int
) -> Refilled:
    """Draws groups until each has spread, or the rounds or the samples are used up.

    Args:
        indices: The step's own samples on this rank.
        draw: Samples and scores a group of each of some samples.
        fresh: Other samples of this rank.
        num_generations: Completions of a group.
        rounds: How often fresh groups are drawn at most.
    """
    groups, scores = draw(indices)
    pools, parts = list(groups), [scores]
    chosen = list(range(len(groups)))
    flat = set(np.flatnonzero(without_spread(scores, num_generations)).tolist())
    for _ in range(rounds):
        more = [index for _, index in zip(range(len(flat)), fresh, strict=False)]
        if not more:
            break
        drawn, scored = draw(more)
        useful = np.flatnonzero(~without_spread(scored, num_generations)) + len(pools)
        pools += drawn
        parts.append(scored)
        for place, index in zip(sorted(flat), useful.tolist(), strict=False):
            chosen[place] = index
            flat.discard(place)
    return Refilled(pools, join_scores(parts), chosen)


def without_spread(scores: Scores, num_generations: int) -> np.ndarray:
    """(groups,) bool: all rewards of the group are equal."""
    return group_advantages(scores.reward, num_generations, "none").zero_spread


def fresh_samples(
    total: int, taken: Collection[int], *, seed: int, step: int, rank: int, ranks: int
) -> Iterator[int]:
    """Samples that a rank may draw besides its own, each at most once: no two ranks draw the same fresh one.

    Args:
        total: Samples of the data set.
        taken: The step's own samples on this rank.
        seed: The run's seed.
        step: The step; another one, another order.
        rank: This rank.
        ranks: Number of ranks.
    """
    order = np.random.default_rng([seed, step]).permutation(total)
    left = set(taken)
    for index in order[rank::ranks].tolist():
        if index not in left:
            yield index
