"""Scoring every completion of a log with every reward: streamed, in several processes, resumable."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from glyphrl.errors import UserError
from glyphrl.evaluation.compare.candidates import Candidate, Setting, recipe
from glyphrl.evaluation.compare.facts import Facts
from glyphrl.evaluation.compare.log_files import FILE, ROW, Log, connect, quoted
from glyphrl.evaluation.compare.scorer import DECIMALS, Score, Scored, build_scorer
from glyphrl.evaluation.compare.store import Kept, ScoreStore, SliceKey
from glyphrl.rewards.errors import RewardError
from glyphrl.rewards.pool import WorkerPool

SLICE = 4096
"""About how many rows are scored together. A slice holds whole groups, for functions that look at their batch."""
FACTORY = "glyphrl.evaluation.compare.scorer:build_scorer"
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Slice:
    """Rows start to stop - 1 of the facts, all of one file."""

    start: int
    stop: int
    file: int
    first: int
    """Position of `start` among the file's rows."""


@dataclass(frozen=True)
class ScoreTable:
    """Scores of N completions.

    Attributes:
        values: Label -> (N,) float64, NaN where the reward does not apply.
        milliseconds: Label -> per completion, the median over the slices; None where the log holds the values.
        reused: Scores that were known before.
    """

    values: dict[str, np.ndarray]
    milliseconds: dict[str, float | None]
    reused: int


def cut_slices(facts: Facts, size: int | None = None) -> list[Slice]:
    """Cuts each file where a new group begins, about every `size` rows (`SLICE`)."""
    size = SLICE if size is None else size
    cuts = np.flatnonzero(np.diff(facts.file)) + 1
    borders = [0, *cuts.tolist(), len(facts)]
    slices = []
    for begin, end in pairwise(borders):
        news = begin + 1 + np.flatnonzero(np.diff(facts.group[begin:end]))
        start = begin
        while start < end:
            stop = end
            if end - start > size:
                at = int(np.searchsorted(news, start + size))
                stop = int(news[at]) if at < len(news) else end
            slices.append(Slice(start, stop, int(facts.file[start]), start - begin))
            start = stop
    return slices


def score_log(
    log: Log,
    facts: Facts,
    candidates: Sequence[Candidate],
    setting: Setting,
    store: ScoreStore,
    *,
    workers: int | None = None,
    progress: Progress = lambda rows: None,
) -> ScoreTable:
    """Scores every completion with every reward that is not in the store.

    Args:
        log: The files.
        facts: What was read from them.
        candidates: The rewards; those that the log holds are taken from the facts.
        setting: What the functions are built with.
        store: Where scores are looked up and kept.
        workers: Processes. None: one per core; 0: this process scores.
        progress: Called with the number of completions that are done.

    Raises:
        RewardError: A function failed, naming the row.
    """
    values = {c.label: np.full(len(facts), np.nan) for c in candidates}
    speeds: dict[str, list[float]] = defaultdict(list)
    for candidate in candidates:
        if candidate.column is not None:
            values[candidate.label] = np.round(facts.logged[candidate.column], DECIMALS)
    # A reward that is a truth too is scored once.
    first = {c.key: c.label for c in reversed(candidates) if c.spec is not None}
    reused = 0
    wanted: list[tuple[Slice, list[int]]] = []
    for part in cut_slices(facts):
        missing = []
        for position, candidate in enumerate(candidates):
            if first.get(candidate.key) != candidate.label:
                continue
            kept = store.get(_key(log, part, candidate))
            if kept is None:
                missing.append(position)
                continue
            values[candidate.label][part.start : part.stop] = kept.values
            speeds[candidate.label].append(kept.seconds / (part.stop - part.start))
            reused += part.stop - part.start
        if missing:
            wanted.append((part, missing))
        else:
            progress(part.stop - part.start)
    for part, positions, scored in _score_slices(log, facts, candidates, setting, wanted, workers):
        for position, result in zip(positions, scored, strict=True):
            candidate = candidates[position]
            values[candidate.label][part.start : part.stop] = result.values
            speeds[candidate.label].append(result.seconds / (part.stop - part.start))
            store.put(_key(log, part, candidate), Kept(result.values, result.seconds))
        progress(part.stop - part.start)
    store.commit()
    for candidate in candidates:
        if candidate.spec is not None:
            values[candidate.label] = values[first[candidate.key]]
            speeds[candidate.label] = speeds[first[candidate.key]]
    times = {c.label: 1e3 * float(np.median(s)) if (s := speeds.get(c.label)) else None for c in candidates}
    return ScoreTable(values, times, reused)


def _key(log: Log, part: Slice, candidate: Candidate) -> SliceKey:
    return SliceKey(log.files[part.file].digest, part.first, part.stop - part.start, candidate.key)


