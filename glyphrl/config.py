"""A run's configuration: `load_config` reads a YAML file and dotted overrides into a checked `RunConfig`.

Nothing heavy is imported here or below: a mistake is found before torch is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from glyphrl.config_checks import check_config
from glyphrl.config_overrides import apply_overrides
from glyphrl.config_paths import resolve_paths
from glyphrl.config_schema import EvalConfig, GuardConfig, RewardSpec, RunConfig, StageConfig, own_fields
from glyphrl.config_yaml import dump_yaml, read_yaml
from glyphrl.trl_fields import trl_fields
from glyphrl.trl_policy import CONFIG_CLASS, RENAMED, Stage, field_type, honoured, refusal
from glyphrl.typed_values import Source, Where, coerce, describe

__all__ = ["EvalConfig", "RunConfig", "build_config", "load_config", "to_dict", "to_yaml"]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads the configuration of a run.

    Relative paths of data, plugins, models and DeepSpeed files are taken from the folder of the YAML file
    where they exist there, else from the working directory (for overrides: the other way round). Whether data
    files exist is not asked here, see `glyphrl.config_paths.missing_inputs`.

    Args:
        path: YAML file.
        overrides: `dotted.key=value` with values in YAML, e.g. `grpo.learning_rate=1e-6`, `model.lora=null`,
            `rewards.functions.0.weight=2`.

    Raises:
        UserError: unreadable file, unknown key, wrong type, or a combination that cannot work.
    """
    values, lines = read_yaml(path)
    return build_config(values, overrides, name=str(path), lines=lines, folder=Path(path).resolve().parent)


def build_config(
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    name: str = "configuration",
    lines: dict[str, int] | None = None,
    folder: Path | None = None,
) -> RunConfig:
    """A checked `RunConfig` from the nested mapping that a YAML file would hold.

    Args:
        values: nested mapping; left as it is.
        overrides: as for `load_config`.
        name: what errors call the configuration.
        lines: line of each dotted key in that file.
        folder: where relative paths are looked up first; None: the working directory.

    Raises:
        UserError: as for `load_config`.
    """
    raw = copy.deepcopy(dict(values))
    source = Source(name, lines or {}, apply_overrides(raw, overrides))
    config = _build(raw, RunConfig, Where(source))
    resolve_paths(config, source, folder or Path.cwd())
    check_config(config, source)
    return config


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as the nested mapping that `build_config` takes; every field stands in it."""
    result = dataclasses.asdict(config)
    for stage in ("sft", "grpo"):
        section = getattr(config, stage)
        if section is not None:
            own = {name: getattr(section, name) for name in own_fields(type(section))}
            result[stage] = {**own, **copy.deepcopy(section.args)}
    return result


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML; `load_config` of it gives an equal configuration."""
    return dump_yaml(to_dict(config))


def _build(value: Any, kind: type, where: Where) -> Any:
    """An instance of the schema class `kind`; used by `coerce` for nested sections."""
    if issubclass(kind, StageConfig):
        return _build_stage(value, kind, where)
    if kind is RewardSpec and isinstance(value, str):
        value = {"name": value}
    if kind is GuardConfig and isinstance(value, str):
        value = {"action": value}
    if value is None:  # a section whose keys are all commented out
        value = {}
    if not isinstance(value, dict):
        raise where.error(f"must be a mapping of its keys, found {describe(value)}")
    types = get_type_hints(kind)
    for key in value:
        if key not in types:
            hint = " (the parameters of a reward go under args)" if kind is RewardSpec else ""
            raise where.unknown_key(key, list(types), hint=hint)
    return kind(**{key: coerce(item, types[key], where.at(key), _build) for key, item in value.items()})


def _build_stage(value: Any, kind: type[StageConfig], where: Where) -> StageConfig:
    """A stage: our own fields, and TRL's checked by name and type."""
    if not isinstance(value, dict):
        raise where.error(f"must be a mapping of its keys, found {describe(value)}")
    stage: Stage = "sft" if where.key == "sft" else "grpo"
    fields = trl_fields(CONFIG_CLASS[stage])
    args = {}
    ours = own_fields(kind)
    own = {}
    for key, item in value.items():
        at = where.at(key)
        if key in ours:
            own[key] = coerce(item, ours[key], at)
            continue
        if key in RENAMED and key not in fields:
            raise at.error(f"is unknown; {RENAMED[key]}")
        if key not in fields:
            raise where.unknown_key(key, [*sorted(honoured(stage)), *ours], what="field")
        reason = refusal(stage, key)
        if reason is not None:
            raise at.error(f"cannot be set: {reason}")
        args[key] = coerce(item, field_type(stage, key), at)
        if key == "scale_rewards" and isinstance(args[key], bool):
            args[key] = "group" if args[key] else "none"
    return kind(**own, args=args)
