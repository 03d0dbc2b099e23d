"""The files of one or several completions logs, and reading them with SQL as one table.

DuckDB streams the rows, so that a log of any size fits; files are put into the order of their content, so that
no result depends on how folders are named or in which order they are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphrl.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

REQUIRED = ("step", "group_id", "completion", "solution")
FILE, ROW = "glyphrl_file", "file_row_number"
"""Columns that a query has beside those of the log: the file's path, and the row's number in it."""
_ROWS_AT_ONCE = 100_000
_FILES_AT_ONCE = 500
_MEMORY = "384MB"


@dataclass(frozen=True)
class LogFile:
    """One Parquet file of a log."""

    path: Path
    digest: str
    """SHA-256 of its content, the first 32 characters."""
    rows: int
    columns: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Log:
    """Files as one table.

    Attributes:
        files: In the order of their digests.
        repeated: Files that were left out because another one has the same content.
        columns: Name -> SQL type of every column of any file, in the order of the first file that has it.
        where: SQL condition that rows have to meet; None: all rows.
    """

    files: list[LogFile]
    repeated: int
    columns: dict[str, str]
    where: str | None

    @property
    def run_names(self) -> list[str]:
        """Names of the run folders, sorted."""
        folders = {
            f.path.parent.parent if f.path.parent.name == "completions" else f.path.parent for f in self.files
        }
        return sorted({folder.name for folder in folders})

    def batches(self, files: Sequence[LogFile] | None = None) -> Iterator[list[LogFile]]:
        """The files in runs that one query reads together."""
        batch: list[LogFile] = []
        for file in self.files if files is None else files:
            full = sum(f.rows for f in batch) + file.rows > _ROWS_AT_ONCE or len(batch) >= _FILES_AT_ONCE
            if batch and full:
                yield batch
                batch = []
            batch.append(file)
        if batch:
            yield batch

    def read(
        self, connection: duckdb.DuckDBPyConnection, files: Sequence[LogFile], select: str, batch_size: int
    ) -> pa.RecordBatchReader:
        """Streams the rows of `files` that meet `where`, in the order of the files and of their rows."""
        source = self._source(files)
        query = connection.sql(f"SELECT {select} FROM {source} {self._condition()}")
        return query.to_arrow_reader(batch_size)

    def pick(
        self, connection: duckdb.DuckDBPyConnection, places: Sequence[tuple[int, int]], select: str
    ) -> list[dict[str, Any]]:
        """Single rows, in the order of `places`: (index of the file, number of the row in it)."""
        files = sorted({file for file, _ in places})
        number = {str(self.files[index].path): index for index in files}
        source = self._source([self.files[index] for index in files])
        rows = " OR ".join(
            f"({FILE} = {literal(path)} AND {ROW} IN ({', '.join(str(r) for f, r in places if f == index)}))"
            for path, index in number.items()
        )
        query = connection.sql(f"SELECT {FILE}, {ROW}, {select} FROM {source} WHERE {rows}")
        found = {(number[row[FILE]], row[ROW]): row for row in query.to_arrow_table().to_pylist()}
        return [found[place] for place in places]

    def _source(self, files: Sequence[LogFile]) -> str:
        """A subquery with every column of the log; those that these files lack are null."""
        listed = ", ".join(literal(as_pattern(str(file.path))) for file in files)
        table = f"read_parquet([{listed}], union_by_name = true, filename = '{FILE}', {ROW} = true)"
        there = frozenset[str]().union(*{file.columns for file in files})
        columns = [
            f"{f'CAST({quoted(name)} AS {kind})' if name in there else f'CAST(NULL AS {kind})'} AS {quoted(name)}"
            for name, kind in self.columns.items()
        ]
        return f"(SELECT {', '.join([*columns, FILE, ROW])} FROM {table})"

    def _condition(self) -> str:
        # On lines of its own, so that a comment at the end of the condition ends with it.
        return f"WHERE (\n{self.where}\n)" if self.where else ""

    def check(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Tries the condition on a table without rows.

        Raises:
            UserError: It is no SQL condition over these columns.
        """
        import duckdb

        columns = ", ".join(f"CAST(NULL AS {kind}) AS {quoted(name)}" for name, kind in self.columns.items())
        try:
            connection.execute(f"SELECT 1 FROM (SELECT {columns}) {self._condition()} LIMIT 0").fetchall()
        except duckdb.Error as error:
            raise UserError(
                f"--where {self.where}: {error}\nthe log has the columns {', '.join(map(quoted, self.columns))}"
            ) from error


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def as_pattern(path: str) -> str:
    """A path as a pattern that matches it alone: DuckDB takes `*`, `?` and `[` for wildcards."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in path)


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def connect() -> duckdb.DuckDBPyConnection:
    """A database in memory that only reads files."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": 2, "memory_limit": _MEMORY})
    connection.execute("SET preserve_insertion_order = true")
    connection.execute("SET enable_progress_bar = false")
    return connection


