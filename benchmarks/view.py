"""Speed of `glyphrl view` on a long run: a log of a million completions in the real schema, asked over HTTP.

    python benchmarks/view.py [--rows N] [--keep DIR] [--json FILE]

Writes the log with the trainer's own writer (256 completions a step: 32 groups of 8, text lines of 8 to 60
characters), starts the command, waits until it has read everything, and then asks each page many times, each time
for another step, group, sample or filter. A page is whole with its last byte; the browser's own work is not counted.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from glyphrl.rewards import build_reward
from glyphrl.trainers.advantages import group_advantages
from glyphrl.trainers.completions_log import CompletionsLog, LogKey

GROUPS, SIZE, SAMPLES = 32, 8, 20_000
TARGET = 0.3
REPEATS = 20
LETTERS = "etaoinshrdlucmfwypvbgkqjxz     ETAOINS0123456789.,-€"


@dataclass
class Result:
    """One page: seconds of the middle and of the slowest call."""

    page: str
    middle: float
    slowest: float
    kilobytes: float


def sample_text(number: int) -> str:
    """The reference of a sample: the same in every epoch."""
    rnd = random.Random(number)
    return "".join(rnd.choices(LETTERS, k=rnd.randint(8, 60))).strip() or "a"


def noisy(rnd: random.Random, text: str, rate: float) -> str:
    """`text` with a share of its characters replaced, left out or doubled."""
    chars = []
    for char in text:
        draw = rnd.random()
        if draw > rate:
            chars.append(char)
        elif draw > 0.4 * rate:
            chars.append(rnd.choice(LETTERS))
        elif draw > 0.2 * rate:
            chars.append(char * 2)
    return "".join(chars)


def write_log(run: Path, rows: int) -> None:
    """Writes a run whose errors become fewer, with faults and cut-off completions now and then."""
    rnd = random.Random(0)
    log, reward = CompletionsLog(run), build_reward("ned")
    steps = -(-rows // (GROUPS * SIZE))
    for step in range(steps):
        rate = 0.45 - 0.35 * step / steps
        made: list[dict[str, Any]] = []
        for number in range(GROUPS):
            sample = rnd.randrange(SAMPLES)
            reference = sample_text(sample)
            for index in range(SIZE):
                answer, draw = noisy(rnd, reference, rate * rnd.uniform(0.5, 1.5)), rnd.random()
                fault = "missing" if draw < 0.02 else "unclosed" if draw < 0.03 else None
                text = answer if fault == "missing" else f"<answer>{answer}"
                text += "" if fault else "</answer>"
                made.append(
                    {
                        "run": run.name, "stage": "grpo", "step": step, "epoch": step * GROUPS / SAMPLES, "rank": 0,
                        "group_id": f"{step}-0-{number}", "sample_id": f"lines/{sample:06d}.png",
                        "completion_index": index, "prompt": "<|im_start|>user\nRead the line.<|im_end|>\n",
                        "images": [{"path": f"lines/{sample:06d}.png", "sha256": f"{sample:064x}"}],
                        "solution": reference, "completion": text, "answer": answer, "format_fault": fault,
                        "finish_reason": "length" if fault == "unclosed" else "stop", "num_tokens": len(text) // 2,
                        "mean_logprob": -rate, "reward_spec_hash": "benchmark", "time": 1.7e9 + step,
                    }
                )  # fmt: skip
        scores = reward([row["answer"] for row in made], solution=[row["solution"] for row in made])
        formats = [float(row["format_fault"] is None) for row in made]
        totals = np.array([s + 0.2 * f for s, f in zip(scores, formats, strict=True)])
        advantages = group_advantages(totals, SIZE, "group").values
        for row, total, advantage in zip(made, totals, advantages, strict=True):
            row["reward"], row["advantage"] = float(total), float(advantage)
        log.write(LogKey(step, 0), made, {"ned": scores, "format": formats})
        if step % 250 == 249:
            print(f"wrote {step + 1:,} of {steps:,} steps", file=sys.stderr)


@contextmanager
def served(run: Path) -> Iterator[tuple[int, int]]:
    """The command's port and process number."""
    command = [sys.executable, "-m", "glyphrl", "view", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        match = re.search(r":(\d+)/", server.stdout.readline())
        assert match, "the command did not say its address"
        try:
            yield int(match[1]), server.pid
        finally:
            server.terminate()


class Client:
    """Asks one server, over one connection as a browser does."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def get(self, path: str) -> bytes:
        """The body of a page.

        Raises:
            RuntimeError: It is another answer than a page.
        """
        self.connection.request("GET", path, headers={"accept-encoding": "gzip"})
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: status {response.status}")
        return body


def wait_until_read(client: Client) -> tuple[float, dict[str, Any]]:
    """Seconds until the whole log is read, and the run's state then."""
    started = time.perf_counter()
    while True:
        state = json.loads(client.get("/api/state"))["runs"][0]
        if state["found"] and state["read"] == state["found"]:
            last = json.loads(client.get("/api/state"))["runs"][0]
            if last["completions"] == state["completions"] and last["steps"] == last["found"]:
                return time.perf_counter() - started, last
        time.sleep(0.2)


def some_samples(run: Path) -> list[str]:
    """Ids of samples that the log holds."""
    files = sorted((run / "completions").glob("*.parquet"))
    tables = [pq.read_table(file, columns=["sample_id"]) for file in files[:: max(1, len(files) // 50)]]
    return sorted({name for table in tables for name in table["sample_id"].to_pylist()})


def pages(steps: int, samples: list[str]) -> dict[str, Callable[[random.Random], str]]:
    """Name -> what makes an address of such a page."""

    def somewhere(rnd: random.Random) -> int:
        return rnd.randrange(steps)

    found = "/run/0/completions?"
    return {
        "curves": lambda rnd: "/",
        "a step": lambda rnd: f"/run/0/step/{somewhere(rnd)}",
        "a group": lambda rnd: f"/run/0/step/{somewhere(rnd)}/group/0-0-{rnd.randrange(GROUPS)}",
        "completions, newest": lambda rnd: f"{found}page={rnd.randint(1, 50)}",
        "completions, lowest reward": lambda rnd: f"{found}sort=reward&page={rnd.randint(1, 50)}",
        "completions, reward below": lambda rnd: f"{found}reward_below={rnd.uniform(0.3, 1):.2f}",
        "completions, fault, sorted": lambda rnd: (
            f"{found}fault=unclosed&sort=-tokens&page={rnd.randint(1, 9)}"
        ),
        "completions, text that is there": lambda rnd: (
            f"{found}text={''.join(rnd.choices(LETTERS[:20], k=2))}e"
        ),
        "completions, text that is not": lambda rnd: f"{found}text=nowhere{rnd.random()}&sort=reward",
        "completions of a sample": lambda rnd: f"{found}sample={rnd.choice(samples)}",
        "samples": lambda rnd: f"/run/0/samples?page={rnd.randint(1, 100)}",
        "samples, search": lambda rnd: f"/run/0/samples?text={rnd.randrange(999):03d}",
        "a sample": lambda rnd: f"/run/0/sample?id={rnd.choice(samples)}",
        "curves, exported": lambda rnd: "/?export=1",
    }


def measure(client: Client, steps: int, samples: list[str]) -> list[Result]:
    """Asks every page so many times, in turns; the first round warms up."""
    rnd = random.Random(1)
    kinds = pages(steps, samples)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    sizes: dict[str, int] = {}
    for turn in range(REPEATS + 1):
        for name, address in kinds.items():
            path = address(rnd)
            started = time.perf_counter()
            sizes[name] = len(client.get(path))
            if turn:
                times[name].append(time.perf_counter() - started)
    return [Result(n, statistics.median(t), max(t), sizes[n] / 1024) for n, t in times.items()]


def peak_memory(process: int) -> float:
    """Greatest resident size so far, in MiB; NaN where the system does not tell."""
    path = Path(f"/proc/{process}/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", path.read_text()) if path.exists() else None
    return int(match[1]) / 1024 if match else float("nan")


def main() -> int:
    """Measures and prints; 1 where a page misses the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="completions in the log (default: 1,000,000)"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="write the log there, or use the one that is there"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        run = (args.keep or Path(folder)) / "run"
        if not (run / "completions").is_dir():
            write_log(run, args.rows)
        with served(run) as (port, process):
            client = Client(port)
            seconds, state = wait_until_read(client)
            results = measure(client, state["steps"], some_samples(run))
            memory = peak_memory(process)
    for result in results:
        verdict = "ok" if result.middle <= TARGET else "MISSED"
        print(
            f"{result.page:34} {1000 * result.middle:8.0f} ms  slowest {1000 * result.slowest:6.0f} ms  "
            f"{result.kilobytes:6.0f} KiB  {verdict}"
        )
    read = f"{state['found']:,} files, read in {seconds:.1f} s"
    print(f"{state['completions']:,} completions in {read}; at most {memory:,.0f} MiB of memory")
    print(f"{os.cpu_count()} cores, load {load:.1f} when it began, Python {platform.python_version()}")
    if args.json:
        document = {"load": load, "cores": os.cpu_count(), "machine": platform.machine(), "read_seconds": seconds,
                    "memory_mib": memory, **state, "results": [asdict(result) for result in results]}  # fmt: skip
        Path(args.json).write_text(json.dumps(document, indent=2), encoding="utf-8")
    return int(any(result.middle > TARGET for result in results))


if __name__ == "__main__":
    sys.exit(main())
