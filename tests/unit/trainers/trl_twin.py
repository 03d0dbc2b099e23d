"""Our GRPO trainer and TRL's own on the same samples, completions and rewards, for tests that compare the two."""

import math
from dataclasses import dataclass, replace

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from PIL import Image
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from glyphrl.config_schema import RewardsConfig, RewardSpec
from glyphrl.data.table import SampleTable
from glyphrl.rewards import register_reward
from glyphrl.rewards.compose import build_composer
from glyphrl.trainers.completions_log import CompletionsLog
from glyphrl.trainers.grpo_trainer import GroupTrainer
from glyphrl.trainers.models import linear_layers
from glyphrl.trainers.packing import Group, pack_groups
from glyphrl.trainers.policy import score_groups
from glyphrl.trainers.rollout import Rollout

# Three for each sample, of unlike lengths, one of a single token; "~" marks one that was cut off at the length limit.
COMPLETIONS = {
    "one": ["<answer>476.0</answer>", "<answer>4</answer>~", "skip"],
    "two": ["12", "<answer>1", "<answer>12</answer>"],
    "none": ["h", "h", "h"],
    "wide": ["<answer>3.5</answer>", "3~", "<answer>3.50</answer>"],
}
# Likewise, and each of them has an advantage: all take part in the loss, so that metrics compare too.
TEACHING = {
    **COMPLETIONS,
    "one": ["<answer>476.0</answer>", "<answer>4</answer>~", "47"],
    "none": ["h", "hello", "<answer>"],
}
MAX_LENGTH = 24


def register_similarity():
    """A reward between 0 and 1 that does not apply to completions that say so."""

    @register_reward("trainer_test_similarity", override=True)
    def trainer_test_similarity(completions, solution, **columns):
        pairs = zip(completions, solution, strict=True)
        return [None if "skip" in text else len(set(text) & set(s)) / len(set(text + s)) for text, s in pairs]


@dataclass
class Known:
    """A rollout backend whose completions are known beforehand."""

    rollouts: dict[str, list[Rollout]]
    syncs: int = 0

    def sample(self, prompts, n, sampling):
        assert n == 3
        return [self.rollouts[prompt.sample.id] for prompt in prompts]

    def sync(self, model):
        self.syncs += 1


def rollout(tiny, text):
    """A completion as tokens, with the end-of-sequence token where it was not cut off."""
    if text.endswith("~"):
        return Rollout(tiny.ids(text[:-1]), None, "length")
    return Rollout([*tiny.ids(text), tiny.processor.tokenizer.eos_token_id], None, "stop")


def add_sampler_logps(trainer, tiny, samples):
    """Log-probabilities by a sampler that is near the policy, off by 0.7 at each fourth token, and lacks some."""
    generator = torch.Generator().manual_seed(2)
    for prompt in tiny.encode(samples):
        rollouts = trainer.sampler.backend.rollouts[prompt.sample.id]
        group = Group(prompt.ids, [r.token_ids for r in rollouts], prompt.pixel_values, prompt.image_grid_thw)
        packed = pack_groups([group], trainer.builder.rope_index, trainer.builder.pad_token_id)
        with torch.no_grad():
            logps = score_groups(trainer.model, packed).logps
        for index, drawn in enumerate(rollouts):
            length = len(drawn.token_ids)
            row = logps[index, :length] + 0.05 * torch.randn(length, generator=generator)
            row[3::4] += torch.tensor(0.7) * (1 if index == 1 else -1)
            row[-1] = math.nan if prompt.sample.id == "two" else row[-1]
            rollouts[index] = replace(drawn, logps=row.tolist())


class TrlOnDrawn(GRPOTrainer):
    """TRL's trainer, given the same completions; everything behind the sampling is its own."""

    drawn: list[Rollout]
    prompt_ids: list[list[int]]
    pictures: list[list[Image.Image]]

    def _generate(self, prompts):
        ids = [rollout.token_ids for rollout in self.drawn]
        texts = self.processing_class.tokenizer.batch_decode(ids, skip_special_tokens=True)
        messages = [[{"role": "assistant", "content": text}] for text in texts]
        logps = None
        if self.use_vllm:
            logps = [[None if math.isnan(x) else x for x in rollout.logps] for rollout in self.drawn]
        return self.prompt_ids, ids, None, messages, logps, {}, self.pictures, None


def arguments(folder, **changes):
    defaults = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "run_name": "test",
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 2,
        "num_generations": 3,
        "max_completion_length": MAX_LENGTH,
        "gradient_checkpointing": False,
        "loss_type": "dapo",
        "reward_weights": [1.0, 0.2],  # TRL reads them here, GroupTrainer from its composer
    }
    return GRPOConfig(**{**defaults, **changes})


def composer():
    return build_composer(
        RewardsConfig(functions=[RewardSpec("trainer_test_similarity"), RewardSpec("format", 0.2)])
    )


def nudge(model, seed, size):
    """Moves every trained weight a little, the same way in both models."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def policy_of(tiny, lora):
    model = tiny.model()
    if lora:
        targets = linear_layers(model, vision=True, merger=True)
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    return model


def group_trainer(tiny, samples, folder, args, *, lora=False, texts_of=COMPLETIONS, **more):
    trainer = GroupTrainer(
        model=policy_of(tiny, lora),
        args=args,
        processor=tiny.processor,
        samples=SampleTable.from_samples(samples),
        composer=composer(),
        backend=Known({name: [rollout(tiny, text) for text in texts] for name, texts in texts_of.items()}),
        log=CompletionsLog(folder),
        sizing=tiny.sizing,
        system=None,
        callbacks=[],
        **more,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    return trainer


def trl_trainer(tiny, samples, args, *, lora=False):
    made = composer()

    def reward(index):
        def score(completions, solution, **columns):
            texts = [message[0]["content"] for message in completions]
            values = list(made.score(texts, {"solution": list(solution)}).per_function.values())[index]
            return [None if math.isnan(value) else value for value in values]

        score.__name__ = made.names[index]
        return score

    trainer = TrlOnDrawn(
        model=policy_of(tiny, lora),
        reward_funcs=[reward(0), reward(1)],
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["a"]}),
        processing_class=tiny.processor,
    )
    trainer.prompt_ids = [prompt.ids for prompt in tiny.encode(samples) for _ in range(3)]
    trainer.pictures = [list(prompt.images) for prompt in tiny.encode(samples) for _ in range(3)]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    return trainer


def trl_rows(samples):
    return [
        {
            "prompt": [{"role": "user", "content": sample.prompt}],
            "images": [Image.open(path).convert("RGB") for path in sample.images],
            "solution": sample.solution,
        }
        for sample in samples
        for _ in range(3)
    ]


def micro_batches_of_trl(trainer, samples):
    """What its `_prepare_inputs` makes, without the shuffling: groups stay together here."""
    generated = trainer._generate_and_score_completions(trl_rows(samples))
    batches = split_tensor_dict(split_pixel_values_by_grid(generated), trainer.args.steps_per_generation)
    return [unsplit_pixel_values_by_grid(batch) for batch in batches]


def micro_batches_of_ours(trainer):
    """The Trainer's loop counts the steps; here they are counted by hand."""
    rows = [{"index": index} for index in range(4) for _ in range(3)]
    batches = []
    for step in range(trainer.args.steps_per_generation):
        trainer._step = step
        batches.append(trainer._prepare_inputs(rows))
    return batches


def gradients(trainer):
    return {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
