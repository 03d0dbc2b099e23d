"""Comparing rewards over real logs: the numbers, what they do not depend on, going on, and mistakes."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glyphrl.cli import main
from glyphrl.errors import UserError
from glyphrl.evaluation.compare import scoring
from glyphrl.evaluation.compare.compare import compare_rewards
from glyphrl.evaluation.compare.report import Comparison
from glyphrl.output import plain
from glyphrl.rewards import build_reward
from glyphrl.trainers.completions_log import CompletionsLog, LogKey

WriteLog = Callable[..., Path]


def row(step: int, group: int, index: int, solution: str, completion: str, **extra: Any) -> dict[str, Any]:
    """A row of the log."""
    return {
        "run": "demo",
        "stage": "grpo",
        "step": step,
        "epoch": 0.0,
        "rank": 0,
        "group_id": f"{step}-0-{group}",
        "sample_id": f"s{step}-{group}",
        "completion_index": index,
        "prompt": "Read.",
        "images": [{"path": "a.png", "sha256": "0"}],
        "solution": solution,
        "completion": completion,
        "answer": completion,
        "format_fault": None,
        "finish_reason": "stop",
        "num_tokens": len(completion),
        "mean_logprob": -0.5,
        "reward": 0.5,
        "advantage": 0.0,
        "reward_spec_hash": "0",
        "time": 0.0,
        **extra,
    }


def misread(rnd: random.Random, text: str) -> str:
    """`text` with up to three characters replaced, in tags or not."""
    chars = list(text)
    for _ in range(rnd.randrange(4)):
        chars[rnd.randrange(len(chars))] = rnd.choice("abcx09")
    read = "".join(chars) + "x" * rnd.randrange(3)
    return f"<answer>{read}</answer>" if rnd.random() < 0.8 else read


@pytest.fixture
def write_log(tmp_path: Path) -> WriteLog:
    """Writes a run of several steps; files of later generations repeat the group ids of earlier ones."""

    def write(name: str = "demo", steps: int = 4, seed: int = 0) -> Path:
        rnd = random.Random(seed)
        log = CompletionsLog(tmp_path / name)
        for step, chunk in itertools.product(range(steps), range(2)):
            rows = []
            for group in range(5):
                solution = "".join(rnd.choices("0123456789abc", k=8))
                rows += [row(step, group, i, solution, misread(rnd, solution)) for i in range(4)]
            logged = [None if i % 7 == 0 else rnd.random() for i in range(len(rows))]
            log.write(LogKey(step, 0, chunk), rows, {"own": logged})
        return tmp_path / name

    return write


def without_times(comparison: Comparison) -> dict[str, Any]:
    """Everything that has to be the same each time."""
    rewards = [replace(r, milliseconds=None) for r in comparison.rewards]
    return plain(replace(comparison, rewards=rewards, reused_scores=0))


def compared(run: Path, *rewards: str, **more: Any) -> Comparison:
    """Compares in this process, with few resamples."""
    return compare_rewards([run], rewards, workers=0, **{"resamples": 50, **more})


def test_scores_are_those_of_the_functions(write_log):
    import pyarrow.parquet as pq

    run = write_log()
    found = compared(run, "ned", "weighted_cer:important_weight=3", "logged:own")
    tables = [pq.read_table(path) for path in sorted((run / "completions").iterdir())]
    texts = [(r["completion"], r["solution"], r["reward/own"]) for t in tables for r in t.to_pylist()]
    completions, solutions, own = zip(*texts, strict=True)
    assert found.completions == len(texts) == 160
    assert found.groups == 40  # 4 steps of 2 generations of 5 groups, though their ids are the same
    assert found.group_sizes == (4, 4)
    expected = build_reward("weighted_cer", important_weight=3.0)(completions, solutions)
    assert found.reward("weighted_cer").mean == pytest.approx(np.mean(expected))
    assert found.reward("weighted_cer").std == pytest.approx(np.std(expected))
    assert found.reward("weighted_cer").at_ceiling == pytest.approx(
        np.mean(np.equal(expected, max(expected)))
    )
    assert found.truths["edit similarity"] == found.reward("ned").mean
    known = [value for value in own if value is not None]
    logged = found.reward("logged:own")
    assert (logged.completions, logged.undefined) == (len(known), 160 - len(known))
    assert logged.mean == pytest.approx(np.mean(known))
    assert logged.milliseconds is None
    assert found.reward("ned").truths["edit similarity"].identical
    assert found.reward("ned").truths["edit similarity"].regret.value == 0.0


def test_curves_of_a_step_are_the_numbers_of_that_step(write_log):
    run = write_log()
    rewards = ["weighted_cer", "logged:own"]
    curves = compared(run, *rewards).curves
    assert curves.steps.tolist() == [0, 1, 2, 3]
    alone = compared(run, *rewards, where="step = 2")
    for label in rewards:
        one, by_step = alone.reward(label), curves.rewards[label]
        for name in ("mean", "std", "low", "high", "spread"):
            assert by_step[name][2] == pytest.approx(getattr(one, name)), name
        assert by_step["zero_spread"][2] == pytest.approx(one.zero_spread.value)
        assert by_step["length"][2] == pytest.approx(one.length.correlation.value)
        for truth, against in one.truths.items():
            for name in ("spearman", "kendall", "correlation", "regret"):
                expected = getattr(against, name).value
                assert curves.against[label][truth][name][2] == pytest.approx(expected), name
    pair = alone.pairs[0]
    for name in ("spearman", "kendall", "best_changes", "sign_changes", "cosine"):
        assert curves.pairs["weighted_cer | logged:own"][name][2] == pytest.approx(
            getattr(pair, name).value
        ), name
    assert curves.truths["exact match"][2] == pytest.approx(alone.truths["exact match"])


def test_no_order_of_files_or_folders_changes_anything(write_log, tmp_path):
    first, second = write_log("first", seed=1), write_log("second", seed=2)
    rewards = ["weighted_cer", "format", "logged:own"]
    here = compare_rewards([first, second], rewards, workers=0, resamples=50)
    # the same files under other names, in another order, one of them given twice
    files = sorted([*(first / "completions").iterdir(), *(second / "completions").iterdir()], reverse=True)
    mixed = tmp_path / "moved" / "completions"
    mixed.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copy(file, mixed / f"step-{number}.parquet")
    there = compare_rewards([mixed, files[3], mixed.parent], rewards, workers=0, resamples=50)
    assert there.repeated_files == 1 + len(files)
    expected = {**without_times(here), "runs": ["moved"], "repeated_files": there.repeated_files}
    assert without_times(there) == expected


def test_goes_on_where_it_was_stopped(write_log, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "SLICE", 8)
    run, out = write_log(), tmp_path / "out"
    expected = without_times(compared(run, "ned", "format"))

    def stop_after(limit: int) -> Callable[[int], Any]:
        done = itertools.count(1)

        def progress(rows: int) -> None:
            if next(done) == limit:
                raise KeyboardInterrupt

        return lambda total: progress

    with pytest.raises(KeyboardInterrupt):
        compared(run, "ned", "format", out=out, progress=stop_after(5))
    assert not (out / "compare.json").exists()
    found = compared(run, "ned", "format", out=out)
    assert 0 < found.reused_scores < 3 * 160
    assert without_times(found) == expected
    again = compared(run, "ned", "format", out=out)
    assert again.reused_scores == 3 * 160  # two rewards and two truths, of which one is `ned` too
    assert without_times(again) == expected
    # Other settings, other rows and another file are other scores.
    assert compared(run, "ned:normalization=nfc", out=out).reused_scores == 2 * 160
    assert compared(run, "ned", out=out, where="step > 1").reused_scores == 0
    assert json.loads((out / "compare.json").read_text())["completions"] == 80


def test_where_chooses_rows_and_its_mistakes_are_named(write_log):
    run = write_log()
    found = compared(run, "ned", "format", where='step >= 2 AND "reward/own" IS NOT NULL -- a comment')
    assert found.steps == (2, 3)
    assert found.completions == sum(i % 7 != 0 for i in range(20)) * 4
    with pytest.raises(UserError, match=r'--where stpe > 1: .*\n.*"step"'):
        compared(run, "ned", where="stpe > 1")
    for wrong in ("CAST(completion AS INT) > 1", "step >", "count(*) > 1", "true) UNION SELECT (1"):
        with pytest.raises(UserError, match=re.escape(f"--where {wrong}: ")):
            compared(run, "ned", where=wrong)
    with pytest.raises(UserError, match="no completion is left by --where step > 99"):
        compared(run, "ned", where="step > 99")


PLUGIN = """
from glyphrl.rewards import register_reward

