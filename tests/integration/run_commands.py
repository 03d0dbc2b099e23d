"""Helpers of the tests that run the command line as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from glyphrl.cli import main
from glyphrl.data.digits import StripSet, write_strips

REPOSITORY = Path(__file__).resolve().parents[2]
QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"
# Ranks share nothing with the tests' own settings, and hubs stay out of reach.
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}

VARIETY = '''
from glyphrl.rewards import register_reward


@register_reward("variety")
def variety(completions: list[str], **columns) -> list[float]:
    """Different characters. A model that has learnt nothing yet earns it too, so that every step changes weights."""
    return [len(set(completion)) / 16 for completion in completions]
'''


def glyphrl(
    *arguments: object, compiled: bool = True, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end.

    Args:
        arguments: What follows `glyphrl`.
        compiled: Let vLLM compile a part of its sampler, as it does for a user. This costs ten seconds an engine, so
            that tests of other things go without.
        timeout: Seconds.
    """
    command = [sys.executable, "-m", "glyphrl", *map(str, arguments)]
    environment = ENVIRONMENT if compiled else {**ENVIRONMENT, "TORCHDYNAMO_DISABLE": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """Starts a command in a process group of its own, so that it can be killed with its children."""
    command = [sys.executable, "-m", "glyphrl", *map(str, arguments)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, env=ENVIRONMENT, start_new_session=True)


def run_here(*arguments: object) -> None:
    """Runs a command that starts no stages in this process: a new one would spend ten seconds on its imports."""
    assert main([str(argument) for argument in arguments]) == 0


def expect(done: subprocess.CompletedProcess[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    """The finished command, if it ended with this exit code; else its output is shown."""
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done


def draw_strips(folder: Path) -> list[str]:
    """Strips of handwritten amounts, and the overrides that name them."""
    for strips in (
        StripSet("sft", "rendered", "train", 48, 1),
        StripSet("grpo", "real", "train", 48, 2),
        StripSet("held_out", "real", "held_out", 24, 3),
    ):
        write_strips(folder, strips)
    return [f"data.sft={folder}/sft", f"data.grpo={folder}/grpo", f"data.eval={folder}/held_out"]


def short_stages(sft_steps: int, grpo_steps: int, groups: int) -> list[str]:
    """A handful of steps."""
    return [
        f"sft.max_steps={sft_steps}",
        "sft.logging_steps=1",
        "sft.warmup_steps=0",
        "sft.per_device_train_batch_size=8",
        f"grpo.max_steps={grpo_steps}",
        "grpo.warmup_steps=0",
        f"grpo.per_device_train_batch_size={8 * groups}",
        "eval.bootstrap_samples=200",
    ]


def metric_lines(run: Path, stage: str) -> list[dict]:
    """Lines of metrics.jsonl of one stage; none while the file is not there."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["stage"] == stage]
