"""From groups to columns for the rewards and rows of the log."""

import numpy as np
import pytest

from glyphrl.data.sample import Sample
from glyphrl.rewards.compose import Scores
from glyphrl.trainers.completions_log import COLUMNS
from glyphrl.trainers.grpo_batch import (
    RunPlace,
    SampledGroup,
    columns_of,
    join_scores,
    log_rows,
    mean_or_none,
    none_for_nan,
    rows_of,
    take_scores,
)
from glyphrl.trainers.prompts import EncodedPrompt
from glyphrl.trainers.rollout import Rollout

NAN = float("nan")


def text_prompt(sample, ids):
    return EncodedPrompt(sample, f"prompt of {sample.id}", ids, ids, (), None, None)


@pytest.fixture
def groups():
    """Two groups of two: lengths 3 and 1, 2 and 2; the second of them was cut off."""
    first = Sample("a", ("/x.png",), "Read.", "12", {"kind": "digits", "level": 3})
    second = Sample("b", (), [{"role": "user", "content": "Read"}], "yes", {"kind": "word"})
    return [
        SampledGroup(
            text_prompt(first, [1, 2, 3]),
            [Rollout([11, 12, 13], [-1.0, -2.0, NAN], "stop"), Rollout([14], [-0.5], "stop")],
            ["12", "1"],
        ),
        SampledGroup(
            text_prompt(second, [4, 5]),
            [Rollout([21, 22], [-0.1, -0.3], "length"), Rollout([23, 24], [-3.0, -1.0], "stop")],
            ["yes", "no"],
        ),
    ]


def test_columns(groups):
    """What the reward functions get: a value per completion, None where a sample lacks the column."""
    assert columns_of(groups) == {
        "solution": ["12", "12", "yes", "yes"],
        "prompts": ["Read.", "Read.", [{"role": "user", "content": "Read"}], [{"role": "user", "content": "Read"}]],
        "completion_ids": [[11, 12, 13], [14], [21, 22], [23, 24]],
        "kind": ["digits", "digits", "word", "word"],
        "level": [3, 3, None, None],
    }  # fmt: skip


def scores(rewards, **extras):
    count = len(rewards)
    return Scores(
        per_function={"ned": np.array(rewards)},
        reward=np.array(rewards),
        answers=[f"answer {i}" for i in range(count)],
        faults=[None, "missing", None, None][:count],
        extras=extras,
    )


def test_log_rows(groups):
    place = RunPlace("r", 7, 0.5, 1)
    found = scores(
        [1.0, NAN, 0.5, 0.0], note=["a", None, "c", "d"], answer=["x", "x", "x", "x"], kind=[1, 2, 3, 4]
    )
    rows = log_rows(groups, found, [0.5, 0.0, -0.5, 0.0], place, "hash", {"/x.png": "digest"})
    assert {name for name, _ in COLUMNS} | {"note", "extra/answer", "kind", "level", "extra/kind"} == set(
        rows[0]
    )
    # columns of the data, which rewards may read when they are tried later, and beside them what rewards logged
    assert [row["kind"] for row in rows] == ["digits", "digits", "word", "word"]
    assert [row["level"] for row in rows] == [3, 3, None, None]
    assert [row["extra/kind"] for row in rows] == [1, 2, 3, 4]
    assert [row["group_id"] for row in rows] == ["7-1-0", "7-1-0", "7-1-1", "7-1-1"]
    assert [row["completion_index"] for row in rows] == [0, 1, 0, 1]
    assert [row["completion"] for row in rows] == ["12", "1", "yes", "no"]
    assert [row["answer"] for row in rows] == ["answer 0", "answer 1", "answer 2", "answer 3"]
    assert [row["format_fault"] for row in rows] == [None, "missing", None, None]
    assert [row["reward"] for row in rows] == [1.0, None, 0.5, 0.0]
    assert [row["advantage"] for row in rows] == [0.5, 0.0, -0.5, 0.0]
    assert [row["num_tokens"] for row in rows] == [3, 1, 2, 2]
    assert [row["finish_reason"] for row in rows] == ["stop", "stop", "length", "stop"]
    assert rows[0]["images"] == [{"path": "/x.png", "sha256": "digest"}]
    assert rows[2]["images"] == []
    assert rows[2]["prompt"] == "prompt of b"
    assert rows[0]["mean_logprob"] == pytest.approx(
        -1.5
    )  # of the two tokens that the sampler has a number for
    assert rows[3]["mean_logprob"] == pytest.approx(-2.0)
    assert {row["time"] for row in rows} == {place.time}


def test_small_helpers():
    assert mean_or_none(None) is None
    assert mean_or_none([]) is None
    assert mean_or_none([NAN]) is None
    assert mean_or_none([1.0, 2.0]) == 1.5
    assert none_for_nan(NAN) is None
    assert none_for_nan(np.float64(0.5)) == 0.5


def test_joining_chunks_of_scores():
    """As if all completions had been scored at once; a column or a metric that one chunk lacks is None there."""
    one, other = scores([1.0, NAN], note=["a", "b"]), scores([0.5, 0.25, 0.0], late=[1, 2, 3])
    one.metrics = {"seconds": 1.0, "reward/ned/skipped": 1.0, "once": 4.0}
    other.metrics = {"seconds": 2.0, "reward/ned/skipped": 2.0}
    joined = join_scores([one, other])
    np.testing.assert_array_equal(joined.reward, [1.0, NAN, 0.5, 0.25, 0.0])
    np.testing.assert_array_equal(joined.per_function["ned"], joined.reward)
    assert joined.answers == ["answer 0", "answer 1", "answer 0", "answer 1", "answer 2"]
    assert joined.faults == [None, "missing", None, "missing", None]
    assert joined.extras == {"note": ["a", "b", None, None, None], "late": [None, None, 1, 2, 3]}
    # 2 completions at 1.0 and 3 at 2.0; counts add up; a mean over those that have it
    assert joined.metrics == {"seconds": pytest.approx(1.6), "reward/ned/skipped": 3.0, "once": 4.0}
    assert join_scores([one]) is one


def test_taking_some_scores():
    found = scores([1.0, NAN, 0.5, 0.0], note=["a", "b", "c", "d"])
    found.metrics = {"seconds": 1.0}
    assert rows_of([1, 0], 2) == [2, 3, 0, 1]
    taken = take_scores(found, rows_of([1, 0], 2))
    np.testing.assert_array_equal(taken.reward, [0.5, 0.0, 1.0, NAN])
    np.testing.assert_array_equal(taken.per_function["ned"], taken.reward)
    assert taken.answers == ["answer 2", "answer 3", "answer 0", "answer 1"]
    assert taken.faults == [None, None, None, "missing"]
    assert taken.extras == {"note": ["c", "d", "a", "b"]}
    assert taken.metrics == {"seconds": 1.0}
