"""Numbers of a step, by hand."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from glyphrl.data.sample import Sample
from glyphrl.rewards.compose import Scores
from glyphrl.rewards.ned import edit_similarity
from glyphrl.trainers.advantages import group_advantages
from glyphrl.trainers.grpo_batch import SampledGroup
from glyphrl.trainers.grpo_metrics import (
    LossMeter,
    answer_columns,
    degenerate_share,
    edit_similarities,
    generation_metrics,
    text_number,
)
from glyphrl.trainers.loss import LossTerms
from glyphrl.trainers.prompts import EncodedPrompt
from glyphrl.trainers.rollout import Rollout

NAN = float("nan")


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def groups_of(lengths, cut=()):
    prompt = EncodedPrompt(Sample("s", (), "Read.", "1"), "", [1], [1], (), None, None)
    rollouts = [
        Rollout([7] * length, None, "length" if index in cut else "stop")
        for index, length in enumerate(lengths)
    ]
    return [SampledGroup(prompt, rollouts[i : i + 2], ["", ""]) for i in range(0, len(rollouts), 2)]


def metrics_of(
    rewards, accelerator, *, lengths=(1, 2, 3, 6), cut=(), faults=(None, "missing", None, None), **more
):
    rewards = np.array(rewards)
    found = Scores({"ned": rewards, "rare": np.full(4, NAN)}, rewards, [""] * 4, list(faults), **more)
    advantages = group_advantages(rewards, 2, "group")
    return generation_metrics(groups_of(lengths, cut), found, [1.0, 1.0], advantages, accelerator)


def test_a_generation(accelerator):
    got = metrics_of([1.0, 0.0, 0.5, 0.5], accelerator, cut=(3,), metrics={"seconds": 0.25})
    assert got["completions/mean_length"] == 3
    assert got["completions/min_length"] == 1
    assert got["completions/max_length"] == 6
    assert got["completions/clipped_ratio"] == 0.25
    assert got["completions/mean_terminated_length"] == 2  # 1, 2, 3
    assert got["format_rate"] == 0.75
    assert got["frac_reward_zero_std"] == 0.5  # the second group
    assert got["reward"] == got["rewards/ned/mean"] == 0.5
    # squares of 0.5, -0.5, 0, 0 over three
    assert got["reward_std"] == got["rewards/ned/std"] == pytest.approx(math.sqrt(0.5 / 3))
    assert math.isnan(got["rewards/rare/mean"])
    assert got["seconds"] == 0.25


def test_what_cannot_be_scored_is_left_out(accelerator):
    got = metrics_of([1.0, NAN, 0.5, NAN], accelerator, cut=(0, 1, 2, 3))
    assert got["reward"] == 0.75
    assert got["reward_std"] == pytest.approx(math.sqrt(2 * 0.25**2))
    assert got["completions/mean_terminated_length"] == 0.0
    one = metrics_of([NAN, NAN, 0.5, NAN], accelerator)
    assert one["reward"] == 0.5
    assert math.isnan(one["reward_std"])


MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
TERMS = LossTerms(
    loss=torch.zeros(2, 3),
    kl=torch.tensor([[0.3, 0.6, 99.0], [0.0, 99.0, 99.0]]),
    clipped_low=torch.tensor([[True, False, True], [False, True, True]]),
    clipped_high=torch.tensor([[False, True, True], [False, True, True]]),
)
ENTROPIES = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]])
LOGPS = torch.zeros(2, 3)


def test_a_loss(accelerator):
    meter = LossMeter()
    assert meter.result(accelerator) == {}
    meter.add(TERMS, ENTROPIES, LOGPS, None, None, MASK)
    assert meter.result(accelerator) == pytest.approx(
        {
            "entropy": 2.0,
            "kl": 0.3,
            "clip_ratio/low_mean": 1 / 3,
            "clip_ratio/high_mean": 1 / 3,
            "clip_ratio/region_mean": 2 / 3,
        }
    )
    nothing = LossMeter()
    nothing.add(TERMS, ENTROPIES, LOGPS, None, None, torch.zeros(2, 3))
    assert set(nothing.result(accelerator).values()) == {0.0}


def test_passes_add_up(accelerator):
    """Means are over the tokens of all passes, not over passes."""
    meter = LossMeter()
    meter.add(TERMS, ENTROPIES, LOGPS, None, None, MASK)
    meter.add(TERMS, torch.full((2, 3), 7.0), LOGPS, None, None, torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
    got = meter.result(accelerator)
    assert got["entropy"] == pytest.approx((1 + 2 + 3 + 7) / 4)
    assert got["clip_ratio/low_mean"] == pytest.approx(2 / 4)


def sampler_metrics(logps, sampler, ratio, mask, accelerator):
    meter = LossMeter()
    zero = torch.zeros_like(logps)
    meter.add(LossTerms(zero, None, zero.bool(), zero.bool()), zero, logps, sampler, ratio, mask)
    return {name: value for name, value in meter.result(accelerator).items() if name.startswith("sampling/")}


def test_trainer_and_sampler(accelerator):
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-1.5, 0.0, 0.0]])
    sampler = torch.tensor([[-1.2, -1.9, NAN], [-1.0, 5.0, 5.0]])
    ratio = torch.tensor([[0.5, 1.0, 1.0], [3.0, 9.0, 9.0]])
    got = sampler_metrics(logps, sampler, ratio, mask, accelerator)
    # differences 0.2, 0.1 and 0.5 count; their ratios are 0.5, 1 and 3
    assert got["sampling/sampling_logp_difference/mean"] == pytest.approx(0.8 / 3)
    assert got["sampling/sampling_logp_difference/max"] == pytest.approx(0.5)
    assert got["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.5)
    sequence = sampler_metrics(logps, sampler, torch.tensor([[0.5], [1.0]]), mask, accelerator)
    assert sequence["sampling/importance_sampling_ratio/mean"] == pytest.approx(0.75)
    assert "sampling/importance_sampling_ratio/mean" not in sampler_metrics(
        logps, sampler, None, mask, accelerator
    )


def test_a_sampler_that_gave_no_number(accelerator):
    nothing = sampler_metrics(torch.zeros(1, 2), torch.full((1, 2), NAN), None, torch.ones(1, 2), accelerator)
    assert set(nothing.values()) == {0.0}


def test_what_the_answers_read(accelerator):
    """Against the reference "1": right, one wrong character, empty, and "1" with another letter."""
    rewards = np.zeros(4)
    found = Scores({}, rewards, ["1", "7", "", "1b"], [None, None, "empty", None])
    groups = groups_of((1, 1, 1, 1))
    got = generation_metrics(groups, found, [], group_advantages(rewards, 2, "group"), accelerator)
    assert got["edit_similarity"] == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert got["repetition"] == 0.0
    assert got["degenerate_rate"] == 0.0  # no wrong answer stands for three references


def test_repetition_is_counted_above_the_references():
    """n-grams of 6: 21 letters of "ab" have 16, two of them different; the reference of 9 dots has 4, one of a kind."""
    sample = Sample("s", (), "Read.", ".........")
    group = SampledGroup(
        EncodedPrompt(sample, "", [1], [1], (), None, None), [Rollout([7], None, "stop")] * 2, []
    )
    columns = answer_columns([group], ["ab" * 10 + "a", "........."])
    assert columns["repetition"] == pytest.approx([14 / 16 - 3 / 4, 0.0])
    assert columns["answer"][1] == columns["reference"][1] != columns["answer"][0]


@pytest.mark.parametrize(
    ("exact", "answers", "references", "share"),
    [
        # 9 for three of four references, where it is right once: three of the four exact ones
        ("1111", "9999", "1239", 3 / 4),
        # the same, one of the wrong ones out of format
        ("0111", "9999", "1239", 2 / 3),
        # 9 for two of four references only
        ("1111", "9945", "1239", 0.0),
        # empty in the format (a parser of one's own may take that for exact), once where the reference is empty too
        ("1111", "0045", "1020", 1 / 4),
        # one reference, misread the same way each time: that is no pattern
        ("1111", "9999", "1111", 0.0),
        ("0000", "9999", "1234", 0.0),
    ],
)
def test_degenerate_answers(exact, answers, references, share):
    numbers = [np.array([float(char) for char in text]) for text in (exact, answers, references)]
    assert degenerate_share(numbers[0] == 1, *numbers[1:]) == pytest.approx(share)


def test_similarities_are_those_of_the_evaluation():
    references, answers = ["476.0", "", "", "abc", "发票"], ["475.0", "", "x", "", "发票号"]
    expected = [edit_similarity(r, a) for r, a in zip(references, answers, strict=True)]
    assert edit_similarities(references, answers) == pytest.approx(expected)


def test_texts_as_numbers():
    texts = ["", "a", "b", "ab", "\ud800", "发"]
    numbers = [text_number(text) for text in texts]
    assert numbers[0] == 0.0
    assert len(set(numbers)) == len(texts)
    assert all(number == int(number) < 2**48 for number in numbers)