def _score_slices(
    log: Log,
    facts: Facts,
    candidates: Sequence[Candidate],
    setting: Setting,
    wanted: Sequence[tuple[Slice, list[int]]],
    workers: int | None,
) -> Iterator[tuple[Slice, list[int], list[Scored]]]:
    """Streams the slices through the scorers; as many wait as keeps these busy, so memory stays flat."""
    if not wanted:
        return
    count = min(len(os.sched_getaffinity(0)) if workers is None else workers, len(wanted))
    if not all(candidate.elsewhere for candidate in candidates):
        count = 0  # registered in this program: no other process can load it
    pool = WorkerPool(FACTORY, recipe(candidates, setting), count) if count else None
    call = _remote(pool) if pool is not None else _local(build_scorer(**recipe(candidates, setting)))
    pending: deque[tuple[Slice, list[int], Future[list[Scored]]]] = deque()
    try:
        with ThreadPoolExecutor(max(1, count), "compare") as threads:
            try:
                for part, positions, content in _contents(log, facts, candidates, wanted):
                    pending.append((part, positions, threads.submit(call, content, positions)))
                    if len(pending) > 2 * max(1, count):
                        first, asked, future = pending.popleft()
                        yield first, asked, future.result()
                while pending:
                    first, asked, future = pending.popleft()
                    yield first, asked, future.result()
            except (
                BaseException
            ):  # an error, Ctrl-C, or the caller has left: do not wait for what is under way
                for *_, future in pending:
                    future.cancel()
                if pool is not None:
                    pool.kill()
                raise
    finally:
        if pool is not None:
            pool.close()


def _local(score: Score) -> Callable[[bytes, list[int]], list[Scored]]:
    def call(content: bytes, positions: list[int]) -> list[Scored]:
        return _unwrapped(score(content, positions))

    return call


def _remote(pool: WorkerPool) -> Callable[[bytes, list[int]], list[Scored]]:
    def call(content: bytes, positions: list[int]) -> list[Scored]:
        outcome = pool.call((content, positions))
        if (
            outcome.kind != "ok"
        ):  # a failing reward comes back as a refusal: this is a bug, or a lack of memory
            raise RuntimeError(f"a scoring process failed: {outcome.message}")
        return _unwrapped(outcome.value)

    return call


def _unwrapped(result: tuple[str, Any]) -> list[Scored]:
    kind, value = result
    if kind == "refused":
        raise RewardError(value)
    return value


def _contents(
    log: Log, facts: Facts, candidates: Sequence[Candidate], wanted: Sequence[tuple[Slice, list[int]]]
) -> Iterator[tuple[Slice, list[int], bytes]]:
    """The rows of each slice as an Arrow stream, with the columns that some reward takes."""
    import pyarrow as pa

    by_file: dict[int, list[tuple[Slice, list[int]]]] = defaultdict(list)
    for part, positions in wanted:
        by_file[part.file].append((part, positions))
    rows_of = np.bincount(facts.file, minlength=len(log.files))
    number = {file.digest: index for index, file in enumerate(log.files)}
    select = ", ".join([FILE, ROW, *map(quoted, _columns(log, candidates))])
    for batch in log.batches([log.files[index] for index in sorted(by_file)]):
        chosen = [number[file.digest] for file in batch]
        with connect() as connection:  # one for each query: what is not read to its end holds a connection
            reader = log.read(connection, batch, select, SLICE)
            held, dropped = (
                reader.schema.empty_table(),
                0,
            )  # rows that are here, and how many were before them
            before = 0  # rows of the query that belong to the files before this one
            for index in chosen:
                for part, positions in by_file[index]:
                    first, count = before + part.first, part.stop - part.start
                    while dropped + held.num_rows < first + count:
                        held = pa.concat_tables([held, _next(reader)])
                        gone = min(max(0, first - dropped), held.num_rows)
                        held, dropped = held.slice(gone), dropped + gone
                    piece = held.slice(first - dropped, count)
                    if not np.array_equal(piece.column(ROW).to_numpy(), facts.row[part.start : part.stop]):
                        raise UserError(_CHANGED)
                    yield part, positions, _as_stream(piece)
                before += int(rows_of[index])


_CHANGED = "the log changed while it was read; compare again (scores that were computed are kept in --out)"


def _next(reader: Any) -> Any:
    """The next rows of a query as a table."""
    import pyarrow as pa

    try:
        return pa.Table.from_batches([reader.read_next_batch()])
    except StopIteration:
        raise UserError(_CHANGED) from None


def _columns(log: Log, candidates: Sequence[Candidate]) -> list[str]:
    """What has to be read: reading images or prompts for a reward that does not ask for them takes long."""
    wanted = {"completion", "solution"}
    for candidate in candidates:
        if candidate.spec is None:
            continue
        if candidate.needs is None:
            return list(log.columns)
        aliases = {"prompts": "prompt", "id": "sample_id", "completion_ids": "num_tokens"}
        wanted |= candidate.needs | {aliases[name] for name in candidate.needs if name in aliases}
    return [name for name in log.columns if name in wanted]


def _as_stream(table: Any) -> bytes:
    """A table in Arrow's stream format: only the rows of the slice travel."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
