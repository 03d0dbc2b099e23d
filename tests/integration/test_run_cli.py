"""Runs through the command line: SFT -> GRPO with vLLM -> evaluation -> report; resuming; real scanned lines."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_commands import (
    QUICKSTART,
    VARIETY,
    draw_strips,
    expect,
    glyphrl,
    metric_lines,
    run_here,
    short_stages,
    start,
)

from glyphrl.config import load_config
from glyphrl.trainers.completions_log import COLUMNS, read_completions

GROUPS, GROUP_SIZE, STEPS = 2, 8, 3

PLUGIN = '''
from glyphrl.rewards import register_reward


@register_reward("starts_like")
def starts_like(completions: list[str], solution: list[str], letters: int = 3, **columns) -> list[float]:
    """1 where the first letters are right."""
    return [float(c[:letters] == s[:letters]) for c, s in zip(completions, solution, strict=True)]
'''
BOTH = "rewards.functions=[{name: weighted_cer}, {name: format}, {name: variety}]"


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name the data."""
    return draw_strips(tmp_path_factory.mktemp("strips"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, strips: list[str]) -> tuple[list[object], Path, str]:
    """A finished run with vLLM: its command, its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    run, plugin = folder / "first", folder / "rewards.py"
    plugin.write_text(VARIETY)  # without a reward that differs there would be nothing to train on
    command = ["train", QUICKSTART, f"output_dir={run}", *strips, *short_stages(2, STEPS, GROUPS)]
    command += [f"rewards.plugins=[{plugin}]", BOTH]
    return command, run, expect(glyphrl(*command)).stdout


def test_a_run_prints_the_comparison_and_leaves_everything_in_its_folder(trained: tuple) -> None:
    _, run, printed = trained
    for row in ("base", "after SFT", "after GRPO", "GRPO − SFT", "24 held-out samples"):
        assert row in printed
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["models"]) == ["base", "sft", "grpo"]
    assert {"value", "low", "high"} <= set(summary["differences"]["grpo - sft"]["text_acc"])
    assert "<html" in (run / "report.html").read_text()
    assert load_config(run / "config.yaml").grpo.args["max_steps"] == STEPS
    for model in summary["models"]:
        assert pq.read_table(run / "eval" / model / "predictions.parquet").num_rows == 24
    for stage in ("sft", "grpo"):
        assert (run / stage / "final" / "model.safetensors").is_file()
        assert any((run / stage / "tensorboard").iterdir())
    assert [line["step"] for line in metric_lines(run, "grpo") if "reward" in line] == [1, 2, 3]
    assert [line["step"] for line in metric_lines(run, "sft") if "loss" in line] == [1, 2]


def test_every_completion_of_every_step_is_logged(trained: tuple) -> None:
    _, run, _ = trained
    log = read_completions(run)
    assert log.num_rows == STEPS * GROUPS * GROUP_SIZE
    assert {name for name, _ in COLUMNS} | {
        f"reward/{name}" for name in ("weighted_cer", "format", "variety")
    } == set(log.column_names)
    rows = log.to_pylist()
    assert len({(row["step"], row["group_id"], row["completion_index"]) for row in rows}) == len(rows)
    assert all(row["mean_logprob"] < 0 and row["num_tokens"] >= 1 for row in rows)
    assert all(len(row["images"][0]["sha256"]) == 64 for row in rows)
    for group in {row["group_id"] for row in rows}:
        members = [row for row in rows if row["group_id"] == group]
        assert len({row["sample_id"] for row in members}) == 1
        assert abs(sum(row["advantage"] for row in members)) < 1e-4


def test_vllm_and_the_trainer_agree_during_the_run(trained: tuple) -> None:
    _, run, _ = trained
    gaps = [line.get("sampling/sampling_logp_difference/mean") for line in metric_lines(run, "grpo")]
    gaps = [gap for gap in gaps if gap is not None]
    assert len(gaps) == STEPS  # after every weight sync
    assert max(gaps) < 1e-4


def test_resuming_a_finished_run_changes_nothing(trained: tuple) -> None:
    command, run, printed = trained
    before = {path: path.stat().st_mtime_ns for path in (run / "completions").iterdir()}
    assert expect(glyphrl(*command, "--resume")).stdout == printed
    assert {path: path.stat().st_mtime_ns for path in (run / "completions").iterdir()} == before


def test_a_folder_that_holds_another_run_is_refused(trained: tuple) -> None:
    command, run, _ = trained
    again = expect(glyphrl(*command), 2)
    assert "--resume" in again.stderr
    assert "Traceback" not in again.stderr
    changed = expect(glyphrl(*command, "--resume", "grpo.learning_rate=1e-5"), 2)
    assert "grpo.learning_rate" in changed.stderr
    assert str(run) in changed.stderr


def test_eval_reads_a_model_of_the_run_as_the_run_did(
    trained: tuple, strips: list[str], tmp_path: Path
) -> None:
    _, run, _ = trained
    held_out = strips[2].removeprefix("data.eval=")
    done = expect(glyphrl("eval", run / "sft" / "final", held_out, "--out", tmp_path / "eval", "--json"))
    assert json.loads(done.stdout)
    mine = pq.read_table(tmp_path / "eval" / "predictions.parquet")["completion"]
    assert (
        mine.to_pylist()
        == pq.read_table(run / "eval" / "sft" / "predictions.parquet")["completion"].to_pylist()
    )
    assert (tmp_path / "eval" / "report.html").is_file()


def test_a_forecast_samples_with_vllm(trained: tuple, strips: list[str], tmp_path: Path) -> None:
    """Log-probabilities in its log show who has sampled; the report's numbers are those of the log."""
    _, run, _ = trained
    out = tmp_path / "forecast"
    options = ["--model", run / "sft" / "final", "--samples", 6, "--completions", 4, "--out", out, "--json"]
    done = expect(glyphrl("rewards", "forecast", QUICKSTART, *strips, *options, compiled=False))
    printed = json.loads(done.stdout)
    rows = read_completions(out).to_pylist()
    assert len(rows) == 6 * 4
    assert all(row["mean_logprob"] < 0 for row in rows)
    rewards = [[row["reward"] for row in rows[start : start + 4]] for start in range(0, 24, 4)]
    assert printed["rewards"][0]["mean"]["value"] == pytest.approx(sum(map(sum, rewards)) / 24)
    assert printed["rewards"][0]["best"]["value"] == pytest.approx(sum(map(max, rewards)) / 6)
    assert printed["rewards"][0]["signal"]["value"] == sum(max(group) > min(group) for group in rewards) / 6


def test_a_killed_lora_run_goes_on_and_merges(strips: list[str], tmp_path: Path) -> None:
    plugin = tmp_path / "my_rewards.py"
    plugin.write_text(PLUGIN + VARIETY)
    run, steps = tmp_path / "killed", 8
    command = [
        "train",
        QUICKSTART,
        f"output_dir={run}",
        *strips,
        *short_stages(2, steps, 1),
        "model.lora={r: 4}",
        "grpo.save_strategy=steps",
        "grpo.save_steps=2",
        "rollout.backend=transformers",
        "eval.enabled=false",
        f"rewards.plugins=[{plugin}]",
        "rewards.functions=[{name: variety}, {name: starts_like, weight: 0.2, args: {letters: 2}}]",
    ]
    process = start(*command)
    deadline = time.monotonic() + 300
    while len([line for line in metric_lines(run, "grpo") if "reward" in line]) < 5:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline, "the run did not get to step 5"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "grpo" / "final").exists()

    expect(glyphrl(*command, "--resume"))
    rows = read_completions(run).to_pylist()
    assert "reward/starts_like" in rows[0]
    keys = [(row["step"], row["group_id"], row["completion_index"]) for row in rows]
    assert len(set(keys)) == len(keys) == steps * GROUP_SIZE
    assert {row["step"] for row in rows} == set(range(steps))
    logged = [line["step"] for line in metric_lines(run, "grpo") if "reward" in line]
    assert logged == list(range(1, steps + 1))

    assert (run / "grpo" / "final" / "adapter_model.safetensors").is_file()
    run_here("export", "merge", run / "grpo" / "final", tmp_path / "merged")
    readings = []
    held_out = strips[2].removeprefix("data.eval=")
    for name, model in (("adapter", run / "grpo" / "final"), ("merged", tmp_path / "merged")):
        settings = ["--config", run / "config.yaml", "eval.backend=transformers"]
        run_here("eval", model, held_out, "--out", tmp_path / name, *settings)
        readings.append(pq.read_table(tmp_path / name / "predictions.parquet")["completion"].to_pylist())
    assert readings[0] == readings[1]


def test_the_same_yaml_trains_on_scanned_lines(shared_data: Path, tmp_path: Path) -> None:
    run, plugin = tmp_path / "letters", tmp_path / "rewards.py"
    plugin.write_text(VARIETY)
    done = expect(
        glyphrl(
            "train",
            QUICKSTART,
            f"output_dir={run}",
            f"data.train={shared_data / 'stanford_letters_en'}",
            "data.split.by=document",
            "data.max_eval_samples=8",
            *short_stages(2, 2, 1),
            "sft.per_device_train_batch_size=2",
            "grpo.max_completion_length=24",
            "rollout.max_model_len=512",
            f"rewards.plugins=[{plugin}]",
            BOTH,
            compiled=False,
        )
    )
    assert "after GRPO" in done.stdout
    assert read_completions(run).num_rows == 2 * GROUP_SIZE
    assert all(line["grad_norm"] > 0 for line in metric_lines(run, "grpo") if "reward" in line)
