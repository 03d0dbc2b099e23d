"""Speed of the weighted edit distance, in one run against RapidFuzz and against the plain Python table.

    python benchmarks/rewards.py [--json FILE]

One thread, ten seconds. RapidFuzz computes the unit-cost distance, pair by pair, as a reward function would
call it; ours computes the weighted one and reads the texts in a batch. Times are the best of several
repetitions, since other work on the machine only ever adds; compare ratios, not times, between machines.
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
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

from rapidfuzz.distance import Levenshtein

from glyphrl.rewards.edit_distance import weighted_cer_batch

ALPHABET = "0123456789¥$abcdefghijklmnopqrstuvwxyz 车服务公司等"
IMPORTANT = set("0123456789$€£¥￥₹₩¢")
START = "from glyphrl.rewards.edit_distance import weighted_cer; weighted_cer('476.0', '475.0')"


@dataclass
class Result:
    """One measurement."""

    what: str
    value: float
    unit: str
    target: float | None = None
    """Upper limit; lower limit where `at_least`."""
    at_least: bool = False

    @property
    def ok(self) -> bool:
        """Whether the target is met."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target


def race(repeat: int, *works: Callable[[], object]) -> list[float]:
    """Least seconds of `repeat` calls of each work, taking turns: other work then slows all of them."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeat):
        for work, taken in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return [min(taken) for taken in times]


def text(rnd: random.Random, length: int) -> str:
    """Random characters, every fifth of them a digit or a sign."""
    return "".join(rnd.choices(ALPHABET, k=length))


def noisy(rnd: random.Random, original: str, share: float) -> str:
    """`original` with so many of its characters replaced, inserted or deleted (in equal parts)."""
    chars = list(original)
    for _ in range(round(len(original) * share)):
        place, kind = rnd.randrange(len(chars)), rnd.randrange(3)
        chars[place : place + (kind != 0)] = [] if kind == 1 else [rnd.choice(ALPHABET)]
    return "".join(chars)


def plain_table(a: str, b: str) -> float:
    """The weighted distance in plain Python, row by row."""
    weight_b = [2.0 if char in IMPORTANT else 1.0 for char in b]
    row = [0.0]
    for weight in weight_b:
        row.append(row[-1] + weight)
    for x in a:
        weight = 2.0 if x in IMPORTANT else 1.0
        corner, row[0] = row[0], row[0] + weight
        for j, y in enumerate(b):
            above = row[j + 1]
            change = corner if x == y else corner + max(weight, weight_b[j])
            row[j + 1] = min(change, above + weight, row[j] + weight_b[j])
            corner = above
    return row[-1]


def pair_by_pair(distance: Callable[[str, str], float], a: list[str], b: list[str]) -> None:
    """Calls `distance` for each pair."""
    for x, y in zip(a, b, strict=True):
        distance(x, y)


def short_pairs(rnd: random.Random) -> list[Result]:
    """Twenty characters, a batch of 10,000; and text lines of eighty."""
    results = []
    for length, count, share, label in (
        (20, 10_000, 0.1, "10 % noise"),
        (20, 10_000, 0.3, "30 % noise"),
        (20, 10_000, None, "unrelated"),
        (80, 2_500, 0.1, "10 % noise"),
        (80, 2_500, None, "unrelated"),
    ):
        a = [text(rnd, length) for _ in range(count)]
        b = [noisy(rnd, x, share) if share else text(rnd, length) for x in a]
        few = 2_000 // length
        ours, theirs, table = race(
            30,
            partial(weighted_cer_batch, a, b),
            partial(pair_by_pair, Levenshtein.distance, a, b),
            partial(pair_by_pair, plain_table, a[:few], b[:few]),
        )
        ours, theirs, table = ours / count, theirs / count, table / few
        name = f"{length} characters, {label}"
        results += [
            Result(f"{name}: ours", ours * 1e9, "ns/pair"),
            Result(f"{name}: RapidFuzz, unit costs", theirs * 1e9, "ns/pair"),
            Result(f"{name}: ours / RapidFuzz", ours / theirs, "x", 3.0 if length == 20 else None),
            Result(f"{name}: plain table / ours", table / ours, "x", 100.0, at_least=True),
        ]
    return results


def pages(rnd: random.Random) -> list[Result]:
    """Pages of 2,000 characters, and a runaway."""
    page = text(rnd, 2000)
    results = []
    for share, target in ((0.05, 1.0), (0.3, 5.0), (None, None)):
        other = noisy(rnd, page, share) if share else text(rnd, 2000)
        ours, theirs = race(
            30, partial(weighted_cer_batch, [page], [other]), partial(Levenshtein.distance, page, other)
        )
        label = f"{share:.0%} noise" if share else "unrelated"
        results.append(Result(f"2,000 characters, {label}: ours", ours * 1e3, "ms", target))
        results.append(Result(f"2,000 characters, {label}: RapidFuzz, unit costs", theirs * 1e3, "ms"))
    runaway = text(rnd, 8000)
    # As the reward asks for it: a rate of 1 scores 0, and so does all beyond, so the kernel may stop there.
    (limited,) = race(30, partial(weighted_cer_batch, [page], [runaway], max_rate=1.0))
    (exact,) = race(5, partial(weighted_cer_batch, [page], [runaway]))
    results.append(Result("2,000 x 8,000 runaway, as the reward calls it", limited * 1e3, "ms", 0.1))
    results.append(Result("2,000 x 8,000 runaway, the exact rate above 1", exact * 1e3, "ms"))
    return results


def memory(rnd: random.Random) -> list[Result]:
    """Peak of a pair, for pages of double the length: linear is 2, a table 4."""
    peaks = []
    for length in (20_000, 40_000):
        a = text(rnd, length)
        b = noisy(rnd, a, 0.1)
        weighted_cer_batch([a[:300]], [b[:300]])
        tracemalloc.start()
        weighted_cer_batch([a], [b])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return [
        Result("memory, 40,000 characters", peaks[1] / 40_000, "bytes/character"),
        Result("memory, 40,000 / 20,000 characters", peaks[1] / peaks[0], "x", 2.2),
    ]


def start_up() -> list[Result]:
    """A new process: the first time on a machine, and later; without what Python and numpy need to start.

    Processor time, which on an idle machine is the waiting time: compiling uses one core.
    """

    def run(code: str, cache: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "NUMBA_CACHE_DIR": cache})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    with tempfile.TemporaryDirectory() as folder:
        bare = min(run("import numpy, glyphrl.rewards", folder) for _ in range(3))
        cold = min(run(START, os.path.join(folder, str(number))) for number in range(3)) - bare
        warm = min(run(START, os.path.join(folder, "0")) for _ in range(3)) - bare
    return [
        Result("start-up, compiling", cold, "s", 2.0),
        Result("start-up, from the cache", warm, "s"),
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE")
    args = parser.parse_args()
    rnd = random.Random(0)
    weighted_cer_batch(["a"], ["b"])
    load = os.getloadavg()[0]
    results = [*short_pairs(rnd), *pages(rnd), *memory(rnd), *start_up()]
    width = max(len(result.what) for result in results)
    for result in results:
        limit = ""
        if result.target is not None:
            limit = f"{'at least' if result.at_least else 'at most'} {result.target:g}"
        verdict = "" if result.target is None else "ok" if result.ok else "MISSED"
        print(f"{result.what:{width}}  {result.value:10.3f} {result.unit:15}  {limit:14}  {verdict}".rstrip())
    print(f"{os.cpu_count()} cores, load {load:.1f} when it began, Python {platform.python_version()}")
    if args.json:
        rows = [{**asdict(result), "ok": result.ok} for result in results]
        document = {"load": load, "cores": os.cpu_count(), "machine": platform.machine(), "results": rows}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    main()
