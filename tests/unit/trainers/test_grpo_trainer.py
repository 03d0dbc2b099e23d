"""GroupTrainer against TRL's own GRPOTrainer: the same samples, completions and rewards, the same loss and gradients.

TRL repeats the prompt and its image for every completion and pads; GroupTrainer packs. All else has to be the same:
advantages, averages, clipping, KL, sampler correction, metrics.
"""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from trl_twin import (
    COMPLETIONS,
    TEACHING,
    add_sampler_logps,
    arguments,
    gradients,
    group_trainer,
    micro_batches_of_ours,
    micro_batches_of_trl,
    nudge,
    register_similarity,
    trl_trainer,
)

from glyphrl.config_schema import GrpoStageConfig, RewardsConfig, RewardSpec
from glyphrl.rewards import RewardError, register_reward
from glyphrl.rewards.compose import build_composer
from glyphrl.trainers import grpo_trainer
from glyphrl.trainers.completions_log import read_completions
from glyphrl.trainers.image_features import ImageFeatures
from glyphrl.trainers.micro_batch import BatchBuilder
from glyphrl.trainers.models import freeze

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module", autouse=True)
def similarity():
    """What both trainers are rewarded by."""
    register_similarity()


@pytest.fixture
def samples(samples):
    """As everywhere, but with all images in front: TRL knows no other place for them."""
    return [replace(sample, prompt=sample.prompt.replace("<image>", "")) for sample in samples]


ON_SAMPLER = {"with_logps": True}
BOUNDS = {"vllm_importance_sampling_clip_min": 0.6, "vllm_importance_sampling_clip_max": 1.8}
CASES = {
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "sequence": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4},
    "batch-scaled": {"scale_rewards": "batch"},
    "not-scaled": {"scale_rewards": "none", "temperature": 0.7},
    "kl": {"beta": 0.04},
    "kl-plain": {"beta": 0.04, "use_bias_correction_kl": False, "loss_type": "grpo"},
    "kl-lora": {"beta": 0.04, "lora": True},
    "lora": {"lora": True, "loss_type": "bnpo"},
    "two-iterations": {"num_iterations": 2, "epsilon": 0.02, "epsilon_high": 0.04},
    "two-iterations-sequence": {
        "num_iterations": 2, "epsilon": 0.005, "importance_sampling_level": "sequence", "loss_type": "grpo",
    },
    "delta": {"num_iterations": 2, "epsilon": 0.02, "delta": 1.05, "loss_type": "bnpo"},
    "long-generation": {
        "per_device_train_batch_size": 3, "steps_per_generation": 4, "gradient_accumulation_steps": 2,
    },
    "overlong-masked": {"mask_truncated_completions": True},
    "overlong-masked-grpo": {"mask_truncated_completions": True, "loss_type": "grpo"},
    "budget": {"budget": 60, "loss_type": "bnpo"},
    "budget-smaller-than-a-group": {"budget": 25, "beta": 0.04, "num_iterations": 2, "epsilon": 0.02},
    "budget-lora": {"budget": 60, "lora": True},
    **{
        mode: {"vllm_importance_sampling_mode": mode, **BOUNDS, **ON_SAMPLER}
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    },
    "sampler-two-iterations": {
        "num_iterations": 2, "vllm_importance_sampling_mode": "token_truncate", "beta": 0.04, **BOUNDS, **ON_SAMPLER,
    },
    "sampler-uncorrected": {"vllm_importance_sampling_correction": False, **ON_SAMPLER},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_metrics_are_those_of_trl(case, tinies, samples, tmp_path, monkeypatch):
    """One accumulation window after the other, every parameter."""
    # TRL lets the policy write image tokens, so that its distribution is a little wider; test_policy.py has the ban
    monkeypatch.setattr(grpo_trainer, "banned_token_ids", lambda tokenizer: [])
    changes = dict(CASES[case])
    lora, with_logps = changes.pop("lora", False), changes.pop("with_logps", False)
    options = GrpoStageConfig(max_tokens_per_micro_batch=changes.pop("budget", None))
    all_teach = with_logps or "beta" in changes or changes.get("num_iterations", 1) > 1
    if case == "long-generation":  # TRL cannot score a micro-batch without any image
        samples = [replace(sample, images=sample.images or samples[0].images) for sample in samples]
    tiny = tinies["qwen2_vl" if case in ("grpo", "kl", "lora") else "qwen2_5_vl"]
    ours = group_trainer(
        tiny,
        samples,
        tmp_path,
        arguments(tmp_path, **changes),
        lora=lora,
        texts_of=TEACHING if all_teach else COMPLETIONS,
        options=options,
    )
    theirs = trl_trainer(tiny, samples, arguments(tmp_path, **changes), lora=lora)
    for trainer in (ours, theirs):
        nudge(trainer.model, 1, 0.02)  # away from the reference model
    if with_logps:
        add_sampler_logps(ours, tiny, samples)
        theirs.use_vllm = True  # no engine is started: it only switches the correction on
    theirs.drawn = [drawn for sample in samples for drawn in ours.sampler.backend.rollouts[sample.id]]
    our_batches, their_batches = micro_batches_of_ours(ours), micro_batches_of_trl(theirs, samples)
    if options.max_tokens_per_micro_batch:
        assert max(len(batch.passes) for batch in our_batches) > 1
    if ours.num_iterations > 1:
        for trainer in (ours, theirs):
            nudge(trainer.model, 2, 0.004)  # a step has been done since the completions were scored
    logged = read_completions(tmp_path).column("advantage").to_pylist()
    expected = torch.cat([batch["advantages"] for batch in their_batches]).tolist()
    assert logged == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for mine, other in zip(our_batches, their_batches, strict=True):
        loss = ours._compute_loss(ours.model, mine)  # all passes but the last have gone backward then
        expected = theirs._compute_loss(theirs.model, other)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        loss.backward()
        expected.backward()
    mine, other = gradients(ours), gradients(theirs)
    assert set(mine) == set(other)
    largest = max(value.abs().max() for value in other.values())
    assert largest > 1e-3
    for name, value in other.items():
        assert (mine[name] - value).abs().max() <= 1e-5 * largest + 2e-5 * value.abs().max(), name
    compare_metrics(ours, theirs, our_batches, all_teach=all_teach)
    if "vllm_importance_sampling_mode" in changes:
        ratios = torch.cat([batch["importance_sampling_ratio"].flatten() for batch in their_batches])
        bounded = (ratios <= 0.6) | (ratios >= 1.8)
        assert 0 < bounded.sum() < len(ratios), "the case is there to bound some ratios and leave others"


