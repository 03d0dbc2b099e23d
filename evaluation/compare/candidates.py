"""The rewards of a comparison: functions that score again, or what the log says that a completion earned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from glyphrl.config_schema import RewardsConfig, RewardSpec
from glyphrl.errors import UserError, did_you_mean
from glyphrl.rewards.compose import RewardComposer, build_composer
from glyphrl.rewards.registry import find_reward, load_plugin
from glyphrl.rewards.scoring import parse_reward_option

LOGGED = "logged"
TRUTHS = {"edit similarity": "ned", "exact match": "exact_match"}
"""What rewards are held against, and the functions that compute it."""


@dataclass(frozen=True)
class Candidate:
    """One reward.

    Attributes:
        label: How results call it; unique.
        text: As it was given.
        column: Column of the log that holds it; None: `spec` is scored.
        spec: What scores it.
        key: Hash of everything that decides its scores.
        needs: Columns of the log that the function takes; None: all of them.
        elsewhere: Whether a worker process can load it.
    """

    label: str
    text: str
    column: str | None = None
    spec: RewardSpec | None = None
    key: str = ""
    needs: frozenset[str] | None = frozenset()
    elsewhere: bool = True


@dataclass(frozen=True)
class Setting:
    """What building a function takes besides its spec; travels to worker processes."""

    plugins: tuple[str, ...] = ()
    answer: Literal["lenient", "strict"] = "lenient"
    base_dir: str | None = None

    def composer(self, spec: RewardSpec) -> RewardComposer:
        """The function, ready to score."""
        config = RewardsConfig(functions=[spec], plugins=list(self.plugins), answer=self.answer)
        return build_composer(config, Path(self.base_dir) if self.base_dir else None)


def read_candidates(rewards: Sequence[str], setting: Setting, log_columns: Iterable[str]) -> list[Candidate]:
    """Reads `NAME[:key=value,...]`, `file.py:function`, `module:function`, `logged` or `logged:PART`.

    Raises:
        UserError: An unknown name or parameter, a part that the log does not have, nothing, or the same twice.
    """
    if not rewards:
        raise UserError("no reward is named; give at least one --reward NAME")
    base = Path(setting.base_dir) if setting.base_dir else None
    for plugin in setting.plugins:
        load_plugin(plugin, base)
    columns = list(log_columns)
    found = [
        _logged(text, columns) if text.split(":")[0] == LOGGED else _scored(text, setting, base)
        for text in rewards
    ]
    for position, candidate in enumerate(found):
        if any((c.column, c.key) == (candidate.column, candidate.key) for c in found[:position]):
            raise UserError(f"--reward {candidate.text} is given twice; a reward always agrees with itself")
    return _labelled(found)


def truth_candidates() -> list[Candidate]:
    """The functions behind `TRUTHS`: of the answer, without normalisation, whatever the rewards are told."""
    return [replace(_scored(name, Setting(), None), label=label) for label, name in TRUTHS.items()]


def _logged(text: str, columns: Sequence[str]) -> Candidate:
    part = text.partition(":")[2]
    column = f"reward/{part}" if part else "reward"
    if column not in columns:
        parts = [name.removeprefix("reward/") for name in columns if name.startswith("reward/")]
        hint = did_you_mean(part, parts) if part else ""
        raise UserError(f"--reward {text}: the log has no column {column!r}{hint}")
    return Candidate(text, text, column=column)


def _scored(text: str, setting: Setting, base: Path | None) -> Candidate:
    spec = parse_reward_option(text, base)
    composer = setting.composer(spec)
    composer.close()
    entry = find_reward(spec.name, base)
    signature = composer.runners[0].reward.signature
    own = entry.source != "built in"
    needs = None if own and signature.takes_any else frozenset(signature.parameters)
    elsewhere = entry.location is not None
    return Candidate(entry.name, text, None, spec, composer.spec_hash, needs, elsewhere)


def _labelled(found: list[Candidate]) -> list[Candidate]:
    """Candidates with labels that differ: the name, with its settings where the name occurs twice."""
    names = [candidate.label for candidate in found]
    labelled: list[Candidate] = []
    for candidate in found:
        label = candidate.label
        if names.count(label) > 1 and candidate.spec is not None:
            settings = [f"{key}={value}" for key, value in candidate.spec.args.items()]
            if candidate.spec.weight != 1.0:
                settings.append(f"weight={candidate.spec.weight:g}")
            label = f"{label}({', '.join(settings)})" if settings else label
        labelled.append(replace(candidate, label=_unique(label, [done.label for done in labelled])))
    return labelled


def _unique(label: str, taken: Sequence[str]) -> str:
    number, candidate = 1, label
    while candidate in taken:
        number += 1
        candidate = f"{label} #{number}"
    return candidate


def recipe(candidates: Sequence[Candidate], setting: Setting) -> dict[str, Any]:
    """Keyword arguments of `scorer.build_scorer`, for another process."""
    specs = [None if c.spec is None else asdict(c.spec) for c in candidates]
    return {"specs": specs, "setting": asdict(setting), "truths": [c.label in TRUTHS for c in candidates]}
