"""Comparing rewards over the completions of runs: the entry point."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from glyphrl.errors import UserError
from glyphrl.evaluation.bootstrap import CONFIDENCE
from glyphrl.evaluation.compare.candidates import Candidate, Setting, read_candidates, truth_candidates
from glyphrl.evaluation.compare.curves import build_curves, build_trends
from glyphrl.evaluation.compare.examples import find_examples
from glyphrl.evaluation.compare.facts import Facts, read_facts
from glyphrl.evaluation.compare.log_files import Log, open_log
from glyphrl.evaluation.compare.measure import measure
from glyphrl.evaluation.compare.report import Comparison
from glyphrl.evaluation.compare.scoring import Progress, ScoreTable, score_log
from glyphrl.evaluation.compare.statistics import pair_stats, plan_statistics, reward_stats
from glyphrl.evaluation.compare.store import open_store
from glyphrl.evaluation.compare.verdict import verdict
from glyphrl.files import atomic_write_text
from glyphrl.output import plain

RESAMPLES = 1000
EXAMPLES = 4
JSON = "compare.json"


def compare_rewards(
    runs: Sequence[str | Path],
    rewards: Sequence[str],
    *,
    where: str | None = None,
    out: str | Path | None = None,
    plugins: Sequence[str] = (),
    answer: Literal["lenient", "strict"] = "lenient",
    base_dir: str | Path | None = None,
    workers: int | None = None,
    resamples: int = RESAMPLES,
    examples: int = EXAMPLES,
    seed: int = 0,
    progress: Callable[[int], Progress] | None = None,
) -> Comparison:
    """Scores every logged completion with each reward, and says how the rewards differ and which to trust.

    Args:
        runs: Run folders, `completions` folders or Parquet files of a log.
        rewards: `NAME[:key=value,...]`, `file.py:function`, `module:function`, `logged` or `logged:PART` each.
        where: SQL condition over the log's columns that chooses completions.
        out: Folder that keeps the scores, so that a second call goes on, and gets compare.json and compare.html.
        plugins: Python files that register rewards.
        answer: What a completion without an answer block is worth, see `RewardsConfig`.
        base_dir: Folder that relative plugin files start from.
        workers: Processes that score. None: one per core; 0: none but this one.
        resamples: Behind the bootstrap intervals.
        examples: Samples to show for each pair of rewards.
        seed: Of the bootstrap.
        progress: Given the number of completions, returns what is told how many more are done.

    Raises:
        UserError: A log, a reward or a condition is not what it should be; RewardError where a function fails.
    """
    log = open_log(runs, where)
    setting = Setting(
        tuple(str((Path(base_dir or "") / Path(p).expanduser()).resolve()) for p in plugins),
        answer,
        str(base_dir) if base_dir is not None else None,
    )
    candidates = read_candidates(rewards, setting, log.columns)
    facts = read_facts(log, [c.column for c in candidates if c.column is not None])
    folder = Path(out) if out is not None else None
    every = [*candidates, *truth_candidates()]
    with open_store(folder, where) as store:
        told = progress(len(facts)) if progress is not None else lambda rows: None
        scores = score_log(log, facts, every, setting, store, workers=workers, progress=told)
    comparison = assemble(log, facts, candidates, scores, resamples=resamples, examples=examples, seed=seed)
    if folder is not None:
        from glyphrl.evaluation.compare.page import PAGE, render_page

        text = json.dumps(plain(comparison), ensure_ascii=False, indent=1, allow_nan=False)
        atomic_write_text(folder / JSON, text + "\n")
        atomic_write_text(folder / PAGE, render_page(comparison))
    return comparison


def assemble(
    log: Log,
    facts: Facts,
    candidates: Sequence[Candidate],
    scores: ScoreTable,
    *,
    resamples: int,
    examples: int,
    seed: int,
) -> Comparison:
    """The statistics of scores.

    Raises:
        UserError: A reward applies to no completion.
    """
    rewards = {c.label: scores.values[c.label] for c in candidates}
    truths = {name: values for name, values in scores.values.items() if name not in rewards}
    for name, values in rewards.items():
        if np.isnan(values).all():
            raise UserError(f"reward {name} applies to none of the {len(facts):,} completions; leave it out")
    measured = measure(facts.group, rewards, truths, facts.length)
    plan = plan_statistics(facts.group, rewards, truths, measured)
    found = plan.intervals(resamples, seed)
    sizes = np.bincount(facts.group)
    comparison = Comparison(
        files=len(log.files),
        repeated_files=log.repeated,
        where=log.where,
        completions=len(facts),
        groups=len(sizes),
        group_sizes=(int(sizes.min()), int(sizes.max())),
        steps=(int(facts.step.min()), int(facts.step.max())),
        runs=log.run_names,
        truths={name: float(np.nanmean(values)) for name, values in truths.items()},
        rewards=[
            reward_stats(
                c.label, c.text, rewards[c.label], truths, measured, found, scores.milliseconds[c.label]
            )
            for c in candidates
        ],
        pairs=[pair_stats(a, b, measured, found) for a, b in combinations(rewards, 2)],
        regret_differences={
            f"{a} - {b}": {truth: found["less", a, b, truth] for truth in truths}
            for a, b in combinations(rewards, 2)
        },
        trends=build_trends(facts.step, facts.group, {**rewards, **truths}),
        curves=build_curves(facts.step, facts.group, rewards, truths, facts.length, measured),
        examples=find_examples(log, facts, rewards, next(iter(truths.values())), measured, examples),
        confidence=CONFIDENCE,
        resamples=resamples,
        seed=seed,
        reused_scores=scores.reused,
    )
    return replace(comparison, verdict=verdict(comparison))
