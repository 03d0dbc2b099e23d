"""Scoring a slice of a log with several rewards; runs in worker processes (`glyphrl.rewards.pool`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glyphrl.config_schema import RewardSpec
from glyphrl.errors import UserError
from glyphrl.evaluation.compare.candidates import Setting
from glyphrl.evaluation.compare.log_files import FILE, ROW
from glyphrl.rewards.compose import RewardComposer
from glyphrl.rewards.running import Batch, Runner, run_all

DECIMALS = 12
"""Scores are rounded to so many: what is equal but for the order of a sum stays a tie."""
OWN = (FILE, ROW)


@dataclass(frozen=True)
class Scored:
    """What one reward said about a slice.

    Attributes:
        values: (N,) float64, NaN where it does not apply.
        seconds: What it took.
    """

    values: np.ndarray
    seconds: float


Score = Callable[[bytes, Sequence[int]], tuple[str, Any]]


def build_scorer(
    specs: Sequence[dict[str, Any] | None], setting: dict[str, Any], truths: Sequence[bool]
) -> Score:
    """Builds rewards, each when it is first asked for.

    Args:
        specs: Fields of a `RewardSpec` for each reward; None where the log holds its values.
        setting: Fields of a `Setting`.
        truths: Whether a reward is a truth, which the setting does not bear on.

    Returns:
        A function of a slice (an Arrow IPC stream) and the positions of the rewards that score it. It returns
        `("ok", [Scored, ...])`, or `("refused", message)` where a reward failed.
    """
    composers: dict[int, RewardComposer] = {}
    chosen = Setting(**{**setting, "plugins": tuple(setting["plugins"])})

    def composer(position: int) -> RewardComposer:
        if position not in composers:
            fields = specs[position]
            assert fields is not None
            made = (Setting() if truths[position] else chosen).composer(RewardSpec(**fields))
            composers[position] = made
        return composers[position]

    def score(content: bytes, positions: Sequence[int]) -> tuple[str, Any]:
        import pyarrow as pa

        with pa.ipc.open_stream(content) as stream:
            table = stream.read_all()
        batch = as_batch(table)
        new = [position for position in positions if position not in composers]
        try:
            for position in new:
                warm_up(composer(position).runners[0], batch)
            return "ok", [score_one(composer(p).runners[0], composer(p).weights[0], batch) for p in positions]
        except UserError as error:  # a sentence for the user; a traceback would only hide it
            return "refused", str(error)

    return score


def warm_up(runner: Runner, batch: Batch) -> None:
    """Has a built-in reward import and compile what it needs before its time is taken."""
    if is_built_in(runner) and batch.completions:
        score_one(runner, 1.0, batch.take([0]))


def is_built_in(runner: Runner) -> bool:
    """Whether it is one of ours: those have no state and only count what they are given."""
    return type(runner.reward.function).__module__.startswith("glyphrl.rewards.")


def as_batch(table: Any) -> Batch:
    """Rows of the log as what reward functions take; the columns are named as they are in training."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    files, rows = columns.pop(FILE), columns.pop(ROW)
    if "prompt" in columns:
        columns.setdefault("prompts", columns["prompt"])
    if "sample_id" in columns:
        columns.setdefault("id", columns["sample_id"])
    completions = columns.pop("completion")
    names = [f"{file}, row {row + 1}" for file, row in zip(files, rows, strict=True)]
    return Batch(completions, columns, names)


def score_one(runner: Runner, weight: float, batch: Batch) -> Scored:
    """Scores a slice with one reward."""
    if "completion_ids" in runner.reward.signature.parameters and "completion_ids" not in batch.columns:
        batch = _with_lengths(runner, batch)
    began = time.perf_counter()
    scored = run_all([runner], [batch])[0]
    seconds = time.perf_counter() - began
    return Scored(np.round(weight * scored.values, DECIMALS), seconds)


def _with_lengths(runner: Runner, batch: Batch) -> Batch:
    """The log counts tokens but does not hold them, and built-in rewards only count them."""
    counts = batch.columns.get("num_tokens")
    if counts is None or not is_built_in(runner):
        return batch
    stand_in = [range(count or 0) for count in counts]
    return Batch(batch.completions, {**batch.columns, "completion_ids": stand_in}, batch.names)
