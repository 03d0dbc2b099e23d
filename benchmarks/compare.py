"""Comparing rewards over a log of a million completions: seconds, processor time and memory.

    python benchmarks/compare.py [--rows 1000000] [--json FILE] [--keep DIR]

Writes a log in the real schema (one file per step, groups of 8, lines of text with amounts, readings that get
better over training), then runs `glyphrl rewards compare` on it in a process of its own, and again with the
scores of the first time. Memory is the peak of all processes together, sampled four times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from glyphrl.rewards.edit_distance import weighted_cer_batch
from glyphrl.rewards.format import Format
from glyphrl.rewards.ned import Ned
from glyphrl.trainers.advantages import group_advantages
from glyphrl.trainers.completions_log import CompletionsLog, LogKey

REWARDS = ("weighted_cer", "ned", "format:partial=true")
GROUP, GROUPS = 8, 32
WORDS = [
    "total",
    "amount",
    "invoice",
    "date",
    "服务",
    "公司",
    "车",
    "street",
    "number",
    "paid",
    "cash",
    "change",
]
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz .:-"


def line(rnd: random.Random) -> str:
    """A line of a receipt: a few words and an amount."""
    words = " ".join(rnd.choices(WORDS, k=rnd.randint(1, 5)))
    return f"{words}: ¥{rnd.randint(1, 9999)}.{rnd.randint(0, 99):02d}"


def reading(rnd: random.Random, text: str, noise: float) -> str:
    """`text` as a model reads it: characters misread, left out, made up; sometimes without the tags."""
    chars = list(text)
    for _ in range(int(rnd.expovariate(1 / (noise * len(text) + 1e-9)))):
        at, kind = rnd.randrange(len(chars)), rnd.randrange(3)
        chars[at : at + (kind != 0)] = [] if kind == 1 and len(chars) > 1 else [rnd.choice(LETTERS)]
    answer = "".join(chars)
    form = rnd.random()
    if form < 0.05:
        return answer
    think = "<think>a receipt, one line</think>\n" if form < 0.5 else ""
    return f"{think}<answer>{answer}</answer>{' done' if form > 0.97 else ''}"


def write_log(folder: Path, rows: int, seed: int = 0) -> None:
    """Writes a log of about `rows` completions, one file per step."""
    rnd = random.Random(seed)
    log = CompletionsLog(folder)
    steps = max(1, round(rows / (GROUP * GROUPS)))
    samples = [line(rnd) for _ in range(5000)]
    for step in range(steps):
        noise = 0.3 * (1 - 0.8 * step / steps)
        chosen = [rnd.randrange(len(samples)) for _ in range(GROUPS)]
        numbers = [number for number in chosen for _ in range(GROUP)]
        solutions = [samples[number] for number in numbers]
        completions = [reading(rnd, solution, noise) for solution in solutions]
        own = Ned()
        answers = [pair.answer for pair in own.pairs(completions, solutions)]
        wcer = 1.0 - weighted_cer_batch(solutions, answers, max_rate=1.0)
        form = Format()(completions)
        reward = wcer + 0.2 * np.array(form)
        advantages = group_advantages(reward, GROUP, "group").values
        written = [
            {
                "run": folder.name,
                "stage": "grpo",
                "step": step,
                "epoch": step / 100,
                "rank": 0,
                "group_id": f"{step}-0-{i // GROUP}",
                "sample_id": f"line-{numbers[i]}",
                "completion_index": i % GROUP,
                "prompt": "Read the text in the image. Answer in <answer></answer>.",
                "images": [{"path": f"images/{numbers[i]}.png", "sha256": f"{numbers[i]:064x}"}],
                "solution": solutions[i],
                "completion": completions[i],
                "answer": answers[i],
                "format_fault": None if form[i] else "outside",
                "finish_reason": "stop",
                "num_tokens": len(completions[i]) // 2,
                "mean_logprob": -rnd.random(),
                "reward": float(reward[i]),
                "advantage": float(advantages[i]),
                "reward_spec_hash": "0123456789abcdef",
                "time": 1.7e9 + step,
            }
            for i in range(len(completions))
        ]
        log.write(LogKey(step, 0), written, {"weighted_cer": wcer.tolist(), "format": form})


class PeakMemory(threading.Thread):
    """Samples the memory of a process and its children."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(process)
        self.peak = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Samples until the process has ended; pages that processes share count once (proportional size)."""
        while not self.ended.wait(0.25):
            total = 0
            try:
                for process in (self.process, *self.process.children(recursive=True)):
                    total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            self.peak = max(self.peak, total)


def measured(run: Path, out: Path) -> dict[str, float]:
    """Compares once."""
    command = [sys.executable, "-m", "glyphrl", "rewards", "compare", str(run), "--out", str(out)]
    for reward in REWARDS:
        command += ["--reward", reward]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with open(out.with_suffix(".txt"), "w", encoding="utf-8") as text:
        process = subprocess.Popen(command, stdout=text)
        memory = PeakMemory(process.pid)
        memory.start()
        code = process.wait()
        seconds = time.perf_counter() - began
        memory.ended.set()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": memory.peak / 2**20}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--rows", type=int, default=1_000_000, metavar="N", help="completions (default: a million)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep log and page here, and reuse the log")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        run = folder / f"run-{args.rows}"
        if not run.exists():
            write_log(run, args.rows)
        files = list((run / "completions").glob("*.parquet"))
        size = sum(file.stat().st_size for file in files)
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            results = {
                "first": measured(run, Path(fresh) / "compare"),
                "again": measured(run, Path(fresh) / "compare"),
            }
            if args.keep:
                for name in ("compare.html", "compare.json"):
                    (Path(fresh) / "compare" / name).replace(folder / name)
                (Path(fresh) / "compare.txt").replace(folder / "compare.txt")
    print(f"{len(files):,} files, {size / 2**20:.0f} MiB, {len(REWARDS)} rewards: {', '.join(REWARDS)}")
    print(f"{'':8}{'seconds':>10}{'CPU s':>10}{'peak MiB':>10}")
    for name, result in results.items():
        print(f"{name:8}{result['seconds']:10.1f}{result['cpu_seconds']:10.1f}{result['peak_mib']:10.0f}")
    first = results["first"]
    scale = args.rows / 1_000_000
    limits = {"seconds": 120 * scale, "peak_mib": 2048}
    for name, limit in limits.items():
        print(f"{name}: {first[name]:.1f}, at most {limit:g}: {'ok' if first[name] <= limit else 'MISSED'}")
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, load {load:.1f} when it began, Python {platform.python_version()}")
    if args.json:
        document = {"rows": args.rows, "cores": cores, "load": load, "limits": limits, "results": results}
        Path(args.json).write_text(json.dumps(document, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
