"""The viewer's index: what the logs hold, in one DuckDB file, kept up to date while runs go on.

A step of a run is one Parquet file per rank, so a long run has thousands of files, and opening them all costs seconds.
Each is therefore read once, when it appears; pages are answered from DuckDB. The file is temporary, and DuckDB
neither opens other files nor the network by it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from glyphrl.evaluation.viewer import log_rows
from glyphrl.evaluation.viewer.predictions import PREDICTION_TABLES, read_evaluation, store_evaluation
from glyphrl.evaluation.viewer.runs import Run

if TYPE_CHECKING:
    import duckdb

FILE = "index.duckdb"
BATCH_ROWS = 40_000
MEMORY = "1GB"

SAME = 1e-8  # a spread of this much is none, as for the trainer's `frac_reward_zero_std`

GROUPS = f"""
SELECT run, file, first(step) AS step, first(rank) AS rank, first(chunk) AS chunk, grp,
    first(sample_id) AS sample_id, first(solution) AS solution, first(images) AS images, count(*) AS size,
    avg(reward) AS reward, coalesce(stddev_samp(reward), 0) AS spread,
    coalesce(stddev_samp(reward), 0) <= {SAME} AS same,
    avg(similarity) AS similarity, max(similarity) AS best, count(fault) AS faults,
    list(reward ORDER BY reward) AS rewards
FROM incoming GROUP BY run, file, grp
"""
STEPS = """
SELECT run, step, count(*) AS completions, max(time) AS time, avg(reward) AS reward,
    stddev_samp(reward) AS spread, avg(similarity) AS similarity,
    avg((similarity = 1)::INTEGER) AS exact, avg(tokens) AS tokens, min(tokens) AS shortest,
    max(tokens) AS longest, avg((fault IS NULL)::INTEGER) AS format_ok,
    avg((finish = 'length')::INTEGER) AS cut, avg(logprob) AS logprob {parts}
FROM rows WHERE run = $run AND step IN (SELECT unnest($steps)) GROUP BY run, step
"""
EMPTY_GROUPS = """
CREATE TABLE groups (
    run INTEGER, file INTEGER, step BIGINT, rank INTEGER, chunk INTEGER, grp INTEGER, sample_id VARCHAR,
    solution VARCHAR, images VARCHAR, size BIGINT, reward DOUBLE, spread DOUBLE, same BOOLEAN,
    similarity DOUBLE, best DOUBLE, faults BIGINT, rewards DOUBLE[])
"""
EMPTY_STEPS = """
CREATE TABLE steps (
    run INTEGER, step BIGINT, completions BIGINT, time DOUBLE, reward DOUBLE, spread DOUBLE,
    similarity DOUBLE, exact DOUBLE, tokens DOUBLE, shortest INTEGER, longest INTEGER, format_ok DOUBLE,
    cut DOUBLE, logprob DOUBLE, groups BIGINT, same DOUBLE)
