"""What rewards there are, for people: names, parameters, defaults, one line each."""

from __future__ import annotations

from dataclasses import dataclass, field

from glyphrl.rewards.registry import BUILT_IN, Entry, find_reward, list_rewards
from glyphrl.rewards.signature import Parameter, type_name


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter that YAML may set."""

    name: str
    type: str
    required: bool
    default: str | None
    """As Python writes it; None where it is required."""


@dataclass(frozen=True)
class RewardInfo:
    """One registered reward."""

    name: str
    source: str
    """`built in`, `plugin FILE`, `entry point`, `this program`."""
    summary: str
    """First line of its documentation."""
    parameters: list[ParameterInfo] = field(default_factory=list)
    documentation: str = ""
    """All of its documentation."""


def describe_rewards(names: list[str] | None = None) -> list[RewardInfo]:
    """Describes rewards; those of plugins are known once their file was loaded (`load_plugin`).

    Args:
        names: Which ones. None: all, built-in ones first.

    Raises:
        UserError: A name is unknown.
    """
    if names is None:
        names = sorted(list_rewards(), key=lambda name: (name not in BUILT_IN, name))
    return [_describe(find_reward(name)) for name in names]


def _describe(entry: Entry) -> RewardInfo:
    documentation = _plain_doc(entry)
    summary = " ".join(documentation.split("\n\n")[0].split()) if documentation else ""
    parameters = [_parameter(p) for p in entry.signature.settable.values() if not (p.column and p.required)]
    return RewardInfo(entry.name, entry.source, summary, parameters, documentation)


def _plain_doc(entry: Entry) -> str:
    import inspect

    return (inspect.getdoc(entry.target) or "").strip() if getattr(entry.target, "__doc__", None) else ""


def _parameter(parameter: Parameter) -> ParameterInfo:
    default = None if parameter.required else repr(parameter.default)
    if default is not None and default.startswith("<factory>"):
        default = "empty"
    return ParameterInfo(parameter.name, type_name(parameter.annotation), parameter.required, default)


def render_rewards(infos: list[RewardInfo]) -> str:
    """The list as text: one paragraph for each reward."""
    lines = []
    for info in infos:
        lines.append(info.name if info.source == "built in" else f"{info.name}  ({info.source})")
        if info.summary:
            lines.append(f"    {info.summary}")
        for p in info.parameters:
            value = "required" if p.required else f"default {p.default}"
            lines.append(f"      {p.name}: {p.type}, {value}")
        lines.append("")
    return "\n".join(lines).rstrip("\n")
