"""The composed reward of a run: several reward functions, their weights, and one number per completion."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glyphrl.config_schema import RewardsConfig, RewardSpec
from glyphrl.errors import UserError, did_you_mean
from glyphrl.rewards.aggregation import gate, standardise, weighted_sum
from glyphrl.rewards.errors import RewardError
from glyphrl.rewards.isolation import IsolatedReward
from glyphrl.rewards.parsing import parse_answer
from glyphrl.rewards.plugins import file_digest
from glyphrl.rewards.registry import Entry, find_reward, load_plugin, make_reward
from glyphrl.rewards.reward import text_of
from glyphrl.rewards.running import Batch, Runner, Scored, is_column, run_all


@dataclass
class Scores:
    """What the composed reward says about N completions."""

    per_function: dict[str, np.ndarray]
    """(N,) float64 for each function, as it scored; NaN where it returned None."""
    reward: np.ndarray
    """(N,) float64 weighted sum; functions that returned None are left out; NaN where every one did."""
    answers: list[str]
    """What `parse_answer` took out of each completion."""
    faults: list[str | None]
    """Format fault of each completion; None where the format is exact."""
    extras: dict[str, list[Any]] = field(default_factory=dict)
    """Columns that reward functions logged, N values each."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Scalars that reward functions logged (means), and `reward/NAME/skipped` counts."""