@register_reward("sometimes")
def sometimes(completions, solution, sample_id, num_tokens, **columns):
    assert columns["finish_reason"] == ["stop"] * len(completions)
    assert "reward/own" in columns and "note" in columns
    return [None if note == "skip" else float(n) for n, note in zip(num_tokens, columns["note"])]
"""


def test_columns_reach_a_function_and_none_takes_no_part(tmp_path):
    log = CompletionsLog(tmp_path / "run")
    texts = ["abcd", "abc", "ab", "a"]
    # One group without a note, one where half is skipped, one where all but one are, one where all are.
    notes = [[None] * 4, ["skip", "skip", "x", "x"], ["skip", "skip", "skip", "x"], ["skip"] * 4]
    rows = [
        row(0, g, i, "abcd", f"<answer>{text}</answer>", note=notes[g][i])
        for g in range(4)
        for i, text in enumerate(texts)
    ]
    log.write(LogKey(0, 0), rows, {"own": [1.0] * 16})
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    found = compare_rewards(
        [tmp_path / "run"], [f"{plugin}:sometimes", "ned", "logged"], workers=0, resamples=50
    )
    mine = found.reward("sometimes")
    assert (mine.completions, mine.undefined) == (7, 9)
    # Groups 0 and 1 have two completions that it applies to, and tell them apart.
    assert mine.groups == 2
    assert mine.zero_spread.value == 0.0
    against = mine.truths["edit similarity"]
    assert against.groups == 2
    # More tokens are better here: in both groups the order is that of the truth.
    assert against.kendall.value == 1.0
    assert against.regret.value == 0.0
    assert found.pairs[0].completions == 7
    # A constant reward has no order, and one completion of each group is as good as another.
    logged = found.reward("logged")
    assert logged.zero_spread.value == 1.0
    assert logged.truths["edit similarity"].kendall is None
    # mean similarity (1 + 3/4 + 2/4 + 1/4) / 4 = 0.625 against 1
    assert logged.truths["edit similarity"].regret.value == pytest.approx(0.375)
    assert any("`sometimes` does not apply to 56 % of completions (9)" in s for s in found.verdict)
    assert any("`logged` is 0.5 for every completion" in s for s in found.verdict)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (["nde"], "unknown reward 'nde'; did you mean 'ned'"),
        (["logged:onw"], "no column 'reward/onw'; did you mean 'own'"),
        (["ned", "ned"], "--reward ned is given twice"),
        ([], "no reward is named"),
        (["table"], "reward table applies to none of the 160 completions"),
    ],
)
def test_mistakes_in_rewards(write_log, rewards, message):
    with pytest.raises(UserError, match=re.escape(message)):
        compared(write_log(), *rewards)


def test_mistakes_in_logs(tmp_path, write_log):
    with pytest.raises(UserError, match="nowhere does not exist"):
        compared(tmp_path / "nowhere", "ned")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no completions log"):
        compared(tmp_path / "empty", "ned")
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(UserError, match="not a Parquet file"):
        compared(tmp_path / "bad.parquet", "ned")
    rows = [row(0, 0, 0, "a", "a"), row(0, 0, 1, None, "b")]
    path = CompletionsLog(tmp_path / "gap").write(LogKey(0, 0), rows, {})
    with pytest.raises(UserError, match=f"{path}, row 2: solution is null"):
        compared(tmp_path / "gap", "ned")


def test_mistakes_in_the_folder(tmp_path, write_log):
    run, out = write_log(), tmp_path / "out"
    out.mkdir()
    (out / "scores.sqlite").write_text("no database, but long enough to be taken for one " * 50)
    with pytest.raises(UserError, match=r"scores\.sqlite cannot be read as scores: .*; remove it"):
        compared(run, "ned", out=out)
    with pytest.raises(UserError, match="is a file; expected a folder"):
        compared(run, "ned", out=out / "scores.sqlite")


def test_a_function_that_fails_stops_the_comparison_and_names_the_row(write_log, tmp_path):
    plugin = tmp_path / "fails.py"
    plugin.write_text("def fails(completions, **columns):\n    return [float(c[9]) for c in completions]\n")
    with pytest.raises(UserError, match=r"reward fails on .*parquet, row \d+: raised"):
        compared(write_log(), f"{plugin}:fails")


def test_the_column_types_of_files_may_differ(tmp_path):
    log = CompletionsLog(tmp_path / "run")
    for step, note in enumerate([3, "three", None]):
        extra = {"note": note} if note is not None else {}
        rows = [row(step, 0, i, "abcd", "abcd"[: i + 1], **extra) for i in range(4)]
        log.write(LogKey(step, 0), rows, {"own": [0.1, 0.2, 0.3, 0.4]} if step else {})
    found = compared(tmp_path / "run", "ned", "logged:own", where="note IS NULL OR note = '3'")
    assert found.completions == 8
    assert found.reward("logged:own").undefined == 4


def test_the_command(write_log, tmp_path, capsys):
    run, out = write_log(), tmp_path / "out"
    command = ["rewards", "compare", str(run), "--reward", "ned", "--reward", "format", "--workers", "0"]
    command += ["--resamples", "20", "--out", str(out)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert text.startswith("160 completions in 40 groups of 4; steps 0 to 3; 8 files of demo")
    assert "Between rewards" in text
    assert text.rstrip().endswith(str(out / "compare.html"))
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["rewards"][0]["label"] == "ned"
    kept = json.loads((out / "compare.json").read_text())
    assert {**shown, "reused_scores": 0} == {**kept, "reused_scores": 0}
    assert main([*command[:3], "--reward", "nde"]) == 2
    assert "did you mean 'ned'" in capsys.readouterr().err


def test_names_that_sql_would_misread(tmp_path, write_log):
    run = write_log()
    odd = tmp_path / "run[1]*' --"
    shutil.copytree(run, odd)
    shutil.copytree(write_log("other", seed=9), tmp_path / "run1' --")  # what the name means as a pattern
    assert compared(odd, "ned").truths == compared(run, "ned").truths
    rows = [row(0, 0, i, "a", "a", Note=1, note=2) for i in range(2)]
    CompletionsLog(tmp_path / "twins").write(LogKey(0, 0), rows, {})
    with pytest.raises(UserError, match="'Note' and 'note', which SQL takes for one"):
        compared(tmp_path / "twins", "ned")
