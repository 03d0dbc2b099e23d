"""What k completions say of a reward and of the samples, by hand."""

import numpy as np
import pytest

from glyphrl.evaluation.forecast import classify, make_forecast, render_forecast
from glyphrl.evaluation.forecasting import choose

NAN = float("nan")

# four samples, two completions each: one teaches, one solved, one hopeless, one the same wrong answer twice
SIMILARITY = np.array([[0.5, 1.0], [1.0, 1.0], [0.0, 0.0], [0.75, 0.75]])
FORMAT = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
MATHS = np.array([[NAN, NAN], [1.0, 1.0], [0.0, NAN], [NAN, NAN]])
PENALTY = np.array([[0.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])


def forecast():
    functions = {"ned": SIMILARITY, "format": FORMAT, "maths": MATHS, "length": PENALTY}
    return make_forecast(list("abcd"), SIMILARITY, functions, [1.0, 0.2, 0.5, -0.1], SIMILARITY)


def test_rewards_by_hand():
    found = {reward.name: reward for reward in forecast().rewards}
    assert list(found) == ["reward", "ned", "format", "maths", "length"]
    composed = found["reward"]
    assert (composed.weight, composed.groups) == (None, 4)
    assert composed.signal.value == 0.25
    assert composed.mean.value == (0.75 + 1 + 0 + 0.75) / 4
    assert composed.best.value == (1 + 1 + 0 + 0.75) / 4
    assert 0 <= composed.signal.low <= 0.25 <= composed.signal.high <= 1
    assert found["format"].mean.value == (0.5 + 3) / 4
    assert found["format"].best.value == 1.0
    assert (found["maths"].groups, found["maths"].signal.value) == (2, 0.0)
    assert (found["maths"].mean.value, found["maths"].best.value) == (0.5, 0.5)
    assert found["length"].best.value == 0.0, "of a penalty the best is the least"


def test_samples_by_hand():
    found = forecast()
    assert [sample.status for sample in found.samples] == ["teaches", "solved", "hopeless", "unanimous"]
    assert [sample.id for sample in found.leave_out()] == ["b", "c"]
    assert found.counts == {"teaches": 1, "solved": 1, "hopeless": 1, "unanimous": 1}
    first = found.samples[0]
    assert (first.mean_reward, first.best_reward, first.mean_similarity, first.best_similarity) == (
        0.75, 1.0, 0.75, 1.0,
    )  # fmt: skip
    assert found.any_right.value == 0.5


def test_a_reward_that_applies_nowhere_has_no_numbers():
    found = make_forecast(
        ["a"], np.full((1, 2), NAN), {"maths": np.full((1, 2), NAN)}, [1.0], np.zeros((1, 2))
    )
    assert [(r.groups, r.signal, r.best) for r in found.rewards] == [(0, None, None)] * 2
    assert found.samples[0].mean_reward is None
    assert found.samples[0].status == "hopeless"
    assert "-" in render_forecast(found)


@pytest.mark.parametrize(
    ("reward", "similarity", "expected"),
    [
        # no answer is right or wholly wrong: the ends are those of the rewards that were seen
        (
            [[1.2, 1.2], [0.2, 0.2], [0.5, 0.5], [0.2, 1.2]],
            0.5,
            ["solved", "hopeless", "unanimous", "teaches"],
        ),
        # everything earns the same: nothing says whether that is much
        ([[0.2, 0.2], [0.2, 0.2]], 0.5, ["unanimous", "unanimous"]),
        ([[0.0, 0.0], [0.0, 0.0]], 0.0, ["hopeless", "hopeless"]),
        ([[1.0, 1.0], [1.0, 1.0]], 1.0, ["solved", "solved"]),
        # a completion without a score does not count
        ([[1.0, NAN], [0.0, 1.0]], 0.5, ["solved", "teaches"]),
    ],
)
def test_what_a_sample_is(reward, similarity, expected):
    reward = np.array(reward)
    assert classify(reward, np.full(reward.shape, similarity)) == expected


def advice(reward, similarity, **functions):
    reward, similarity = np.array(reward, dtype=float), np.array(similarity, dtype=float)
    ids = [str(n) for n in range(len(reward))]
    found = make_forecast(
        ids, reward, functions or {"ned": reward}, [1.0] * max(1, len(functions)), similarity
    )
    return " ".join(found.advice)


def test_advice():
    solved = advice([[1, 1]] * 9 + [[0, 1]], [[1, 1]] * 9 + [[0, 1]])
    assert "10% of the groups would teach" in solved
    assert "take harder samples" in solved
    assert "9 of 10 samples can be left out: 0 hopeless, 9 solved." in solved
    hopeless = advice([[0, 0]] * 10, [[0, 0]] * 10)
    assert "train longer by SFT first" in hopeless
    assert "hardly better than the mean (+0.000" in hopeless
    assert "raise the temperature" in advice([[0.5, 0.5]] * 9 + [[0, 1]], [[0.5, 0.5]] * 10)
    good = advice([[0, 1]] * 10, [[0.5, 1]] * 10)
    assert "The best of 2 reads 1.000 where the mean reads 0.750" in good
    assert "left out" not in good
    hidden = advice([[0, 0]] * 10, [[0.2, 0.4]] * 10, ned=np.array([[0.2, 0.4]] * 10))
    assert "ned alone would teach in 100%: a gate or a weight hides it." in hidden


def test_the_text():
    text = render_forecast(forecast())
    assert "with a signal" in text
    assert "best of 2" in text
    assert "25.0 % [" in text
    assert "     1  hopeless: no completion scores" in text


def test_samples_are_drawn_by_the_seed():
    assert choose(3, 10, 0) == [0, 1, 2]
    assert choose(100, 10, 1) == choose(100, 10, 1) != choose(100, 10, 2)
    assert len(set(choose(100, 10, 1))) == 10