def open_log(runs: Iterable[str | Path], where: str | None = None) -> Log:
    """Finds the files of logs.

    Args:
        runs: Run folders, `completions` folders, or Parquet files.
        where: SQL condition over the log's columns.

    Raises:
        UserError: A folder without a log, a file that is no Parquet, a log that lacks a column.
    """
    found: dict[str, LogFile] = {}
    columns: dict[str, set[str]] = {}
    same: dict[frozenset[str], frozenset[str]] = {}  # thousands of files have the same columns
    paths = [path for run in runs for path in _paths(Path(run).expanduser())]
    for path in paths:
        with open(path, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
        if digest in found:
            continue
        schema, rows = _footer(path)
        for name in REQUIRED:
            if name not in schema.names:
                raise UserError(
                    f"{path}: no column {name!r}{did_you_mean(name, schema.names)}; expected a completions log"
                )
        for name in schema.names:
            columns.setdefault(name, set()).add(sql_type(schema.field(name).type))
        names = frozenset(schema.names)
        found[digest] = LogFile(path.resolve(), digest, rows, same.setdefault(names, names))
    _refuse_twins(columns)
    files = sorted(found.values(), key=lambda file: file.digest)
    log = Log(files, len(paths) - len(files), {n: common_type(columns[n]) for n in sorted(columns)}, where)
    if where is not None:
        with connect() as connection:
            log.check(connection)
    return log


def _refuse_twins(columns: Iterable[str]) -> None:
    """Refuses names that differ in upper and lower case only: SQL cannot tell them apart."""
    seen: dict[str, str] = {}
    for name in columns:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise UserError(
                f"the log has the columns {other!r} and {name!r}, which SQL takes for one; rename one of them in "
                "what the rewards log"
            )


def _paths(run: Path) -> list[Path]:
    """The log files of one run."""
    if run.is_file():
        return [run]
    if not run.exists():
        raise UserError(f"{run} does not exist; expected a run folder with completions/")
    inner = run / "completions"
    files = sorted((inner if inner.is_dir() else run).glob("*.parquet"))
    if not files:
        raise UserError(f"{run} holds no completions log; expected Parquet files in {inner}")
    return files


def _footer(path: Path) -> tuple[pa.Schema, int]:
    """Columns and number of rows of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {error}") from error


def sql_type(kind: Any) -> str:
    """What DuckDB calls an Arrow type; lists and structs stay as they are (`''`)."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        return "NULL"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_integer(kind):
        return "BIGINT"
    if pa.types.is_floating(kind):
        return "DOUBLE"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "VARCHAR"
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = ", ".join(f"{quoted(field.name)} {sql_type(field.type)}" for field in kind)
        return f"STRUCT({fields})"
    return "VARCHAR"


def common_type(kinds: set[str]) -> str:
    """One type for what several files hold: numbers of two kinds are DOUBLE, anything else is text."""
    known = kinds - {"NULL"}
    if len(known) == 1:
        return known.pop()
    if not known:
        return "VARCHAR"
    return "DOUBLE" if known <= {"BIGINT", "DOUBLE"} else "VARCHAR"
