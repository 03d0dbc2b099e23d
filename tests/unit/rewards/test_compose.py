"""The weighted sum, and every way in which a function can go wrong."""

import math

import numpy as np
import pytest

from glyphrl.config_schema import RewardsConfig, RewardSpec
from glyphrl.errors import UserError
from glyphrl.rewards import RewardError, register_reward
from glyphrl.rewards.compose import build_composer


def composer(*specs, **settings):
    return build_composer(RewardsConfig(functions=list(specs), **settings))


def test_weighted_sum_of_weighted_cer_and_format():
    made = composer(RewardSpec("weighted_cer", 1.0), RewardSpec("format", 0.2))
    scores = made.score(["<answer>475.0</answer>", "476.0"], {"solution": ["476.0", "476.0"]})
    # 476.0 weighs 2 + 2 + 2 + 1 + 2 = 9; one digit wrong costs 2.
    np.testing.assert_allclose(scores.per_function["weighted_cer"], [1 - 2 / 9, 1.0])
    np.testing.assert_allclose(scores.per_function["format"], [1.0, 0.0])
    np.testing.assert_allclose(scores.reward, [1 - 2 / 9 + 0.2, 1.0])
    assert scores.answers == ["475.0", "476.0"]
    assert scores.faults == [None, "missing"]


def test_strict_answers_reach_the_rewards():
    made = composer(RewardSpec("ned"), answer="strict")
    assert made.score(["476"], {"solution": ["476"]}).reward[0] == 0.0
    own = composer(RewardSpec("ned", args={"answer_mode": "lenient"}), answer="strict")
    assert own.score(["476"], {"solution": ["476"]}).reward[0] == 1.0


def test_none_is_left_out_of_the_sum_and_all_none_is_nan():
    @register_reward("odd_only")
    def odd_only(completions, solution, **columns):
        return [None if len(c) % 2 == 0 else 1.0 for c in completions]

    scores = composer(RewardSpec("odd_only", 2.0)).score(["a", "ab"], {"solution": ["a", "b"]})
    assert scores.reward[0] == 2.0
    assert math.isnan(scores.reward[1])
    with_ned = composer(RewardSpec("odd_only", 2.0), RewardSpec("ned", 0.5))
    np.testing.assert_allclose(with_ned.score(["a", "ab"], {"solution": ["a", "ab"]}).reward, [2.5, 0.5])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", [1.0]])
def test_what_is_no_score_is_an_error_that_names_the_completion(value):
    @register_reward("bad")
    def bad(completions, solution, **columns):
        return [1.0, value]

    with pytest.raises(
        RewardError, match=r"reward bad on completion 1 of 2 \(sample 'p-2'\).*returned.*'second'"
    ):
        composer(RewardSpec("bad")).score(
            ["first", "second"], {"solution": ["a", "b"]}, sample_ids=["p-1", "p-2"]
        )


def test_an_exception_names_reward_sample_completion_and_line():
    @register_reward("divides")
    def divides(completions, solution, **columns):
        return [1 / (len(c) - 3) for c in completions]

    with pytest.raises(RewardError) as caught:
        composer(RewardSpec("divides")).score(
            ["one more", "abc"], {"solution": ["a", "b"]}, sample_ids=["p-1", "p-2"]
        )
    message = str(caught.value)
    for part in ("divides", "p-2", "'abc'", "ZeroDivisionError", "test_compose.py:"):
        assert part in message
    assert (caught.value.reward, caught.value.index) == ("divides", 1)


def test_wrong_length_is_an_error():
    @register_reward("short")
    def short(completions, **columns):
        return [1.0]

    with pytest.raises(RewardError, match="short returned 1 scores for 2 completions"):
        composer(RewardSpec("short")).score(["a", "b"], {"solution": ["a", "b"]})


def test_missing_solution_is_an_error_not_a_zero():
    with pytest.raises(RewardError, match=r"sample 's1'.*solution is None"):
        composer(RewardSpec("ned")).score(["a", "b"], {"solution": ["a", None]}, sample_ids=["s0", "s1"])


def test_extra_columns_and_logs_reach_function_and_scores():
    @register_reward("uses_difficulty")
    def uses_difficulty(completions, solution, difficulty, log_extra, log_metric, **columns):
        log_extra("seen", [d * 2 for d in difficulty])
        log_metric("mean_difficulty", sum(difficulty) / len(difficulty))
        return [float(d) for d in difficulty]

    scores = composer(RewardSpec("uses_difficulty")).score(
        ["a", "b"], {"solution": ["a", "b"], "difficulty": [1, 3], "trainer_state": object()}
    )
    assert scores.extras == {"seen": [2, 6]}
    assert scores.metrics == {"mean_difficulty": 2.0}
    with pytest.raises(RewardError, match=r"uses_difficulty needs difficulty.*solution"):
        composer(RewardSpec("uses_difficulty")).score(["a"], {"solution": ["a"]})


def test_names_are_unique_and_the_hash_follows_the_specification():
    first = composer(RewardSpec("ned"), RewardSpec("ned", args={"normalization": "nfc"}))
    assert first.names == ["ned", "ned_2"]
    assert composer(RewardSpec("ned")).spec_hash == composer(RewardSpec("ned")).spec_hash
    variants = [
        composer(RewardSpec("ned")),
        composer(RewardSpec("ned", 2.0)),
        composer(RewardSpec("ned", args={"normalization": "nfc"})),
        composer(RewardSpec("exact_match")),
        composer(RewardSpec("ned"), answer="strict"),
        first,
    ]
    assert len({made.spec_hash for made in variants}) == len(variants)


def test_a_column_of_the_wrong_length_is_an_error():
    with pytest.raises(RewardError, match="column solution has 1 values for 2 completions"):
        composer(RewardSpec("ned")).score(["a", "b"], {"solution": ["a"]})


def test_an_empty_batch_gives_empty_scores():
    scores = composer(RewardSpec("ned")).score([], {"solution": []})
    assert scores.reward.shape == (0,)
    assert scores.per_function["ned"].shape == (0,)


def test_mistakes_in_the_configuration():
    with pytest.raises(UserError, match="did you mean 'weighted_cer'"):
        composer(RewardSpec("weighted_cr"))
    with pytest.raises(UserError, match="no parameter important_char; did you mean 'important_chars'"):
        composer(RewardSpec("weighted_cer", args={"important_char": "1"}))
    with pytest.raises(UserError, match="functions is empty"):
        composer()
    with pytest.raises(UserError, match="finite"):
        composer(RewardSpec("ned", float("nan")))
