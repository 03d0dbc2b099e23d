"""Calling reward functions on a batch, and turning failures into errors that name the completion."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glyphrl.rewards.errors import RewardError, excerpt
from glyphrl.rewards.isolation import IsolatedReward
from glyphrl.rewards.pool import Outcome
from glyphrl.rewards.reward import Reward, RewardLog
from glyphrl.rewards.worker import describe_exception


@dataclass(frozen=True)
class Batch:
    """What is scored."""

    completions: list[Any]
    columns: dict[str, Any]
    names: list[str]
    """How errors call each completion, e.g. `sample 'page-3'`."""

    def take(self, rows: Sequence[int]) -> Batch:
        """The batch of some of its completions."""
        if len(rows) == len(self.completions):
            return self
        count = len(self.completions)
        columns = {
            name: [value[i] for i in rows] if is_column(value, count) else value
            for name, value in self.columns.items()
        }
        return Batch([self.completions[i] for i in rows], columns, [self.names[i] for i in rows])


def is_column(value: Any, count: int) -> bool:
    """Whether `value` holds one entry for each completion (`trainer_state` and the like do not)."""
    return isinstance(value, list | tuple | np.ndarray) and len(value) == count


@dataclass
class Scored:
    """What one reward function said about a batch."""

    values: np.ndarray
    """(N,) float64; NaN where it returned None or was skipped."""
    log: RewardLog = field(default_factory=RewardLog)
    skipped: list[str] = field(default_factory=list)
    """Messages about completions that were left out because it failed on them."""


@dataclass(frozen=True)
class Runner:
    """One function of the composed reward, and how it is run."""

    name: str
    reward: Reward
    skip_errors: bool = False
    isolated: IsolatedReward | None = None

    def attempt(self, batch: Batch) -> tuple[Outcome, RewardLog]:
        """Calls the function once; exceptions become an outcome."""
        if self.isolated is not None:
            return self.isolated.call(batch.completions, batch.columns)
        log = RewardLog()
        try:
            return Outcome("ok", self.reward.score(batch.completions, batch.columns, log)), log
        except (
            Exception
        ) as error:  # the scorer may be the user's; reported below with the completion it fails on
            return _failed(error), log

    async def attempt_async(self, batch: Batch) -> tuple[Outcome, RewardLog]:
        """As `attempt`, for an async function that shares an event loop with others."""
        log = RewardLog()
        try:
            result = await self.reward.start(batch.completions, batch.columns, log)
            return Outcome("ok", self.reward.as_list(result)), log
        except Exception as error:  # as in `attempt`
            return _failed(error), log

    def settle(self, batch: Batch, outcome: Outcome, log: RewardLog) -> Scored:
        """Checks what came back; where the call failed, finds the completion that it fails on.

        Raises:
            RewardError: Naming function, sample and completion, unless errors are skipped.
        """
        if outcome.kind == "ok":
            values, bad = self._check(batch, outcome.value)
            _check_extras(self.name, log, len(batch.completions))
            skipped = [self._skip_or_raise(batch, i, message) for i, message in bad]
            return Scored(values, log, skipped)
        if isinstance(outcome.value, RewardError) and outcome.value.index is None:
            raise outcome.value
        return self._search(batch, outcome)

    def _check(self, batch: Batch, values: list[Any]) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """The values as an array, and what is wrong with some of them."""
        count = len(batch.completions)
        if len(values) != count:
            raise RewardError(
                f"reward {self.name} returned {len(values)} scores for {count} completions (the first is of "
                f"{batch.names[0]}); expected one for each, None where it does not apply",
                self.name,
            )
        array, bad = np.full(count, np.nan), []
        for i, value in enumerate(values):
            if value is None:
                continue
            if isinstance(value, bool | int | float) and math.isfinite(value):
                array[i] = value
            else:
                bad.append((i, f"returned {excerpt(value)}; expected a finite number or None"))
        return array, bad

    def _search(self, batch: Batch, whole: Outcome) -> Scored:
        """Calls the function on one completion at a time, to say which it fails on."""
        scores = Scored(np.full(len(batch.completions), np.nan))
        for i in range(len(batch.completions)):
            outcome, log = self.attempt(batch.take([i]))
            if outcome.kind == "ok":
                values, bad = self._check(batch.take([i]), outcome.value)
                scores.values[i] = values[0]
                for name, logged in log.extras.items():
                    scores.log.extras.setdefault(name, [None] * len(batch.completions))[i] = logged[0]
                for name, numbers in log.metrics.items():
                    scores.log.metrics.setdefault(name, []).extend(numbers)
                message = bad[0][1] if bad else ""
            else:
                message = _describe(outcome)
            if message:
                scores.skipped.append(self._skip_or_raise(batch, i, message))
        if not scores.skipped:
            raise RewardError(
                f"reward {self.name} failed on {len(batch.completions)} completions together, but on none "
                f"of them alone: {_describe(whole)}",
                self.name,
            )
        return scores

    def _skip_or_raise(self, batch: Batch, index: int, message: str) -> str:
        text = (
            f"reward {self.name} on {batch.names[index]}: {message}; "
            f"completion: {excerpt(batch.completions[index])}"
        )
        if self.skip_errors:
            return text
        raise RewardError(
            f"{text}. A failure is never scored as 0: mend the function, or set on_error: skip for it",
            self.name,
            index,
        )


def _failed(error: Exception) -> Outcome:
    return Outcome("error", error, describe_exception(error))


def _describe(outcome: Outcome) -> str:
    if isinstance(outcome.value, RewardError):
        return str(outcome.value)
    verb = {"error": "raised", "timeout": "took too long:", "crash": "crashed:"}[outcome.kind]
    return f"{verb} {outcome.message}"


def _check_extras(name: str, log: RewardLog, count: int) -> None:
    for column, values in log.extras.items():
        if len(values) != count:
            raise RewardError(
                f"reward {name} logged {len(values)} values as {column!r} for {count} completions",
                name,
            )


def run_all(runners: Sequence[Runner], batches: Sequence[Batch]) -> list[Scored]:
    """Runs each function on its batch: isolated ones in their processes, async ones together, the rest here.

    Args:
        runners: The functions.
        batches: What each of them scores.

    Returns:
        In the order of `runners`.

    Raises:
        RewardError: A function failed; of several failures, that of the first function.
    """
    pending: dict[int, Future[tuple[Outcome, RewardLog]]] = {}
    together = [i for i, r in enumerate(runners) if r.isolated is None and r.reward.is_async]
    apart = [i for i, r in enumerate(runners) if r.isolated is not None]
    attempts: dict[int, tuple[Outcome, RewardLog]] = {}
    with ThreadPoolExecutor(len(apart) + 1, "rewards") as threads:
        try:
            for i in apart:
                pending[i] = threads.submit(runners[i].attempt, batches[i])
            coroutines = threads.submit(_gather, [(runners[i], batches[i]) for i in together])
            for i in range(len(runners)):
                if i not in pending and i not in together:
                    attempts[i] = runners[i].attempt(batches[i])
            attempts.update(zip(together, coroutines.result(), strict=True))
            attempts.update((i, future.result()) for i, future in pending.items())
        except BaseException:  # Ctrl-C must not wait for what the workers are doing
            for i in apart:
                runners[i].isolated.kill()  # type: ignore[union-attr]
            raise
    return [runner.settle(batches[i], *attempts[i]) for i, runner in enumerate(runners)]


def _gather(calls: Sequence[tuple[Runner, Batch]]) -> list[tuple[Outcome, RewardLog]]:
    """Runs async functions in one event loop."""
    if not calls:
        return []

    async def all_of_them() -> list[tuple[Outcome, RewardLog]]:
        return await asyncio.gather(*(runner.attempt_async(batch) for runner, batch in calls))

    return asyncio.run(all_of_them())
