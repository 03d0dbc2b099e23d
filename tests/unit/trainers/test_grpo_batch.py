"""From groups to micro-batches and log rows."""

import numpy as np
import pytest
import torch

from glyphrl.data.sample import Sample
from glyphrl.rewards.compose import Scores
from glyphrl.trainers.completions_log import COLUMNS
from glyphrl.trainers.grpo_batch import (
    RunPlace,
    SampledGroup,
    columns_of,
    join_scores,
    log_rows,
    loss_mask,
    mean_or_none,
    micro_batches,
    none_for_nan,
    sampler_logps,
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


def count_up(ids, grids):
    return torch.arange(ids.shape[1]).expand(3, 1, -1)


def batches_of(groups, count, mask_truncated=False):
    advantages = torch.tensor([0.1, 0.2, 0.3, 0.4])
    return micro_batches(
        groups, advantages, count=count, rope_index=count_up, pad_token_id=0, mask_truncated=mask_truncated
    )


def test_columns(groups):
    """What the reward functions get: a value per completion, None where a sample lacks the column."""
    assert columns_of(groups) == {
        "solution": ["12", "12", "yes", "yes"],
        "prompts": ["Read.", "Read.", [{"role": "user", "content": "Read"}], [{"role": "user", "content": "Read"}]],
        "completion_ids": [[11, 12, 13], [14], [21, 22], [23, 24]],
        "kind": ["digits", "digits", "word", "word"],
        "level": [3, 3, None, None],
    }  # fmt: skip


def test_micro_batches(groups):
    one, other = batches_of(groups, 2)
    assert one.packed.lengths == [3, 1]
    assert one.packed.targets.tolist() == [11, 12, 13, 14]
    assert one.advantages.tolist() == pytest.approx([0.1, 0.2])
    assert one.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert other.packed.lengths == [2, 2]
    assert other.advantages.tolist() == pytest.approx([0.3, 0.4])
    (both,) = batches_of(groups, 1)
    assert both.packed.lengths == [3, 1, 2, 2]
    assert both.mask.sum() == 8
    assert both.sampler_logps.shape == both.mask.shape == (4, 3)


def test_groups_are_never_torn_apart(groups):
    with pytest.raises(ValueError, match="2 groups cannot be cut into 3 equal micro-batches"):
        batches_of(groups, 3)


def test_completions_that_were_cut_off_need_not_count(groups):
    (kept,) = batches_of(groups, 1)
    (masked,) = batches_of(groups, 1, mask_truncated=True)
    assert kept.mask.sum(1).tolist() == [3, 1, 2, 2]
    assert masked.mask.sum(1).tolist() == [3, 1, 0, 2]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert torch.equal(loss_mask(rollouts, True), masked.mask)


def test_what_the_sampler_says(groups):
    rollouts = groups[0].rollouts
    got = sampler_logps(rollouts)
    torch.testing.assert_close(got, torch.tensor([[-1.0, -2.0, NAN], [-0.5, 0.0, 0.0]]), equal_nan=True)
    assert sampler_logps([rollouts[0], Rollout([5], None, "stop")]) is None


def test_moving(groups):
    (batch,) = batches_of(groups, 1)
    batch.old_logps = torch.zeros(4, 3)
    moved = batch.to(torch.device("meta"))
    assert {moved.advantages.device.type, moved.old_logps.device.type, moved.packed.targets.device.type} == {
        "meta"
    }
    assert moved.ref_logps is None
    assert moved.window_tokens == batch.window_tokens


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
    found = scores([1.0, NAN, 0.5, 0.0], note=["a", None, "c", "d"], answer=["x", "x", "x", "x"])
    rows = log_rows(groups, found, [0.5, 0.0, -0.5, 0.0], place, "hash", {"/x.png": "digest"})
    assert {name for name, _ in COLUMNS} | {"note", "extra/answer"} == set(rows[0])
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
