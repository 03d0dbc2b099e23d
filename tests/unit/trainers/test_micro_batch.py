"""From groups to micro-batches and forward passes."""

import numpy as np
import pytest
import torch

from glyphrl.data.sample import Sample
from glyphrl.trainers.grpo_batch import SampledGroup
from glyphrl.trainers.loss import LossSettings
from glyphrl.trainers.micro_batch import BatchBuilder, loss_mask, sampler_logps
from glyphrl.trainers.prompts import EncodedPrompt
from glyphrl.trainers.rollout import Rollout

NAN = float("nan")


def text_prompt(name, ids):
    return EncodedPrompt(Sample(name, (), "Read.", "1"), "", ids, ids, (), None, None)


@pytest.fixture
def groups():
    """Two groups of two: lengths 3 and 1, 2 and 2; the third completion was cut off."""
    return [
        SampledGroup(
            text_prompt("a", [1, 2, 3]),
            [Rollout([11, 12, 13], [-1.0, -2.0, NAN], "stop"), Rollout([14], [-0.5], "stop")],
            ["12", "1"],
        ),
        SampledGroup(
            text_prompt("b", [4, 5]),
            [Rollout([21, 22], [-0.1, -0.3], "length"), Rollout([23, 24], [-3.0, -1.0], "stop")],
            ["yes", "no"],
        ),
    ]


def builder(*, mask_truncated=False, max_tokens=None, beta=0.0, loss_type="bnpo"):
    return BatchBuilder(
        LossSettings(loss_type, beta=beta),
        lambda ids, grids: torch.arange(ids.shape[1]).expand(3, 1, -1),
        pad_token_id=0,
        mask_truncated=mask_truncated,
        max_tokens=max_tokens,
    )


def batches_of(groups, count, advantages=(0.1, 0.2, 0.3, 0.4), **settings):
    made = builder(**settings)
    return made.build(groups, np.array(advantages), made.masks(groups, count), 8.0)


def test_micro_batches(groups):
    one, other = [batch.passes for batch in batches_of(groups, 2)]
    assert one[0].packed.lengths == [3, 1]
    assert one[0].packed.targets.tolist() == [11, 12, 13, 14]
    assert one[0].advantages.tolist() == pytest.approx([0.1, 0.2])
    assert one[0].mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert one[0].weights.tolist() == [[0.25, 0.25, 0.25], [0.25, 0, 0]]
    assert other[0].packed.lengths == [2, 2]
    assert other[0].advantages.tolist() == pytest.approx([0.3, 0.4])
    assert len(one) == len(other) == 1
    (both,) = batches_of(groups, 1)
    (only,) = both.passes
    assert only.packed.lengths == [3, 1, 2, 2]
    assert only.mask.sum() == 8
    assert only.sampler_logps.shape == only.mask.shape == (4, 3)


def test_groups_are_never_torn_apart(groups):
    with pytest.raises(ValueError, match="2 groups cannot be cut into 3 equal micro-batches"):
        batches_of(groups, 3)


def test_a_budget_cuts_a_micro_batch_into_passes_of_the_same_weights(groups):
    """Rows of 6 and 5 tokens; with a budget of 5 the first is cut, and repeats its prompt."""
    (whole,) = batches_of(groups, 1)[0].passes
    parts = batches_of(groups, 1, max_tokens=5)[0].passes
    assert [part.packed.lengths for part in parts] == [[3], [2, 2], [1]]
    assert [part.packed.input_ids.tolist() for part in parts] == [
        [[1, 2, 3, 11, 12]],
        [[4, 5, 21, 5, 23]],
        [[1, 2, 3]],
    ]
    weights = {
        target: weight
        for part in [whole, *parts]
        for target, weight in zip(
            part.packed.targets.tolist(), part.weights[part.mask > 0].tolist(), strict=True
        )
    }
    assert set(weights.values()) == {1 / 8}


def test_what_takes_part(groups):
    """No advantage, or masked: nothing to learn, but the weights of the rest stay. A KL term concerns all."""
    lengths = lambda **how: [part.packed.lengths for part in batches_of(groups, 1, **how)[0].passes]  # noqa: E731
    some = (0.0, 0.2, 0.3, 0.0)
    assert lengths(advantages=some) == [[1, 2]]
    assert lengths(advantages=some, mask_truncated=True) == [[1]]
    assert lengths(advantages=some, beta=0.1) == [[3, 1, 2, 2]]
    assert lengths(advantages=some, beta=0.1, mask_truncated=True) == [[3, 1, 2]]
    assert lengths(advantages=(0, 0, 0, 0)) == []
    (part,) = batches_of(groups, 1, advantages=some)[0].passes
    assert part.weights.tolist() == [[1 / 8, 0], [1 / 8, 1 / 8]]


def test_a_rank_without_work_has_a_pass_whose_loss_is_nothing(groups):
    idle = builder().idle_pass(groups)
    assert idle.packed.input_ids.tolist() == [[4, 5, 21]], "the shortest prompt with its shortest completion"
    assert not idle.weights.any()
    assert not idle.mask.any()
    assert not idle.advantages.any()


def test_completions_that_were_cut_off_need_not_count(groups):
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert loss_mask(rollouts, False).sum(1).tolist() == [3, 1, 2, 2]
    assert loss_mask(rollouts, True).sum(1).tolist() == [3, 1, 0, 2]


def test_what_the_sampler_says(groups):
    rollouts = groups[0].rollouts
    got = sampler_logps(rollouts)
    torch.testing.assert_close(got, torch.tensor([[-1.0, -2.0, NAN], [-0.5, 0.0, 0.0]]), equal_nan=True)
    assert sampler_logps([rollouts[0], Rollout([5], None, "stop")]) is None


def test_moving(groups):
    (part,) = batches_of(groups, 1)[0].passes
    part.old_logps = torch.zeros(4, 3)
    moved = part.to(torch.device("meta"))
    devices = {
        t.device.type for t in (moved.advantages, moved.weights, moved.old_logps, moved.packed.targets)
    }
    assert devices == {"meta"}
    assert moved.ref_logps is None
