"""How many completions and updates a stage has: the arithmetic that TRL does when it starts, done before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from glyphrl.config_schema import RunConfig, StageConfig
from glyphrl.trl_fields import trl_fields
from glyphrl.trl_policy import CONFIG_CLASS, Stage

RUN_DEFAULTS: dict[str, Any] = {"logging_steps": 1, "max_length": None, "report_to": ["tensorboard"]}
"""Where the stages' defaults are not TRL's."""


def stage_value(stage: Stage, section: StageConfig, name: str) -> Any:
    """The value of a TRL field in a stage: what the section says, else the run's default, else TRL's."""
    if name in section.args:
        return section.args[name]
    return RUN_DEFAULTS[name] if name in RUN_DEFAULTS else trl_fields(CONFIG_CLASS[stage])[name].default


@dataclass(frozen=True)
class GrpoBatch:
    """Sizes of one generation batch and one update of the policy, in completions unless named otherwise.

    Attributes:
        per_device: completions of one forward pass on one rank.
        processes: ranks.
        accumulation: forward passes of an update.
        steps_per_generation: forward passes that one generation batch feeds (one time through).
        generation_batch_size: completions that are sampled together on all ranks.
        num_generations: size of a group.
        num_iterations: how often a generation batch is gone through.
    """

    per_device: int
    processes: int
    accumulation: int
    steps_per_generation: int
    generation_batch_size: int
    num_generations: int
    num_iterations: int

    @property
    def per_rank(self) -> int:
        """Completions that one rank samples in a generation batch."""
        return self.per_device * self.steps_per_generation

    @property
    def prompts_per_generation(self) -> int:
        """Groups of a generation batch, all ranks together."""
        return self.generation_batch_size // self.num_generations

    @property
    def completions_per_update(self) -> int:
        """Completions behind one step of the optimizer, all ranks together."""
        return self.per_device * self.processes * self.accumulation

    def updates_per_epoch(self, samples: int) -> int:
        """Optimizer steps of a pass over `samples` prompts; TRL leaves an incomplete generation batch out."""
        batches = samples // self.prompts_per_generation
        passes = batches * self.num_iterations * self.steps_per_generation
        return math.ceil(passes / self.accumulation)


def grpo_batch(config: RunConfig) -> GrpoBatch:
    """The sizes that the grpo section asks for.

    Raises:
        ValueError: `generation_batch_size` and `steps_per_generation` are both given, or the first is no
            multiple of `per_device_train_batch_size * launch.processes`.
    """
    assert config.grpo is not None
    section = config.grpo
    per_device = stage_value("grpo", section, "per_device_train_batch_size")
    accumulation = stage_value("grpo", section, "gradient_accumulation_steps")
    generation_batch_size = stage_value("grpo", section, "generation_batch_size")
    steps = stage_value("grpo", section, "steps_per_generation")
    processes = config.launch.processes
    if generation_batch_size is not None and steps is not None:
        raise ValueError("cannot be given together with steps_per_generation; remove one of them")
    if generation_batch_size is not None:
        if generation_batch_size < 1 or generation_batch_size % (per_device * processes):
            raise ValueError(
                f"is {generation_batch_size}, no multiple of per_device_train_batch_size {per_device} * "
                f"launch.processes {processes} = {per_device * processes}; "
                f"{near_multiples(generation_batch_size, per_device * processes)} would work"
            )
        steps = generation_batch_size // (per_device * processes)
    steps = accumulation if steps is None else steps
    return GrpoBatch(
        per_device=per_device,
        processes=processes,
        accumulation=accumulation,
        steps_per_generation=steps,
        generation_batch_size=per_device * processes * steps,
        num_generations=stage_value("grpo", section, "num_generations"),
        num_iterations=stage_value("grpo", section, "num_iterations"),
    )


def group_problem(batch: GrpoBatch) -> str | None:
    """Why groups do not fit into a forward pass, with values that would; None where they fit.

    A group shares its prompt and its image, in the rollout and in training, so it lies in one forward pass of
    one rank: `per_device_train_batch_size` has to be a multiple of `num_generations`.
    """
    if batch.per_device % batch.num_generations == 0:
        return None
    fitting = [size for size in range(2, batch.per_device + 1) if batch.per_device % size == 0]
    fitting = sorted(sorted(fitting, key=lambda size: abs(size - batch.num_generations))[:2])
    proposals = [f"per_device_train_batch_size {near_multiples(batch.per_device, batch.num_generations)}"]
    if fitting:
        proposals.append(f"num_generations {' or '.join(map(str, fitting))}")
    return (
        f"is {batch.num_generations}, and per_device_train_batch_size {batch.per_device} is no multiple: "
        "a group has to lie in one forward pass of one rank; these would work: " + ", or ".join(proposals)
    )


def near_multiples(value: int, factor: int) -> str:
    """The multiples of `factor` next to `value`, as words."""
    below = value // factor * factor
    return " or ".join(
        str(m) for m in ([below] if below else []) + ([below + factor] if below != value else [])
    )


def planned_updates(config: RunConfig, stage: Stage, samples: int) -> int:
    """Optimizer steps of a stage over `samples` training samples."""
    section = getattr(config, stage)
    max_steps = stage_value(stage, section, "max_steps")
    if max_steps > 0:
        return max_steps
    epochs = stage_value(stage, section, "num_train_epochs")
    if stage == "grpo":
        return math.ceil(epochs * grpo_batch(config).updates_per_epoch(samples))
    per_device = stage_value(stage, section, "per_device_train_batch_size")
    divide = math.floor if stage_value(stage, section, "dataloader_drop_last") else lambda x: math.ceil(x)
    batches = divide(divide(samples / per_device) / config.launch.processes)
    return math.ceil(
        epochs * max(1, math.ceil(batches / stage_value(stage, section, "gradient_accumulation_steps")))
    )
