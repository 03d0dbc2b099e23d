"""DeepSpeed configuration files: whether one parses, and whether it agrees with the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glyphrl.batch_math import stage_value
from glyphrl.config_paths import stage_enabled
from glyphrl.config_schema import RunConfig
from glyphrl.errors import UserError
from glyphrl.trl_policy import Stage

_STAGES: tuple[Stage, ...] = ("sft", "grpo")


def read_deepspeed(path: str | Path) -> dict[str, Any]:
    """The content of a DeepSpeed configuration file.

    Raises:
        UserError: it cannot be read, is not JSON, names a key twice, or has no valid ZeRO stage.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: this is not JSON ({error.msg})"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the DeepSpeed configuration cannot be read ({error})") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    stage = zero_stage(content)
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        raise UserError(f"{path}: zero_optimization.stage is {stage!r}, expected 0, 1, 2 or 3")
    return content


def zero_stage(content: dict[str, Any]) -> Any:
    """The ZeRO stage that a DeepSpeed configuration asks for; 0 where it does not say."""
    section = content.get("zero_optimization", {})
    return section.get("stage", 0) if isinstance(section, dict) else section


def check_deepspeed(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Findings about the file `launch.deepspeed`: its syntax, its stage, numbers that contradict the run."""
    assert config.launch.deepspeed is not None
    try:
        content = read_deepspeed(config.launch.deepspeed)
    except UserError as error:
        yield "launch.deepspeed", f"is no usable DeepSpeed configuration: {error}"
        return
    if zero_stage(content) == 3 and stage_enabled(config, "grpo"):
        yield (
            "launch.deepspeed",
            "asks for ZeRO-3, whose weights cannot be handed to the rollouts; use ZeRO-2",
        )
    for stage in _STAGES:
        if not stage_enabled(config, stage):
            continue
        section = getattr(config, stage)
        per_device = stage_value(stage, section, "per_device_train_batch_size")
        accumulation = stage_value(stage, section, "gradient_accumulation_steps")
        wanted = {
            "train_micro_batch_size_per_gpu": per_device,
            "gradient_accumulation_steps": accumulation,
            "train_batch_size": per_device * accumulation * config.launch.processes,
        }
        for name, number in wanted.items():
            found = content.get(name, "auto")
            if found not in ("auto", number):
                yield (
                    "launch.deepspeed",
                    f'has {name} {found}, but the stage {stage} needs {number}; write "auto" there',
                )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} is given twice")
        result[key] = value
    return result
