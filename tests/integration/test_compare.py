"""Comparing rewards from the shell: in several processes, killed and gone on with, and its page in a browser."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glyphrl.trainers.completions_log import CompletionsLog, LogKey

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for found in map(shutil.which, BROWSERS) if found), None)
GROUP, ROWS, FILES = 8, 8192, 4

SLOW = """
import time
from glyphrl.rewards import register_reward

@register_reward("slow", elementwise=True)
def slow(completions, solution, **columns):
    time.sleep(0.4)
    return [float(c[:3] == s[:3]) for c, s in zip(completions, solution)]
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a log of several files, each of several slices; what is in it would be markup."""
    folder = tmp_path_factory.mktemp("run")
    rnd = random.Random(0)
    log = CompletionsLog(folder)
    for step in range(FILES):
        rows = []
        for number in range(ROWS):
            solution = f"{number // GROUP:06d}<b>"
            chars = list(solution)
            chars[rnd.randrange(len(chars))] = rnd.choice("0123456789<")
            text = "".join(chars) + "<script>document.title='owned'</script>" * (rnd.random() < 0.1)
            rows.append(
                {
                    "run": "<i>",
                    "stage": "grpo",
                    "step": step,
                    "epoch": 0.0,
                    "rank": 0,
                    "group_id": f"{step}-0-{number // GROUP}",
                    "sample_id": f"<img src=x onerror=alert(1)>{number // GROUP}",
                    "completion_index": number % GROUP,
                    "prompt": "Read.",
                    "images": [],
                    "solution": solution,
                    "completion": f"<answer>{text}</answer>",
                    "answer": text,
                    "format_fault": None,
                    "finish_reason": "stop",
                    "num_tokens": len(text),
                    "mean_logprob": 0.0,
                    "reward": 0.0,
                    "advantage": 0.0,
                    "reward_spec_hash": "0",
                    "time": 0.0,
                }
            )
        log.write(LogKey(step, 0), rows, {})
    (folder / "slow.py").write_text(SLOW)
    return folder


def command(run: Path, out: Path, *more: str) -> list[str]:
    """The command line."""
    start = [sys.executable, "-m", "glyphrl", "rewards", "compare", str(run), "--out", str(out)]
    return [
        *start,
        "--reward",
        "weighted_cer",
        "--reward",
        f"{run / 'slow.py'}:slow",
        "--resamples",
        "50",
        *more,
    ]


def result(out: Path) -> dict:
    """What has to be the same each time."""
    data = json.loads((out / "compare.json").read_text())
    del data["reused_scores"]
    for reward in data["rewards"]:
        del reward["milliseconds"]
    return data


def kept(out: Path) -> int:
    """Slices whose scores are on the disk."""
    if not (out / "scores.sqlite").exists():
        return 0
    try:
        with sqlite3.connect(out / "scores.sqlite") as connection:
            return connection.execute("SELECT count(*) FROM slices").fetchone()[0]
    except sqlite3.OperationalError:  # not set up yet
        return 0


def test_a_killed_comparison_goes_on(run_dir, tmp_path):
    subprocess.run(
        command(run_dir, tmp_path / "whole", "--workers", "2"), check=True, stdout=subprocess.DEVNULL
    )
    out = tmp_path / "killed"
    process = subprocess.Popen(command(run_dir, out, "--workers", "1"), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while kept(out) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    saved = kept(out)
    assert 4 <= saved < 4 * FILES * ROWS // 4096  # two rewards and two truths in slices of 4,096
    assert not (out / "compare.json").exists()
    done = subprocess.run(
        command(run_dir, out, "--workers", "2", "--json"), check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["reused_scores"] == saved * 4096
    assert result(out) == result(tmp_path / "whole")


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_the_page_runs_its_own_script_only(run_dir, tmp_path):
    out = tmp_path / "out"
    subprocess.run(
        [*command(run_dir, out)[:-6], "--reward", "ned", "--reward", "format", "--resamples", "50"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (out / "compare.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "<title>Which reward to trust · GlyphRL</title>" in done.stdout
    # The script ran: it gave every curve the dot that follows the pointer.
    lines = len(re.findall(r'<g class="line ', done.stdout))
    assert lines > 5
    assert len(re.findall(r'<circle r="4" visibility="hidden">', done.stdout)) == lines
    assert "CONSOLE" not in done.stderr, done.stderr  # no error, and nothing that the policy had to refuse
