"""Advantages by hand, and their invariants."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glyphrl.trainers.advantages import group_advantages

NAN = float("nan")


def values(rewards, num_generations, scale):
    return group_advantages(np.array(rewards), num_generations, scale).values


def test_group_by_hand():
    # group 1: mean 2, deviations -1 0 1, variance (1 + 0 + 1) / 2 = 1; group 2: mean 4, deviations -4 0 4, 16
    got = values([1.0, 2.0, 3.0, 0.0, 4.0, 8.0], 3, "group")
    one, four = 1 / (1 + 1e-4), 4 / (4 + 1e-4)
    np.testing.assert_allclose(got, [-one, 0, one, -four, 0, four], rtol=1e-12)


def test_none_by_hand():
    np.testing.assert_allclose(values([1.0, 2.0, 3.0, 0.0, 4.0, 8.0], 3, "none"), [-1, 0, 1, -4, 0, 4])


def test_batch_by_hand():
    # all six: mean 3; squares 4 1 0 9 1 25 = 40; variance 40 / 5 = 8. The baseline stays the group's own mean.
    got = values([1.0, 2.0, 3.0, 0.0, 4.0, 8.0], 3, "batch")
    np.testing.assert_allclose(got, np.array([-1, 0, 1, -4, 0, 4]) / (math.sqrt(8) + 1e-4), rtol=1e-12)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_what_cannot_be_scored_neither_learns_nor_counts(scale):
    # group 1: 1 and 3 are known: mean 2, variance (1 + 1) / 1 = 2; group 2: one is known, so it is its own mean
    advantages = group_advantages(np.array([1.0, NAN, 3.0, NAN, 5.0, NAN]), 3, scale)
    # batch: 1, 3, 5: mean 3, variance (4 + 0 + 4) / 2 = 4
    spread = {"group": math.sqrt(2) + 1e-4, "batch": 2 + 1e-4, "none": 1.0}[scale]
    np.testing.assert_allclose(advantages.values, [-1 / spread, 0, 1 / spread, 0, 0, 0], rtol=1e-12)
    assert advantages.zero_spread.tolist() == [False, True]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_nothing_to_learn(scale):
    equal = group_advantages(np.array([0.1, 0.1, 0.1, NAN, NAN, NAN]), 3, scale)
    np.testing.assert_allclose(equal.values, 0, atol=1e-12)
    assert equal.zero_spread.tolist() == [True, True]
    single = group_advantages(np.array([0.7]), 1, scale)
    assert single.values.tolist() == [0.0]


def test_errors():
    with pytest.raises(ValueError, match="5 rewards are no whole number of groups of 3"):
        values([1.0] * 5, 3, "group")
    with pytest.raises(ValueError, match="unknown scale_rewards 'std'; known: group, batch, none"):
        values([1.0] * 3, 3, "std")


rewards = st.lists(st.one_of(st.floats(-5, 5), st.just(NAN)), min_size=4, max_size=24).map(
    lambda found: found[: len(found) // 4 * 4]
)


@given(rewards, st.sampled_from(["group", "batch", "none"]))
def test_properties(found, scale):
    """Finite; zero where unscored; each group's sum is zero; adding a constant to a group changes nothing."""
    got = values(found, 4, scale)
    assert np.isfinite(got).all()
    assert (got[np.isnan(found)] == 0).all()
    np.testing.assert_allclose(got.reshape(-1, 4).sum(1), 0, atol=1e-6 * (1 + np.abs(got).max()))
    if scale != "batch":
        shifted = values(np.array(found) + 3.0, 4, scale)
        np.testing.assert_allclose(shifted, got, atol=1e-6 * (1 + np.abs(got).max()))
