"""The objective: by hand, and against the code of TRL's GRPOTrainer on the same tensors."""

import itertools
import math

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from glyphrl.trainers.loss import (
    Correction,
    LossSettings,
    reduce_loss,
    sampler_correction,
    token_loss,
    token_weights,
)

LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo"]
MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
MAX_LENGTH = 7


class GivenLogps(GRPOTrainer):
    """TRL's own `_compute_loss`, fed with log-probabilities instead of a forward pass."""

    logps: torch.Tensor

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        return self.logps, torch.zeros_like(self.logps), None


@pytest.fixture(scope="module")
def trl_trainer(tinies, tmp_path_factory):
    tiny = tinies["qwen2_5_vl"]
    args = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        steps_per_generation=6,
        num_generations=2,
        max_completion_length=MAX_LENGTH,
        beta=0.0,
    )
    trainer = GivenLogps(
        model=tiny.model(),
        reward_funcs=[lambda completions, **columns: [0.0] * len(completions)],
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["a"]}),
        processing_class=tiny.processor,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    return trainer


@pytest.fixture
def tensors():
    """Four completions of up to six tokens, with ratios on both sides of both clips; the last one does not count."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.tensor(
        [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    ).float()
    draw = lambda scale: torch.randn(4, 6, generator=generator) * scale  # noqa: E731
    logps = -1.5 + draw(0.7)
    return {
        "logps": logps,
        "old": logps + draw(0.3),
        "ref": logps + draw(0.5),
        "advantages": torch.tensor([1.3, -0.7, 0.4, -1.0]),
        "mask": mask,
        "ratio_token": draw(0.4).exp(),
        "ratio_sequence": draw(0.4)[:, :1].exp(),
    }


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_trl_computes_the_same(loss_type, level, trl_trainer, tensors):
    """Loss and gradient for each combination of KL, two-sided clipping, earlier policy and sampler ratio."""
    for (beta, corrected), delta, old, ratio in itertools.product(
        ((0.0, True), (0.04, True), (0.04, False)),
        (None, 1.35),
        (None, "old"),
        (None, "ratio_token", "ratio_sequence"),
    ):
        trainer = trl_trainer
        trainer.loss_type, trainer.importance_sampling_level, trainer.beta = loss_type, level, beta
        trainer.epsilon_low, trainer.epsilon_high, trainer.args.delta = 0.1, 0.25, delta
        trainer.args.use_bias_correction_kl = corrected
        trainer.use_vllm = ratio is not None
        items = torch.tensor(97.0)  # tokens of all six micro-batches
        inputs = {
            "prompt_ids": torch.ones(4, 2, dtype=torch.long),
            "prompt_mask": torch.ones(4, 2, dtype=torch.long),
            "completion_ids": torch.ones(4, 6, dtype=torch.long),
            "completion_mask": tensors["mask"],
            "advantages": tensors["advantages"],
            "num_items_in_batch": items,
            "ref_per_token_logps": tensors["ref"],
            "importance_sampling_ratio": tensors.get(ratio),
        }
        if old:
            inputs["old_per_token_logps"] = tensors["old"]
        trainer.logps = tensors["logps"].clone().requires_grad_()
        expected = trainer._compute_loss(trainer.model, inputs)
        expected.backward()

        logps = tensors["logps"].clone().requires_grad_()
        settings = LossSettings(loss_type, 0.1, 0.25, delta, beta, corrected, level, MAX_LENGTH)
        terms = token_loss(
            logps,
            tensors["old"] if old else logps.detach(),
            tensors["advantages"],
            tensors["mask"],
            settings,
            ref_logps=tensors["ref"],
            sampler_ratio=tensors.get(ratio),
        )
        weights = token_weights(tensors["mask"], settings, window_tokens=float(items * 3 / 6))
        loss = reduce_loss(terms.loss, weights, settings, accumulation_steps=3)
        loss.backward()
        case = f"beta {beta}, corrected {corrected}, delta {delta}, old {old}, ratio {ratio}"
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-8, msg=lambda m, c=case: f"{c}: {m}")
        torch.testing.assert_close(
            logps.grad, trainer.logps.grad, rtol=1e-5, atol=1e-8, msg=lambda m, c=case: f"{c}: {m}"
        )
        if level == "token":
            metrics = trainer._metrics["train"]
            count = tensors["mask"].sum()
            for name, clipped in (("low", terms.clipped_low), ("high", terms.clipped_high)):
                share = (clipped * tensors["mask"]).sum() / count
                assert metrics[f"clip_ratio/{name}_mean"][-1] == pytest.approx(share.item())
        if beta:
            kl = (terms.kl * tensors["mask"]).sum() / tensors["mask"].sum()
            assert trainer._metrics["train"]["kl"][-1] == pytest.approx(kl.item())


def test_clipping_by_hand():
    """Ratios 1.5 and 0.5 under both signs of the advantage; bounds 0.8 and 1.2."""
    old = torch.zeros(4, 1)
    logps = torch.tensor(
        [[math.log(1.5)], [math.log(1.5)], [math.log(0.5)], [math.log(0.5)]], requires_grad=True
    )
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    terms = token_loss(logps, old, advantages, torch.ones(4, 1), LossSettings())
    # min(1.5, 1.2) = 1.2 · min(-1.5, -1.2) = -1.5 · min(0.5, 0.8) = 0.5 · min(-0.5, -0.8) = -0.8, and the minus sign
    torch.testing.assert_close(terms.loss[:, 0], torch.tensor([-1.2, 1.5, -0.5, 0.8]))
    assert terms.clipped_high[:, 0].tolist() == [True, False, False, False]
    assert terms.clipped_low[:, 0].tolist() == [False, False, False, True]
    terms.loss.sum().backward()
    # d ratio / d logp = ratio; a clipped term has no gradient
    torch.testing.assert_close(logps.grad[:, 0], torch.tensor([0.0, 1.5, -0.5, 0.0]))


def test_delta_bounds_what_a_negative_advantage_can_cost():
    # ratio 5, advantage -1: -min(-5, -1.2) = 5 without delta, 2 with delta 2
    logps, old, advantages = torch.tensor([[math.log(5.0)]]), torch.zeros(1, 1), torch.tensor([-1.0])
    free = token_loss(logps, old, advantages, torch.ones(1, 1), LossSettings())
    bounded = token_loss(logps, old, advantages, torch.ones(1, 1), LossSettings(delta=2.0))
    assert (free.loss.item(), bounded.loss.item()) == pytest.approx((5.0, 2.0))


def test_kl_by_hand():
    # k3: exp(ref - logp) - (ref - logp) - 1 with ref - logp = log 2: 2 - log 2 - 1; the policy term is -1 * advantage
    logps, ref = torch.tensor([[-1.0]]), torch.tensor([[-1.0 + math.log(2)]])
    settings = LossSettings(beta=0.5)
    terms = token_loss(logps, logps, torch.tensor([3.0]), torch.ones(1, 1), settings, ref_logps=ref)
    assert terms.kl.item() == pytest.approx(1 - math.log(2))
    assert terms.loss.item() == pytest.approx(-3.0 + 0.5 * (1 - math.log(2)))
    # the policy has become twice as likely to write it since it was sampled: the correction doubles its weight
    terms = token_loss(
        logps, logps - math.log(2), torch.tensor([0.0]), torch.ones(1, 1), settings, ref_logps=ref
    )
    assert terms.loss.item() == pytest.approx(0.5 * 2 * (1 - math.log(2)))
    with pytest.raises(ValueError, match="no log-probabilities of a reference model"):
        token_loss(logps, logps, torch.tensor([3.0]), torch.ones(1, 1), settings)


def test_averages_by_hand():
    per_token = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = {
        "grpo": (6 / 3 + 10 / 1 + 0) / 3 / 2,  # mean per completion, mean of completions, two micro-batches
        "bnpo": 16 / 4 / 2,  # four tokens count
        "dr_grpo": 16 / (3 * 8) / 2,  # three completions of at most eight tokens
        "dapo": 16 / 20,  # twenty tokens in the window
    }
    for loss_type, value in expected.items():
        settings = LossSettings(loss_type, max_completion_length=8)
        weights = token_weights(mask, settings, window_tokens=20.0)
        loss = reduce_loss(per_token, weights, settings, accumulation_steps=2)
        assert loss.item() == pytest.approx(value), loss_type
    with pytest.raises(ValueError, match="unknown loss_type 'ppo'; known: grpo"):
        token_weights(mask, LossSettings("ppo"), window_tokens=1.0)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_nothing_counts(loss_type):
    """A micro-batch whose completions are all masked adds nothing, and no NaN."""
    logps = torch.randn(2, 3, requires_grad=True)
    for level in ("token", "sequence"):
        settings = LossSettings(loss_type, importance_sampling_level=level)
        terms = token_loss(logps, logps.detach(), torch.tensor([1.0, -1.0]), torch.zeros(2, 3), settings)
        weights = token_weights(torch.zeros(2, 3), settings, window_tokens=5.0)
        loss = reduce_loss(terms.loss, weights, settings, accumulation_steps=1)
        loss.backward()
        assert loss.item() == 0
        assert not logps.grad.any()


NAN = float("nan")
LOG = math.log
#                    ratios: 2, 1/4, no number; 3; masked token
DIFFERENCES = torch.tensor([[LOG(2), -LOG(4), NAN], [LOG(3), 50.0, 50.0]])
MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def correct(mode, clip_min, clip_max):
    sampler = torch.full((2, 3), -1.0)
    trainer = sampler + DIFFERENCES.nan_to_num(0.0)
    sampler = torch.where(DIFFERENCES.isnan(), DIFFERENCES, sampler)
    return sampler_correction(trainer, sampler, MASK, Correction(mode, clip_min, clip_max))


@pytest.mark.parametrize(
    ("mode", "clip_min", "clip_max", "expected"),
    [
        ("token_truncate", None, 2.5, [[2, 0.25, 1], [2.5, 1, 1]]),
        ("token_truncate", 0.5, 2.5, [[2, 0.5, 1], [2.5, 1, 1]]),
        ("token_truncate", None, None, [[2, 0.25, 1], [3, 1, 1]]),
        ("token_mask", None, 2.5, [[2, 0.25, 1], [0, 1, 1]]),
        ("token_mask", 0.5, 2.5, [[2, 0, 1], [0, 1, 1]]),
        ("token_mask", None, None, [[2, 0.25, 1], [3, 1, 1]]),
        # products: 2 * 1/4 * 1 = 1/2, and 3
        ("sequence_truncate", 0.75, 2.5, [[0.75], [2.5]]),
        ("sequence_truncate", None, None, [[0.5], [3]]),
        ("sequence_mask", None, 2.5, [[0.5], [0]]),
        ("sequence_mask", 0.75, None, [[0], [3]]),
    ],
)
def test_sampler_correction_by_hand(mode, clip_min, clip_max, expected):
    torch.testing.assert_close(correct(mode, clip_min, clip_max), torch.tensor(expected, dtype=torch.float32))


def test_unknown_correction():
    for mode in ("token", "truncate", "word_mask", "token_clip", ""):
        with pytest.raises(ValueError, match="unknown vllm_importance_sampling_mode"):
            correct(mode, None, None)
