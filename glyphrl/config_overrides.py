"""Overrides: `grpo.learning_rate=1e-6`, `rewards.functions.0.weight=2`, `model.lora=null`."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from glyphrl.config_schema import RewardSpec, RunConfig, StageConfig, own_fields
from glyphrl.config_yaml import parse_scalar_or_tree
from glyphrl.errors import UserError
from glyphrl.trl_policy import field_type


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """Sets each override in the nested mapping `raw`, in order.

    Returns:
        The dotted keys that were set, with the text of the override, for error messages.

    Raises:
        UserError: no `key=value`, a value that is not YAML, a key below something that has none, a list index
            that does not exist.
    """
    applied: dict[str, str] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UserError(f"override {text!r}: expected dotted.key=value, such as grpo.learning_rate=1e-6")
        _set(raw, parts, _parse(value, _type_at(parts), text), text)
        applied[".".join(parts)] = text
    return applied


def _parse(value: str, kind: Any, text: str) -> Any:
    """The YAML value; where a text is asked for, anything else that was typed is taken literally."""
    literal = kind is not None and str in _members(kind)
    try:
        parsed = parse_scalar_or_tree(value)
    except (yaml.YAMLError, UserError) as error:
        if literal:
            return value
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(
            f"override {text!r}: the value is not valid YAML ({reason}); put it in quotes"
        ) from None
    if (
        literal
        and not isinstance(parsed, str)
        and not any(_takes(parsed, member) for member in _members(kind))
    ):
        return value
    return parsed


def _takes(value: Any, kind: Any) -> bool:
    return (
        isinstance(value, get_origin(kind) or kind) if isinstance(get_origin(kind) or kind, type) else False
    )


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _type_at(parts: list[str]) -> Any:
    """The type of a dotted key in the schema; None where the schema does not say."""
    kind: Any = RunConfig
    for index, part in enumerate(parts):
        candidates = [m for m in _members(kind) if dataclasses.is_dataclass(m)]
        lists = [m for m in _members(kind) if get_origin(m) is list]
        stages = [m for m in candidates if isinstance(m, type) and issubclass(m, StageConfig)]
        if stages:
            ours = own_fields(stages[0])
            kind = ours.get(part) or field_type("sft" if parts[index - 1] == "sft" else "grpo", part)
        elif candidates:
            kind = get_type_hints(candidates[0]).get(part)
        elif lists and part.isdecimal():
            kind = get_args(lists[0])[0]
        else:
            return None
        if kind is None:
            return None
    return kind


def _set(raw: dict[str, Any], parts: list[str], value: Any, text: str) -> None:
    node: Any = raw
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        path = ".".join(parts[: depth + 1])
        if isinstance(node, dict):
            if last:
                node[part] = value
            else:
                if node.get(part) is None:
                    node[part] = _default_at(parts[: depth + 1])
                elif parts[: depth + 1] == ["guard"] and isinstance(node[part], str):  # its action alone
                    node[part] = {"action": node[part]}
                node = node[part]
        elif isinstance(node, list):
            index = int(part) if part.isdecimal() else -1
            if not 0 <= index <= len(node) or (index == len(node) and not last):
                have = f"it has the entries 0 to {len(node) - 1}" if node else "it is empty"
                raise UserError(
                    f"override {text!r}: {path} does not exist; {parts[depth - 1]} is a list, and {have}"
                )
            if last:
                node[index : index + 1] = [value]
            else:
                if isinstance(node[index], str):  # a reward given by its name alone
                    node[index] = {"name": node[index]}
                node = node[index]
        else:
            raise UserError(
                f"override {text!r}: {'.'.join(parts[:depth])} is {node!r}, which has no key {part!r}"
            )


def _default_at(parts: list[str]) -> Any:
    """What an absent key stands for, so that an override can reach into it: its default, else a mapping."""
    config: Any = RunConfig()
    for part in parts:
        if not dataclasses.is_dataclass(config) or not hasattr(config, part):
            return {}
        config = getattr(config, part)
    if isinstance(config, list):
        return [dataclasses.asdict(item) if isinstance(item, RewardSpec) else item for item in config]
    return {}
