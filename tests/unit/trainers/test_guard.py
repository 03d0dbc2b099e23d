"""Each alarm by hand, and none on a healthy run."""

from dataclasses import replace

import numpy as np
import pytest

from glyphrl.config_schema import GuardConfig
from glyphrl.trainers.guard import Guard, trend

SETTINGS = GuardConfig(window=6)
HEALTHY = {
    "reward": 0.5,
    "edit_similarity": 0.5,
    "completions/mean_length": 20.0,
    "completions/clipped_ratio": 0.0,
    "repetition": 0.01,
    "frac_reward_zero_std": 0.2,
    "degenerate_rate": 0.0,
}


def watch(series, settings=SETTINGS, steps=None):
    """All alarms of a run; `series` gives a metric's values, the others stay healthy."""
    guard = Guard(settings)
    count = len(next(iter(series.values())))
    alarms = []
    for number in range(count):
        values = {**HEALTHY, **{name: values[number] for name, values in series.items()}}
        alarms += guard.observe(steps[number] if steps else number + 1, values)
    return alarms


def test_a_line_by_hand():
    """1, 2, 2, 3: slope 0.6 around 2; residuals 0.1, 0.1 off at the ends' side: Σr² = 0.2, error √(0.2 / 2 / 5)."""
    found = trend(np.array([1.0, 2.0, 2.0, 3.0]))
    assert (found.start, found.end) == pytest.approx((1.1, 2.9))
    assert found.clarity == pytest.approx(0.6 / (0.2 / 2 / 5) ** 0.5)
    assert trend(np.full(5, 0.3)).clarity == 0.0
    assert trend(np.array([1.0, 2.0, 3.0])).clarity == np.inf
    assert trend(np.array([3.0, 2.0, 1.0])).clarity == -np.inf


def test_reward_up_and_similarity_down():
    series = {
        "reward": [0.5, 0.5, 0.52, 0.54, 0.56, 0.58],
        "edit_similarity": [0.6, 0.6, 0.58, 0.55, 0.53, 0.5],
    }
    (alarm,) = watch(series)
    assert (alarm.kind, alarm.step, alarm.first_step) == ("gaming", 6, 1)
    # Σ x·y is 0.30 and -0.37 for x = -2.5 to 2.5, Σ x² 17.5; the means are 0.5333 and 0.56; 2.5 slopes to each side
    assert alarm.sentence == (
        "the reward rose from 0.490 to 0.576 over steps 1 to 6 while the edit similarity of the same completions fell "
        "from 0.613 to 0.507: the reward may be gamed"
    )
    assert watch(series, replace(SETTINGS, similarity_drop=None)) == []
    assert watch(series, replace(SETTINGS, similarity_drop=0.2)) == []


@pytest.mark.parametrize(
    "series",
    [
        {"reward": [0.5, 0.52, 0.54, 0.56, 0.58, 0.6], "edit_similarity": [0.5, 0.52, 0.54, 0.55, 0.58, 0.6]},
        {"reward": [0.6, 0.58, 0.56, 0.54, 0.52, 0.5], "edit_similarity": [0.6, 0.58, 0.56, 0.54, 0.52, 0.5]},
        {"reward": [0.5, 0.52, 0.54, 0.56, 0.58, 0.6], "edit_similarity": [0.5, 0.4, 0.6, 0.3, 0.6, 0.4]},
    ],
    ids=["both rise", "both fall", "similarity is noise"],
)
def test_other_trends_are_no_gaming(series):
    assert watch(series) == []


