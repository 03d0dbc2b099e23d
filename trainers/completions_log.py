"""The log of every completion: Parquet, one file per step and rank, complete or absent.

It holds enough to score each completion again without the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glyphrl.files import atomic_path

FOLDER = "completions"

IMAGE_TYPE = pa.struct([("path", pa.string()), ("sha256", pa.string())])
COLUMNS: list[tuple[str, pa.DataType]] = [
    ("run", pa.string()),
    ("stage", pa.string()),
    ("step", pa.int64()),
    ("epoch", pa.float64()),
    ("rank", pa.int32()),
    ("group_id", pa.string()),
    ("sample_id", pa.string()),
    ("completion_index", pa.int32()),
    ("prompt", pa.string()),
    ("images", pa.list_(IMAGE_TYPE)),
    ("solution", pa.string()),
    ("completion", pa.string()),
    ("answer", pa.string()),
    ("format_fault", pa.string()),
    ("finish_reason", pa.string()),
    ("num_tokens", pa.int32()),
    ("mean_logprob", pa.float64()),
    ("reward", pa.float64()),
    ("advantage", pa.float64()),
    ("reward_spec_hash", pa.string()),
    ("time", pa.float64()),
]


@dataclass(frozen=True)
class LogKey:
    """Which file of the log: one generation of one rank."""

    step: int
    """Optimizer steps done when the completions were sampled."""
    rank: int
    chunk: int = 0
    """Counts generations within one step."""

    def file_name(self) -> str:
        """Sorts by step, then rank."""
        return f"step-{self.step:08d}-rank-{self.rank:04d}-{self.chunk:03d}.parquet"


class CompletionsLog:
    """Writes the rows of one run, and takes back those that a resumed run will sample again."""

    def __init__(self, run_dir: str | Path) -> None:
        """Logs below `run_dir / completions`."""
        self.folder = Path(run_dir) / FOLDER

    def write(
        self, key: LogKey, rows: Sequence[dict[str, Any]], rewards: Mapping[str, Sequence[float | None]]
    ) -> Path:
        """Writes one file in one step.

        Args:
            key: Step and rank.
            rows: One dictionary per completion with every name of `COLUMNS`; further keys become columns (`column_of`).
            rewards: `reward/<name>` columns; None where the function did not apply.
        """
        arrays = {name: pa.array([row[name] for row in rows], type=kind) for name, kind in COLUMNS}
        for name, values in rewards.items():
            arrays[f"reward/{name}"] = pa.array(list(values), type=pa.float64())
        known = set(arrays)
        for name in sorted({name for row in rows for name in row} - known):
            arrays[name] = column_of([row.get(name) for row in rows])
        path = self.folder / key.file_name()
        with atomic_path(path) as temporary:
            pq.write_table(pa.table(arrays), temporary, compression="zstd")
        return path

    def drop_from(self, step: int) -> int:
        """Removes the files of `step` and later: a run resumed at `step` writes them again.

        Returns:
            How many files were removed.
        """
        removed = 0
        for path in self.folder.glob("step-*.parquet"):
            if int(path.name.split("-")[1]) >= step:
                path.unlink()
                removed += 1
        return removed


def extra_column(name: str) -> str:
    """The column of what a reward logs as `name`: the log's own columns are never overwritten."""
    taken = name.startswith("reward/") or any(name == own for own, _ in COLUMNS)
    return f"extra/{name}" if taken else name


def column_of(values: Sequence[Any]) -> pa.Array:
    """What a reward logged, as a column of numbers, booleans or texts.

    Values of several kinds, lists and objects become JSON text: a log column must never be what stops a run.
    """
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return as_text(values)
    plain = (
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_string,
        pa.types.is_null,
    )
    return column if any(is_kind(column.type) for is_kind in plain) else as_text(values)


def as_text(values: Sequence[Any]) -> pa.Array:
    """Strings as they are, everything else as JSON, and what JSON cannot say as Python says it."""
    texts = [
        value
        if value is None or isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, default=str)
        for value in values
    ]
    return pa.array([text and text.encode("utf-8", "backslashreplace") for text in texts], type=pa.string())


def read_completions(run_dir: str | Path) -> pa.Table:
    """All rows of a run's log, in the order of step, rank and completion; columns that a file lacks are null.

    A column that a reward logged as numbers in one step and as texts in another is text as a whole.

    Raises:
        FileNotFoundError: The folder holds no log.
    """
    files = sorted((Path(run_dir) / FOLDER).glob("step-*.parquet"))
    if not files:
        raise FileNotFoundError(f"no completions log below {Path(run_dir) / FOLDER}")
    tables = [pq.read_table(file) for file in files]
    mixed = columns_of_several_kinds(tables)
    for number, table in enumerate(tables):
        for name in mixed.intersection(table.column_names):
            text = as_text(table.column(name).to_pylist())
            table = table.set_column(table.column_names.index(name), name, text)
        tables[number] = table
    return pa.concat_tables(tables, promote_options="permissive")


def columns_of_several_kinds(tables: Sequence[pa.Table]) -> set[str]:
    """Names of columns whose types in the tables have no common one."""
    kinds: dict[str, set[str]] = {}
    for field in (field for table in tables for field in table.schema):
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        if not pa.types.is_null(field.type):
            kinds.setdefault(field.name, set()).add("number" if number else str(field.type))
    return {name for name, found in kinds.items() if len(found) > 1}
