"""Groups without spread and what takes their place."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glyphrl.data.sample import Sample
from glyphrl.rewards.compose import Scores
from glyphrl.trainers.dynamic_sampling import fresh_samples, refill
from glyphrl.trainers.grpo_batch import SampledGroup
from glyphrl.trainers.prompts import EncodedPrompt


def group(index):
    return SampledGroup(EncodedPrompt(Sample(str(index), (), "", ""), "", [1], [1], (), None, None), [], [])


def drawing(spread):
    """Draws groups of two; those of the samples in `spread` have different rewards. Also what was asked for."""
    asked = []

    def draw(indices):
        asked.append(list(indices))
        rewards = np.array([value for index in indices for value in (1.0, 0.0 if index in spread else 1.0)])
        texts = [str(index) for index in indices for _ in range(2)]
        return [group(index) for index in indices], Scores({}, rewards, texts, [None] * len(rewards))

    return draw, asked


def names(refilled, which=None):
    which = range(len(refilled.groups)) if which is None else which
    return [int(refilled.groups[index].prompt.sample.id) for index in which]


def test_groups_without_spread_are_replaced_in_their_places():
    draw, asked = drawing({1, 7, 9})
    got = refill([0, 1, 2], draw, iter([5, 7, 8, 9]), num_generations=2, rounds=3)
    assert asked == [[0, 1, 2], [5, 7], [8], [9]]
    assert names(got) == [0, 1, 2, 5, 7, 8, 9]
    assert names(got, got.chosen) == [7, 1, 9]
    assert got.scores.answers == [str(index) for index in names(got) for _ in range(2)]


def test_it_stops_when_all_have_spread_and_without_fresh_samples():
    draw, asked = drawing({0, 1, 5})
    assert names(refill([0, 1], draw, iter([5]), num_generations=2, rounds=3)) == [0, 1]
    assert names(refill([0, 2], draw, iter([5, 6]), num_generations=2, rounds=3)) == [0, 2, 5]
    assert asked == [[0, 1], [0, 2], [5]]
    got = refill([3, 4], draw, iter([]), num_generations=2, rounds=3)
    assert got.chosen == [0, 1]


def test_rounds_bound_the_work():
    draw, asked = drawing(set())
    got = refill([0, 1], draw, iter(range(2, 100)), num_generations=2, rounds=2)
    assert asked == [[0, 1], [2, 3], [4, 5]]
    assert got.chosen == [0, 1]
    draw, asked = drawing(set())
    refill([0, 1], draw, iter(range(2, 100)), num_generations=2, rounds=0)
    assert asked == [[0, 1]]


@given(st.integers(1, 40), st.integers(0, 5), st.integers(1, 3))
def test_fresh_samples_are_others_and_each_rank_has_its_own(total, step, ranks):
    taken = set(range(0, total, 3))
    drawn = [
        list(fresh_samples(total, taken, seed=1, step=step, rank=rank, ranks=ranks)) for rank in range(ranks)
    ]
    everyone = [index for part in drawn for index in part]
    assert sorted(everyone) == sorted(set(range(total)) - taken)


def test_another_step_draws_others():
    first, again, later = (
        list(fresh_samples(50, (), seed=1, step=step, rank=0, ranks=1)) for step in (0, 0, 1)
    )
    assert first == again
    assert first != later