class RewardComposer:
    """Reward functions with weights; made by `build_composer`.

    Attributes:
        names: One for each function, unique.
        weights: In the order of `names`.
        spec_hash: Hash of everything that decides the reward: names, weights, parameters, content of plugins.
        skipped: Messages about completions that functions with `on_error: skip` failed on, the first 100.
        skipped_count: How many there were, by function.
    """

    def __init__(
        self, config: RewardsConfig, specs: list[RewardSpec], runners: list[Runner], spec_hash: str
    ) -> None:
        self.config = config
        self.specs = specs
        self.runners = runners
        self.names = [runner.name for runner in runners]
        self.weights = [spec.weight for spec in specs]
        self.spec_hash = spec_hash
        self.skipped: list[str] = []
        self.skipped_count: dict[str, int] = {}
        self._thread: ThreadPoolExecutor | None = None

    def score(
        self,
        completions: Sequence[Any],
        columns: dict[str, Any],
        *,
        sample_ids: Sequence[str] | None = None,
    ) -> Scores:
        """Scores completions with every function.

        Args:
            completions: N texts (or TRL message lists).
            columns: Lists of N values: `solution`, and any of `prompts`, `completion_ids`, further sample
                columns. What is no list of N values (`trainer_state`) reaches the functions as it is.
            sample_ids: N sample ids, for error messages and as the groups of `normalize_then_sum`.

        Raises:
            RewardError: A function failed, or returned something else than one finite number or None per
                completion.
        """
        count = len(completions)
        for name, column in columns.items():
            if isinstance(column, list | tuple | np.ndarray) and len(column) != count:
                raise RewardError(f"column {name} has {len(column)} values for {count} completions")
        ids = sample_ids if sample_ids is not None else columns.get("id")
        if ids is not None and len(ids) != count:
            raise RewardError(f"there are {len(ids)} sample ids for {count} completions")
        names = [
            f"completion {i} of {count}" + (f" (sample {ids[i]!r})" if ids is not None else "")
            for i in range(count)
        ]
        batch = Batch(list(completions), columns, names)
        rows = self._route(batch)
        scored = run_all(self.runners, [batch.take(r) for r in rows]) if count else []
        return self._combine(batch, rows, scored, ids)

    def submit(
        self,
        completions: Sequence[Any],
        columns: dict[str, Any],
        *,
        sample_ids: Sequence[str] | None = None,
    ) -> Future[Scores]:
        """As `score`, in a thread of its own while the next rollout goes on; calls are done in order."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "composed-reward")
        return self._thread.submit(self.score, completions, columns, sample_ids=sample_ids)

    def close(self) -> None:
        """Ends worker processes and the thread of `submit`."""
        for runner in self.runners:
            if runner.isolated is not None:
                runner.isolated.close()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _route(self, batch: Batch) -> list[list[int]]:
        """Which completions each function scores."""
        everything = list(range(len(batch.completions)))
        column = self.config.route_by
        if column is None:
            return [everything for _ in self.names]
        if not is_column(batch.columns.get(column), len(everything)):
            raise RewardError(f"rewards.route_by: the samples have no column {column!r}")
        applies = [self._routed_names(value, batch.names[i]) for i, value in enumerate(batch.columns[column])]
        return [[i for i in everything if name in applies[i]] for name in self.names]

    def _routed_names(self, value: Any, where: str) -> set[str]:
        if value is None:
            return set(self.names)
        wanted = {value} if isinstance(value, str) else set(value)
        for name in wanted:
            if name not in self.names:
                raise RewardError(
                    f"{where}: column {self.config.route_by!r} names the reward {name!r}, which is not among "
                    f"rewards.functions{did_you_mean(name, self.names)}"
                )
        return wanted

    def _combine(
        self, batch: Batch, rows: list[list[int]], scored: list[Scored], ids: Sequence[str] | None
    ) -> Scores:
        count = len(batch.completions)
        values = np.full((len(self.names), count), np.nan)
        extras: dict[str, list[Any]] = {}
        metrics: dict[str, float] = {}
        for f, result in enumerate(scored):
            values[f, rows[f]] = result.values
            for column, logged in result.log.extras.items():
                name = column if column not in extras else f"{self.names[f]}/{column}"
                spread: list[Any] = [None] * count
                for i, value in zip(rows[f], logged, strict=True):
                    spread[i] = value
                extras[name] = spread
            for metric, numbers in result.log.metrics.items():
                name = metric if metric not in metrics else f"{self.names[f]}/{metric}"
                metrics[name] = float(np.mean(numbers))
            if result.skipped:
                metrics[f"reward/{self.names[f]}/skipped"] = float(len(result.skipped))
                self.skipped_count[self.names[f]] = self.skipped_count.get(self.names[f], 0) + len(
                    result.skipped
                )
                self.skipped.extend(result.skipped[: max(0, 100 - len(self.skipped))])
        parsed = [parse_answer(text_of(c), self.config.extra_tags) for c in batch.completions]
        return Scores(
            per_function={name: values[f].copy() for f, name in enumerate(self.names)},
            reward=self._total(values, ids),
            answers=[p.answer for p in parsed],
            faults=[p.fault for p in parsed],
            extras=extras,
            metrics=metrics,
        )

    def _total(self, values: np.ndarray, ids: Sequence[str] | None) -> np.ndarray:
        """(N,) rewards from the (F, N) scores."""
        gated = values.copy()
        for f, spec in enumerate(self.specs):
            if spec.requires is not None:
                required = values[self.names.index(spec.requires)]
                # With a negative weight a lower score is a higher reward, so the gate works on the product.
                sign = -1.0 if spec.weight < 0 else 1.0
                gated[f] = sign * gate(sign * values[f], required, spec.gate == "multiply")
        if self.config.aggregation == "normalize_then_sum":
            gated = standardise(gated, ids if ids is not None else [0] * values.shape[1])
        return weighted_sum(gated, self.weights)


def build_composer(config: RewardsConfig, base_dir: Path | None = None) -> RewardComposer:
    """Loads plugins, builds every function, and checks what can be checked before anything is scored.

    Args:
        config: The section `rewards` of a run.
        base_dir: Folder that relative plugin files start from. None: the working directory.

    Raises:
        UserError: An unknown name, a parameter that does not exist or has a wrong type, a plugin that fails.
    """
    for plugin in config.plugins:
        load_plugin(plugin, base_dir)
    if not config.functions:
        raise UserError("rewards.functions is empty; expected at least one reward function")
    names: list[str] = []
    runners, specs, hashed = [], [], []
    for position, spec in enumerate(config.functions):
        where = f"rewards.functions[{position}]"
        if not spec.name:
            raise UserError(f"{where} has no name; expected the name of a reward, e.g. weighted_cer")
        if not np.isfinite(spec.weight):
            raise UserError(f"{where}.weight is {spec.weight}; expected a finite number")
        entry = find_reward(spec.name, base_dir)
        name = _unique(entry.name, names)
        names.append(name)
        args = _with_run_settings(entry, spec.args, config)
        reward = make_reward(entry, args, spec.completions)
        runners.append(
            Runner(name, reward, spec.on_error == "skip", _isolate(entry, reward, spec, config, base_dir))
        )
        specs.append(spec)
        hashed.append([name, spec.weight, reward.args, _content(entry), spec.requires, spec.gate])
    _check_gates(specs, names)
    plugins = [file_digest((base_dir or Path()) / Path(plugin).expanduser()) for plugin in config.plugins]
    settings = [config.answer, config.extra_tags, config.aggregation, config.route_by]
    text = json.dumps([hashed, plugins, settings], sort_keys=True, default=repr)
    return RewardComposer(config, specs, runners, hashlib.sha256(text.encode()).hexdigest()[:16])


def _unique(name: str, taken: list[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _with_run_settings(entry: Entry, args: dict[str, Any], config: RewardsConfig) -> dict[str, Any]:
    """`args`, with the settings of the whole section for those parameters that the spec leaves open."""
    settable = entry.signature.settable
    settings: dict[str, Any] = {"answer_mode": config.answer}
    if config.extra_tags:
        settings["extra_tags"] = list(config.extra_tags)
    return {**{name: value for name, value in settings.items() if name in settable}, **args}


def _content(entry: Entry) -> str:
    """What a function is, for the hash: built-in ones by name, others by the file that they come from."""
    if entry.source == "built in":
        return entry.name
    try:
        file = inspect.getsourcefile(inspect.unwrap(entry.target))
        if entry.location is not None and file is not None:
            return file_digest(Path(file))
        return hashlib.sha256(inspect.getsource(entry.target).encode()).hexdigest()
    except (OSError, TypeError):
        return repr(getattr(entry.target, "__qualname__", type(entry.target).__qualname__))


def _isolate(
    entry: Entry, reward: Any, spec: RewardSpec, config: RewardsConfig, base_dir: Path | None
) -> IsolatedReward | None:
    """Worker processes for a function of one's own, unless the spec says otherwise."""
    wanted = entry.source != "built in" if spec.isolate is None else spec.isolate
    if not wanted:
        return None
    if entry.location is None:
        if spec.isolate:
            raise UserError(
                f"reward {entry.name} is registered in the running program; worker processes cannot load it; "
                "move it into a file named under rewards.plugins, or leave isolate out"
            )
        return None
    plugins = [str(((base_dir or Path()) / Path(p).expanduser()).resolve()) for p in config.plugins]
    recipe = {
        "plugins": plugins,
        "location": entry.location if entry.source != "built in" else entry.name,
        "args": reward.args,
        "style": spec.completions,
    }
    return IsolatedReward(reward, recipe, config.time_limit, config.workers, entry.elementwise)


def _check_gates(specs: list[RewardSpec], names: list[str]) -> None:
    for spec, name in zip(specs, names, strict=True):
        if spec.requires is None:
            continue
        if spec.requires not in names:
            raise UserError(
                f"reward {name} requires {spec.requires!r}, which is not among rewards.functions"
                f"{did_you_mean(spec.requires, names)}"
            )
        if spec.requires == name:
            raise UserError(f"reward {name} requires itself")