"""


@dataclass
class RunState:
    """What the index holds of one run.

    Attributes:
        files: Name -> (number, size, time of change) of every file that was read.
        broken: Name of a file -> why it cannot be read.
        found: Files that the last look at the folder found.
        parts: Names of the reward's parts, in the order of their first appearance.
        evaluations: Name -> (size, time of change) of the predictions that were read.
        metrics: (size, time of change) of the trainer's log.
        newest: Time of the last change of either log, in seconds.
        version: Grows with every change.
    """

    files: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    found: int = 0
    parts: list[str] = field(default_factory=list)
    evaluations: dict[str, tuple[int, int]] = field(default_factory=dict)
    metrics: tuple[int, int] = (0, 0)
    newest: float = 0.0
    version: int = 0


class Index:
    """The tables `rows`, `groups`, `steps`, `predictions` and `confusions` of all runs."""

    def __init__(self, runs: Sequence[Run], folder: Path) -> None:
        """An empty index in `folder`; `refresh` fills it."""
        import duckdb

        self.runs = list(runs)
        self.states = {run.number: RunState() for run in runs}
        self.part_columns: dict[str, str] = {}
        self.failure = ""
        self._next_file = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._connection: duckdb.DuckDBPyConnection = duckdb.connect(
            str(folder / FILE),
            config={
                "memory_limit": MEMORY,
                "enable_external_access": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        for statement in (log_rows.ROWS, EMPTY_GROUPS, EMPTY_STEPS, *PREDICTION_TABLES):
            self._connection.execute(statement)

    def fetch(self, query: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a query as dictionaries. Values reach it as parameters only."""
        with self._connection.cursor() as cursor:
            result = cursor.execute(query, values or {})
            names = [column[0] for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def follow(self, seconds: float = 2.0) -> threading.Thread:
        """Starts a thread that refreshes until `close`."""

        def work() -> None:
            while not self._stop.is_set():
                try:
                    self.refresh()
                except Exception as error:  # a full disk, say: pages go on with what there is, and say so
                    self.failure = " ".join(str(error).split()) or type(error).__name__
                    raise
                self._stop.wait(seconds)

        thread = threading.Thread(target=work, name="viewer-index", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Ends the thread and lets go of the file."""
        self._stop.set()
        with self._lock:
            self._connection.close()

    def refresh(self) -> bool:
        """Takes in what has been written, and drops what has gone, since the last call.

        Returns:
            Whether anything has changed.
        """
        with self._lock:
            for (
                run
            ) in self.runs:  # pages say what is still to come, also of the runs that wait for the first one
                self.states[run.number].found = len(run.log_files())
            changed = [self._refresh_run(run) for run in self.runs if not self._stop.is_set()]
        return any(changed)

    # -- completions ----------------------------------------------------------------------------------------------

    def _refresh_run(self, run: Run) -> bool:
        state, before = self.states[run.number], self.states[run.number].version
        there: dict[str, tuple[int, int]] = {}
        for path in run.log_files():
            try:
                stat = path.stat()
            except OSError:  # a resumed run has just taken it back
                continue
            there[path.name] = (stat.st_size, stat.st_mtime_ns)
        state.found = len(there)
        self._forget(run, [name for name, known in state.files.items() if there.get(name) != known[1:]])
        batch: list[pa.Table] = []
        rows = 0
        for name in sorted(there.keys() - state.files.keys()):
            if self._stop.is_set():
                return False
            number, self._next_file = self._next_file, self._next_file + 1
            state.files[name] = (number, *there[name])
            state.newest = max(state.newest, there[name][1] / 1e9)
            try:
                table, parts = log_rows.read_file(run.completions / name, run.settings)
            except log_rows.BadFileError as error:
                state.broken[name] = str(error)
                state.version += 1
                continue
            batch.append(self._numbered(table, run, number, parts))
            rows += table.num_rows
            if rows >= BATCH_ROWS:
                self._store(run, batch)
                batch, rows = [], 0
        if batch:
            self._store(run, batch)
        self._look_at_metrics(run)
        self._refresh_evaluations(run)
        return state.version != before

    def _look_at_metrics(self, run: Run) -> None:
        """Notes a change of the trainer's log, which pages read themselves: it is small."""
        state = self.states[run.number]
        try:
            stat = os.stat(run.metrics)
        except OSError:  # not there yet
            return
        mark = (stat.st_size, stat.st_mtime_ns)
        if state.metrics != mark:
            state.metrics = mark
            state.newest = max(state.newest, stat.st_mtime)
            state.version += 1

    def _numbered(self, table: pa.Table, run: Run, number: int, parts: list[str]) -> pa.Table:
        """The table with run, file and the index's names of the reward's parts; new parts become columns."""
        state = self.states[run.number]
        for name in parts:
            if name not in self.part_columns:
                column = f"p{len(self.part_columns)}"  # names out of a file never stand in a statement
                for owner in ("rows", "steps"):
                    self._connection.execute(f"ALTER TABLE {owner} ADD COLUMN {column} DOUBLE")
                self.part_columns[name] = column
            if name not in state.parts:
                state.parts = [*state.parts, name]
        count = table.num_rows
        table = table.append_column("run", pa.array([run.number] * count, pa.int32()))
        table = table.append_column("file", pa.array([number] * count, pa.int32()))
        names = [
            self.part_columns[name.removeprefix(log_rows.PART)] if name.startswith(log_rows.PART) else name
            for name in table.column_names
        ]
        return table.rename_columns(names)

    def _store(self, run: Run, batch: list[pa.Table]) -> None:
        """Adds the rows of some files, and renews the steps that they belong to, in one transaction."""
        incoming = pa.concat_tables(batch, promote_options="default")
        steps = incoming["step"].unique().to_pylist()
        with self._connection.cursor() as cursor:
            cursor.register("incoming", incoming)
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO rows BY NAME SELECT * EXCLUDE (images) FROM incoming")
            cursor.execute(f"INSERT INTO groups BY NAME {GROUPS}")
            self._renew_steps(cursor, run, steps)
            cursor.execute("COMMIT")
            cursor.unregister("incoming")
        self.states[run.number].version += 1

    def _forget(self, run: Run, names: list[str]) -> None:
        """Drops files that a resumed run has taken back or written again."""
        if not names:
            return
        state = self.states[run.number]
        numbers = [state.files.pop(name)[0] for name in names]
        for name in names:
            state.broken.pop(name, None)
        values = {"run": run.number, "files": numbers}
        where = "WHERE run = $run AND file IN (SELECT unnest($files))"
        with self._connection.cursor() as cursor:
            cursor.execute("BEGIN")
            found = cursor.execute(f"SELECT DISTINCT step FROM groups {where}", values).fetchall()
            for table in ("rows", "groups"):
                cursor.execute(f"DELETE FROM {table} {where}", values)
            self._renew_steps(cursor, run, [row[0] for row in found])
            cursor.execute("COMMIT")
        state.version += 1

    def _renew_steps(self, cursor: duckdb.DuckDBPyConnection, run: Run, steps: list[int]) -> None:
        values = {"run": run.number, "steps": steps}
        parts = "".join(f", avg({column}) AS {column}" for column in self.part_columns.values())
        picked = "run = $run AND step IN (SELECT unnest($steps))"
        cursor.execute(f"DELETE FROM steps WHERE {picked}", values)
        cursor.execute(
            f"INSERT INTO steps BY NAME SELECT * FROM ({STEPS.format(parts=parts)}) JOIN "
            "(SELECT step, count(*) AS groups, avg(same::INTEGER) AS same FROM groups "
            f"WHERE {picked} GROUP BY step) USING (step)",
            values,
        )

    # -- evaluations ----------------------------------------------------------------------------------------------

    def _refresh_evaluations(self, run: Run) -> None:
        """Reads evaluations that are new or were written again."""
        state = self.states[run.number]
        there = run.evaluations()
        for name in [name for name in state.evaluations if name not in there]:
            del state.evaluations[name]
            state.broken.pop(f"eval/{name}", None)
            state.version += 1
        for name, folder in there.items():
            try:
                stat = os.stat(folder / "predictions.parquet")
            except OSError:  # it goes away while we look
                continue
            mark = (stat.st_size, stat.st_mtime_ns)
            if state.evaluations.get(name) == mark:
                continue
            state.broken.pop(f"eval/{name}", None)
            try:
                content = read_evaluation(folder, run.settings)
            except log_rows.BadFileError as error:
                state.broken[f"eval/{name}"] = str(error)
                content = None
            with self._connection.cursor() as cursor:
                store_evaluation(cursor, run.number, name, content)
            state.evaluations[name] = mark
            state.version += 1