@pytest.mark.parametrize(
    ("kind", "metric", "values", "said", "off"),
    [
        # the first three steps against the last three: 20 and 46
        (
            "length",
            "completions/mean_length",
            [20, 20, 20, 40, 45, 53],
            "46 tokens over steps 4 to 6, 2.3 times the 20 of steps 1 to 3",
            "length_growth",
        ),
        (
            "cut_off",
            "completions/clipped_ratio",
            [0, 0, 0.15, 0.3, 0.3, 0.3],
            "30% of the completions over steps 4 to 6 were cut off at the length limit, against 5%",
            "cut_off_growth",
        ),
        (
            "repetition",
            "repetition",
            [0.1, 0.1, 0.1, 0.2, 0.4, 0.6],
            "40% of the answers' text over steps 4 to 6 is repetition",
            "repetition_growth",
        ),
        (
            "no_signal",
            "frac_reward_zero_std",
            [0, 0, 0, 0.9, 0.95, 1.0],
            "in 95% of the groups over steps 4 to 6",
            "no_signal",
        ),
        (
            "degenerate",
            "degenerate_rate",
            [0, 0, 0, 0.3, 0.4, 0.5],
            "40% of the completions in the exact format over steps 4 to 6",
            "degenerate",
        ),
    ],
)
def test_a_level(kind, metric, values, said, off):
    (alarm,) = watch({metric: values})
    assert (alarm.kind, alarm.step, alarm.first_step) == (kind, 6, 1)
    assert said in alarm.sentence
    assert watch({metric: values}, replace(SETTINGS, **{off: None})) == []
    assert watch({metric: values[:5]}) == []  # no whole window yet


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_raises_no_alarm(seed):
    """300 noisy steps: similarity and reward rise together, length settles, fewer and fewer groups differ."""
    noise = np.random.default_rng(seed)
    progress = np.linspace(0, 1, 300)
    shared = (
        0.4 + 0.4 * progress + 0.05 * noise.standard_normal(300)
    )  # the samples of a step are hard or easy
    series = {
        "reward": shared + 0.02 * noise.standard_normal(300),
        "edit_similarity": shared + 0.02 * noise.standard_normal(300),
        "completions/mean_length": 20 + 4 * progress + 2 * noise.standard_normal(300),
        "completions/clipped_ratio": 0.05 * noise.random(300),
        "repetition": 0.02 * noise.random(300),
        "frac_reward_zero_std": 0.1 + 0.5 * progress + 0.1 * noise.random(300),
        "degenerate_rate": 0.1 * noise.random(300),
    }
    assert watch({name: values.tolist() for name, values in series.items()}, GuardConfig()) == []


def test_an_alarm_is_given_once_until_it_has_been_over_for_a_window():
    dead, fine = (
        [1.0] * 3,
        [0.0] * 9,
    )  # three bad steps fill the last half window, and it takes three to empty it
    alarms = watch({"frac_reward_zero_std": [0.0] * 3 + dead * 3 + [0.0] * 2 + dead + fine + dead})
    # bad are 4 to 12, seen at 6; 15 to 17, after four quiet steps (13 to 16); 27 to 29, after more than six
    assert [alarm.step for alarm in alarms] == [6, 29]


def test_the_window_begins_behind_the_line_before_it():
    """A run that logs every fifth step: its lines speak for the steps since the line before."""
    steps = [5 * n for n in range(1, 9)]
    (alarm,) = watch({"degenerate_rate": [0, 0, 0, 0, 0, 0, 0.6, 0.6]}, steps=steps)
    assert (alarm.step, alarm.first_step) == (40, 11)


def test_lines_without_a_reward_and_numbers_that_are_none():
    guard = Guard(replace(SETTINGS, similarity_drop=None))
    for step in range(1, 6):
        assert guard.observe(step, {**HEALTHY, "frac_reward_zero_std": 1.0}) == []
        assert guard.observe(step, {"train_runtime": 3.0, "loss": 1.0}) == []
    assert guard.observe(6, {**HEALTHY, "reward": float("nan"), "frac_reward_zero_std": 1.0}) == []
    assert [alarm.kind for alarm in guard.observe(7, {**HEALTHY, "frac_reward_zero_std": 1.0})] == [
        "no_signal"
    ]
    missing = Guard(SETTINGS)
    for step in range(1, 9):
        assert missing.observe(step, {"reward": 1.0, "repetition": None}) == []
