"""Statistics within groups, against scipy group by group, against training, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from glyphrl.evaluation.compare.groups import Signs, best_changes, blocks, rank_correlations, regret, spread
from glyphrl.evaluation.compare.measure import measure
from glyphrl.evaluation.compare.resampling import group_intervals, ratio
from glyphrl.evaluation.compare.statistics import plan_statistics
from glyphrl.trainers.advantages import group_advantages

NAN = np.nan
SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, -1.0, NAN])  # few values: ties and gaps are common


def matrices() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 7))
    return shapes.flatmap(
        lambda s: st.tuples(arrays(float, s, elements=SCORES), arrays(float, s, elements=SCORES))
    )


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_rank_correlations_are_those_of_scipy(pair):
    a, b = pair
    rho, tau = rank_correlations(Signs.of(a), Signs.of(b))
    for i in range(len(a)):
        both = ~np.isnan(a[i] + b[i])
        x, y = a[i][both], b[i][both]
        if len(x) < 2 or len(set(x)) < 2 or len(set(y)) < 2:
            assert np.isnan(rho[i])
            assert np.isnan(tau[i])
        else:
            assert rho[i] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
            assert tau[i] == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_advantages_are_those_of_training(pair):
    rewards = pair[0]
    ours = spread(rewards)
    theirs = group_advantages(rewards.reshape(-1), rewards.shape[1], "group")
    known = ~np.isnan(rewards)
    np.testing.assert_allclose(ours.advantages[known], theirs.values.reshape(rewards.shape)[known], atol=1e-6)
    assert np.isnan(ours.advantages[~known]).all()
    several = known.sum(1) >= 2
    np.testing.assert_array_equal(ours.flat[several], theirs.zero_spread[several])
    assert not ours.flat[~several].any()


def test_a_mean_that_is_not_exact_gives_no_advantage():
    # 0.1 * 3 / 3 is not 0.1 in floating point; the third group's mean is exactly its middle value.
    found = spread(np.array([[0.1, 0.1, 0.1], [NAN, 0.3, NAN], [0.1, 0.2, 0.3]]))
    assert found.flat.tolist() == [True, False, False]
    assert found.advantages[0].tolist() == [0.0, 0.0, 0.0]
    assert found.advantages[2, 1] == 0.0
    assert found.advantages[2, 2] == pytest.approx(0.1 / (0.1 + 1e-4))


def test_the_best_completion_changes_only_where_none_is_best_under_both():
    a = np.array([[1.0, 0.5, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [NAN, 1.0, 0.0], [1.0, NAN, NAN]])
    b = np.array([[0.0, 0.5, 0.2], [0.3, 0.9, 0.0], [1.0, 0.0, 0.0], [9.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    # another; shared among ties; the first gives no signal; only the last two count; one completion is no group
    np.testing.assert_array_equal(best_changes(a, b), [1.0, 0.0, NAN, 1.0, NAN])


def test_regret_by_hand():
    truth = np.array([[0.2, 0.8, 1.0]] * 4)
    reward = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.5, 0.5, 0.5], [1.0, NAN, NAN]])
    # takes 0.2 of 1; one of 0.8 and 1 by chance; any by chance (mean 2/3); one completion leaves no choice
    np.testing.assert_allclose(regret(reward, truth), [0.8, 0.1, 1 / 3, NAN])


def test_blocks_hold_every_row_once_with_its_group():
    group = np.array([3, 0, 1, 1, 3, 2, 3, 1])
    rows = {}
    for block in blocks(group):
        for members, name in zip(block.rows, block.groups, strict=True):
            rows[int(name)] = members.tolist()
    assert rows == {0: [1], 1: [2, 3, 7], 2: [5], 3: [0, 4, 6]}


def test_intervals_cover_the_mean_and_shrink():
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1.0, 4000)
    columns = np.stack([values, np.ones(len(values))], axis=1)

    def mean(sums):
        return ratio(sums[:, 0], sums[:, 1])[:, None]

    wide = group_intervals(columns[:100], mean, resamples=500, seed=0)[0]
    narrow = group_intervals(columns, mean, resamples=500, seed=0)[0]
    assert narrow.low < 0.3 < narrow.high
    # the normal interval of a mean: 1.96 standard errors to each side
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 / np.sqrt(4000), rel=0.15)
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)
    single = group_intervals(columns[:1], mean, resamples=10, seed=0)[0]
    assert (single.low, single.high) == (None, None)
    assert group_intervals(np.zeros((5, 2)), mean, resamples=10, seed=0) == [None]


def test_statistics_of_the_whole_log_are_those_of_scipy():
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(60), 6)
    truth = rng.random(360).round(1)
    length = rng.integers(5, 60, 360).astype(float)
    reward = 0.5 * truth + 0.01 * length + 0.2 * rng.random(360)
    reward[rng.random(360) < 0.1] = NAN
    other = rng.random(360)
    rewards, truths = {"r": reward, "o": other}, {"t": truth}
    measured = measure(group, rewards, truths, length)
    found = plan_statistics(group, rewards, truths, measured).intervals(200, 0)
    known = ~np.isnan(reward)
    assert found["pearson", "r", "t"].value == pytest.approx(
        stats.pearsonr(reward[known], truth[known]).statistic
    )

    def centred(values):
        return np.concatenate([v - v.mean() for g in range(60) for v in [values[known & (group == g)]]])

    x, n, t = centred(reward), centred(length), centred(truth)
    assert found["length", "r"].value == pytest.approx(stats.pearsonr(x, n).statistic)
    residual = [v - t * (v @ t) / (t @ t) for v in (x, n)]
    assert found["partial", "r"].value == pytest.approx(stats.pearsonr(*residual).statistic)
    assert found["slope", "r"].value == pytest.approx(100 * stats.linregress(n, x).slope)
    a, b = (measured.rewards[name].advantages for name in "ro")
    both = known
    cosine = a[both] @ b[both] / np.sqrt((a[both] @ a[both]) * (b[both] @ b[both]))
    assert found["cosine", "r", "o"].value == pytest.approx(cosine)
    assert found["sign", "r", "o"].value == pytest.approx(np.mean(a[both] * b[both] < 0))
    less = found["less", "r", "o", "t"].value
    assert less == pytest.approx(found["regret", "r", "t"].value - found["regret", "o", "t"].value)


def test_the_widest_gap_is_a_contradiction():
    group = np.zeros(4, int)
    a, b = np.array([0.0, 1.0, 0.6, 0.5]), np.array([1.0, 0.0, 0.9, 0.95])
    measured = measure(group, {"a": a, "b": b}, {"t": a}, np.ones(4))
    pair = measured.pairs["a", "b"]
    assert pair.preferred[0].tolist() == [1, 0]
    assert pair.gap[0] == pytest.approx(min(1 / a.std(), 1 / b.std()))
    agreeing = measure(group, {"a": a, "b": 2 * a}, {"t": a}, np.ones(4)).pairs["a", "b"]
    assert agreeing.gap[0] == 0