def compare_metrics(ours, theirs, batches, *, all_teach):
    mine, other = ours._metrics["train"], theirs._metrics["train"]
    names = ["reward", "reward_std"]
    names += [f"rewards/{name}/{kind}" for name in ours.composer.names for kind in ("mean", "std")]
    if ours.args.scale_rewards != "batch":  # TRL then looks at the spread of the whole batch
        names.append("frac_reward_zero_std")
    if all_teach:  # GroupTrainer looks at what takes part in the loss, TRL at everything
        names.append("entropy")
    # on the level of sequences TRL counts completions, GroupTrainer their tokens
    if all_teach and ours.args.importance_sampling_level == "token":
        names += [f"clip_ratio/{name}_mean" for name in ("low", "high", "region")]
    if ours.beta:
        names.append("kl")
    for name in names:
        np.testing.assert_allclose(mine[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert (sum(mine["clip_ratio/region_mean"]) > 0) == (ours.num_iterations > 1), "the case is there to clip"
    if theirs.use_vllm and ours.num_iterations == 1 and ours.args.vllm_importance_sampling_correction:
        # TRL measures once per generation, GroupTrainer in each micro-batch of it
        counts = [
            sum(((p.mask > 0) & ~p.sampler_logps.isnan()).sum().item() for p in batch.passes)
            for batch in batches
        ]
        name = "sampling/sampling_logp_difference"
        assert np.average(mine[f"{name}/mean"], weights=counts) == pytest.approx(
            other[f"{name}/mean"][0], rel=1e-4
        )
        assert max(mine[f"{name}/max"]) == pytest.approx(other[f"{name}/max"][0], rel=1e-4)


def test_a_step_is_sampled_logged_and_trained_on(tiny25, samples, tmp_path):
    """Two optimizer steps of two micro-batches each: one sync and one log file a step, each completion a row."""
    args = arguments(tmp_path, max_steps=2, learning_rate=1e-3, shuffle_dataset=False)
    trainer = group_trainer(tiny25, samples, tmp_path, args)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.sampler.backend.syncs == 2
    files = sorted(path.name for path in (tmp_path / "completions").iterdir())
    assert files == ["step-00000000-rank-0000-000.parquet", "step-00000001-rank-0000-000.parquet"]
    rows = read_completions(tmp_path).to_pylist()
    assert len(rows) == 2 * 12
    assert [row["step"] for row in rows] == [0] * 12 + [1] * 12
    assert [row["sample_id"] for row in rows[:12]] == [s.id for s in samples for _ in range(3)]
    assert [row["completion_index"] for row in rows[:12]] == [0, 1, 2] * 4
    assert [row["completion"] for row in rows[:12]] == [
        t.rstrip("~") for s in samples for t in COMPLETIONS[s.id]
    ]
    assert len({row["group_id"] for row in rows}) == 8
    first = rows[0]
    assert first["run"] == "test"
    assert first["stage"] == "grpo"
    assert first["answer"] == "476.0"
    assert first["finish_reason"] == "stop"
    assert first["mean_logprob"] is None
    assert first["num_tokens"] == len(tiny25.ids("<answer>476.0</answer>")) + 1
    assert first["images"][0]["path"] == samples[0].images[0]
    assert len(first["images"][0]["sha256"]) == 64
    assert first["reward/trainer_test_similarity"] == pytest.approx(5 / 14)  # 4760. among these and <answer>/
    assert first["reward/format"] == 1.0
    assert first["reward"] == pytest.approx(5 / 14 + 0.2)
    assert first["reward_spec_hash"] == trainer.composer.spec_hash
    assert rows[1]["finish_reason"] == "length"
    assert rows[2]["reward/trainer_test_similarity"] is None
    assert rows[2]["format_fault"] == "missing"
    assert rows[2]["reward"] == 0.0  # the format alone counts
    assert [rows[index]["advantage"] for index in (6, 7, 8)] == [0.0, 0.0, 0.0]  # three times the same
    moved = [name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) == len(before)


def test_completions_are_used_until_the_next_generation(tiny25, samples, tmp_path):
    """`num_iterations: 2`: the same groups serve two optimizer steps, and only the first of them syncs and logs."""
    args = arguments(tmp_path, max_steps=4, num_iterations=2, learning_rate=1e-3)
    trainer = group_trainer(tiny25, samples, tmp_path, args)
    trainer.train()
    assert trainer.sampler.backend.syncs == 2
    assert sorted(set(read_completions(tmp_path).column("step").to_pylist())) == [0, 2]


def test_two_generations_in_one_step_are_told_apart(tiny25, samples, tmp_path):
    """One generation serves a single micro-batch, and two of them make an optimizer step: two files, no second sync."""
    args = arguments(tmp_path, max_steps=1, steps_per_generation=1, gradient_accumulation_steps=2)
    trainer = group_trainer(tiny25, samples, tmp_path, args)
    trainer.train()
    assert trainer.sampler.backend.syncs == 1
    files = sorted(path.name for path in (tmp_path / "completions").iterdir())
    assert files == ["step-00000000-rank-0000-000.parquet", "step-00000000-rank-0000-001.parquet"]
    rows = read_completions(tmp_path).to_pylist()
    assert len(rows) == 12
    assert len({(row["group_id"], row["completion_index"]) for row in rows}) == 12


def test_a_broken_reward_stops_the_run(tiny25, samples, tmp_path):
    """No completion is trained on as a 0 because its scorer failed, and nothing is logged."""

    @register_reward("trainer_test_broken", override=True)
    def trainer_test_broken(completions, solution, **columns):
        raise RuntimeError("no such scale")

    trainer = group_trainer(tiny25, samples, tmp_path, arguments(tmp_path, max_steps=1))
    trainer.sampler.composer = build_composer(
        RewardsConfig(functions=[RewardSpec("trainer_test_broken", isolate=False)])
    )
    with pytest.raises(RewardError, match="no such scale"):
        trainer.train()
    assert not (tmp_path / "completions").exists()


def test_a_resumed_run_starts_from_the_weights_of_its_checkpoint(tiny25, samples, tmp_path):
    """The last step is saved: going on from there does nothing, so the weights are the checkpoint's."""
    args = arguments(tmp_path, max_steps=1, save_steps=1, learning_rate=1e-2)
    trained = group_trainer(tiny25, samples, tmp_path, args)
    trained.train()
    resumed = group_trainer(tiny25, samples, tmp_path, args)
    fresh = {name: value.clone() for name, value in resumed.model.state_dict().items()}
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for name, value in trained.model.state_dict().items():
        assert not torch.equal(value, fresh[name]), name
        assert torch.equal(resumed.model.state_dict()[name], value), name


def advantages_of(batches):
    return [part.advantages.tolist() for batch in batches for part in batch.passes]


def test_chunks_change_nothing(tiny25, samples, tmp_path):
    """Scored in chunks while others are sampled, or all at once: the same micro-batches and the same log."""
    results = []
    for chunk in (None, 1, 3):
        folder = tmp_path / str(chunk)
        trainer = group_trainer(tiny25, samples, folder, arguments(folder), chunk_groups=chunk)
        batches = micro_batches_of_ours(trainer)
        assert trainer.sampler.backend.syncs == 1
        rows = [{n: v for n, v in row.items() if n != "time"} for row in read_completions(folder).to_pylist()]
        results.append((advantages_of(batches), rows))
    assert results[1] == results[0]
    assert results[2] == results[0]


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_what_teaches_nothing_costs_nothing(tiny25, samples, tmp_path, monkeypatch, loss_type):
    """Completions without advantage, or masked ones, take no part in a pass; loss and gradients are as if they had."""
    results = []
    for all_take_part in (False, True):
        if all_take_part:
            monkeypatch.setattr(BatchBuilder, "_teaches", lambda self, drawn: True)
        args = arguments(tmp_path, loss_type=loss_type, mask_truncated_completions=True)
        trainer = group_trainer(tiny25, samples, tmp_path / str(all_take_part), args)
        batches = micro_batches_of_ours(trainer)
        losses = [trainer._compute_loss(trainer.model, batch) for batch in batches]
        for loss in losses:
            loss.backward()
        parts = [part for batch in batches for part in batch.passes]
        results.append((losses, gradients(trainer), sum(len(part.packed.lengths) for part in parts)))
    (losses, grads, count), (whole_losses, whole_grads, whole_count) = results
    assert whole_count == 12
    assert count == 7  # not all of "none", nor two that were cut off
    torch.testing.assert_close(losses, whole_losses, rtol=1e-5, atol=1e-7)
    largest = max(value.abs().max() for value in whole_grads.values())
    for name, value in whole_grads.items():
        assert (grads[name] - value).abs().max() <= 1e-5 * largest, name


def test_a_micro_batch_that_teaches_nothing(tiny25, samples, tmp_path):
    """No forward pass at all, and gradients of 0 for the optimizer, not absent ones: its momentum goes on."""
    texts = {name: ["<answer>1"] * 3 for name in COMPLETIONS}
    trainer = group_trainer(tiny25, samples, tmp_path, arguments(tmp_path), texts_of=texts)
    for batch in micro_batches_of_ours(trainer):
        assert batch.passes == []
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        assert loss.item() == 0.0
    found = gradients(trainer)
    assert len(found) == len(list(trainer.model.parameters()))
    assert not any(value.any() for value in found.values())


def test_a_frozen_tower_encodes_an_image_once(tiny25, samples, tmp_path):
    """In two generations and four micro-batches with old and reference log-probabilities; with the same loss."""
    losses = []
    for cached in (True, False):
        args = arguments(tmp_path, num_iterations=2, beta=0.04)
        trainer = group_trainer(tiny25, samples, tmp_path / str(cached), args, texts_of=TEACHING)
        freeze(trainer.model, vision=True, merger=True)
        freeze(trainer.ref_model, vision=True, merger=True)
        nudge(trainer.model, 1, 0.02)
        trainer.features = ImageFeatures(trainer.model, memory_bytes=10**6) if cached else None
        seen = []
        for model in (trainer.model, trainer.ref_model):
            model.model.visual.register_forward_pre_hook(
                lambda module, args, kwargs, seen=seen: seen.extend(kwargs["grid_thw"].tolist()),
                with_kwargs=True,
            )
        for _ in range(2):
            batches = micro_batches_of_ours(trainer)
            losses += [trainer._compute_loss(trainer.model, batch).item() for batch in batches]
            trainer.buffer.clear()
        assert len(seen) == (4 if cached else 4 * 6), "four images"
    assert losses[: len(losses) // 2] == pytest.approx(losses[len(losses) // 2 :], rel=1e-6)


def test_images_of_groups_that_teach_nothing_are_not_encoded(tiny25, samples, tmp_path):
    """Of four groups one has no spread and an image; the others are scored from the features of theirs."""
    texts = {**TEACHING, "one": ["4"] * 3}
    trainer = group_trainer(tiny25, samples, tmp_path, arguments(tmp_path), texts_of=texts)
    freeze(trainer.model, vision=True, merger=True)
    trainer.features = ImageFeatures(trainer.model, memory_bytes=10**6)
    batches = micro_batches_of_ours(trainer)
    assert len(trainer.features.memory) == 3, "two images of one sample, and one of another"
    parts = [part for batch in batches for part in batch.passes]
    assert sum(len(part.packed.lengths) for part in parts) == 9
    assert all(part.packed.pixel_values is None for part in parts)


def test_dynamic_sampling(tiny25, samples, tmp_path):
    """A group without spread gives way to a fresh one; all are logged, the replaced ones with advantage 0."""
    flat = {**TEACHING, "one": ["4"] * 3, "two": ["1"] * 3}
    args = arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=2)
    trainer = group_trainer(
        tiny25, samples, tmp_path, args, texts_of=flat, options=GrpoStageConfig(dynamic_sampling=True)
    )
    batches = trainer._generate_groups([0, 2])  # "one" is flat and "none" is not
    rows = read_completions(tmp_path).to_pylist()
    names = [rows[start]["sample_id"] for start in range(0, len(rows), 3)]
    assert names[:2] == ["one", "none"]
    assert set(names[2:]) <= {"two", "wide"}, "each other sample at most once"
    assert names[-1] == "wide"
    assert not any(row["advantage"] for row in rows if row["sample_id"] in ("one", "two"))
    assert all(row["advantage"] for row in rows if row["sample_id"] in ("none", "wide"))
    assert sum(len(part.packed.lengths) for batch in batches for part in batch.passes) == 6
    metrics = trainer._metrics["train"]
    assert metrics["dynamic_sampling/groups_drawn"] == [len(names)]
    assert metrics["dynamic_sampling/frac_reward_zero_std"] == [0.0]
    assert metrics["frac_reward_zero_std"] == [0.5], (
        "of the step's own samples, which nobody has chosen by reward"
    )


def test_images_of_the_next_batch_are_read_ahead(tiny25, samples, tmp_path):
    """The second step's prompts are asked for while the first one runs, and not encoded twice."""
    args = arguments(tmp_path, max_steps=2, per_device_train_batch_size=6, gradient_accumulation_steps=1)
    trainer = group_trainer(tiny25, samples, tmp_path, args)
    encoded, encode = [], trainer.sampler.prompts.encode

    def watched(indices):
        encoded.append((list(indices), threading.current_thread().name))
        return encode(indices)

    trainer.sampler.prompts.encode = watched
    trainer.train()
    assert [len(indices) for indices, _ in encoded] == [2, 2]
    assert sorted(index for indices, _ in encoded for index in indices) == [0, 1, 2, 3]
    assert [name.startswith("prompts") for _, name in encoded] == [False, True]
