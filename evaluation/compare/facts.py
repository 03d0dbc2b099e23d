"""What the log says about each completion besides its text: step, group, lengths, logged rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glyphrl.errors import UserError
from glyphrl.evaluation.compare.log_files import FILE, ROW, Log, LogFile, connect, quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True)
class Facts:
    """N completions in the order of the log's files and rows. Every array but the last has shape (N,).

    Attributes:
        file: Index into the log's files.
        row: Number of the row in its file.
        step: Optimizer steps done.
        group: Number of its group; groups are numbered in order, one group lies in one file.
        length: Characters of the completion.
        logged: Column -> (N,) float64 values, NaN where null.
    """

    file: np.ndarray
    row: np.ndarray
    step: np.ndarray
    group: np.ndarray
    length: np.ndarray
    logged: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.row)


def read_facts(log: Log, columns: Sequence[str]) -> Facts:
    """Reads the light columns of a log.

    Args:
        log: The files.
        columns: Logged numbers that are wanted.

    Raises:
        UserError: No row is left, or one has no step, completion or reference.
    """
    numbers = [f"CAST({quoted(name)} AS DOUBLE) AS v{i}" for i, name in enumerate(columns)]
    select = ", ".join(
        [FILE, ROW, "step", "group_id", "length(completion) AS length", "solution IS NULL AS bare", *numbers]
    )
    parts: list[dict[str, np.ndarray]] = []
    place = {str(file.path): number for number, file in enumerate(log.files)}
    groups = 0
    with connect() as connection:
        for batch in log.batches():
            table = _read(log, connection, batch, select)
            if not table.num_rows:
                continue
            part = {name: table.column(name).to_numpy() for name in (ROW, "step", "length", "bare")}
            part["file"] = _codes(table.column(FILE), place)
            _refuse_gaps(part, log.files)
            part["group"] = groups + _groups(part["file"], table.column("group_id"))
            groups = int(part["group"].max()) + 1
            for i in range(len(columns)):
                part[f"v{i}"] = table.column(f"v{i}").to_numpy().astype(float)
            parts.append(part)
    if not parts:
        raise UserError(f"no completion is left{f' by --where {log.where}' if log.where else ''}")

    def joined(name: str, kind: type) -> np.ndarray:
        return np.concatenate([part[name] for part in parts]).astype(kind)

    return Facts(
        file=joined("file", np.int32),
        row=joined(ROW, np.int64),
        step=joined("step", np.int64),
        group=joined("group", np.int32),
        length=joined("length", np.float64),
        logged={name: joined(f"v{i}", np.float64) for i, name in enumerate(columns)},
    )


def _read(log: Log, connection: duckdb.DuckDBPyConnection, batch: Sequence[LogFile], select: str) -> pa.Table:
    """The rows of some files; a condition can also fail on a value that it meets."""
    import duckdb
    import pyarrow as pa

    try:
        return log.read(connection, batch, select, 65_536).read_all()
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, pa.ArrowInvalid) as error:
        if log.where is None:
            raise
        raise UserError(f"--where {log.where}: {str(error).strip()}") from error


def _codes(column: object, place: dict[str, int]) -> np.ndarray:
    """Index of each row's file."""
    encoded = column.combine_chunks().dictionary_encode()  # type: ignore[attr-defined]
    codes = np.array([place[path] for path in encoded.dictionary.to_pylist()])
    return codes[encoded.indices.to_numpy()]


def _groups(file: np.ndarray, group_id: object) -> np.ndarray:
    """Numbers the groups from 0; rows without a group id are groups of their own.

    A group id repeats in another file: it counts the groups of one generation.
    """
    encoded = group_id.combine_chunks().dictionary_encode()  # type: ignore[attr-defined]
    known = encoded.indices.is_valid().to_numpy(zero_copy_only=False)
    names = encoded.indices.fill_null(0).to_numpy().astype(np.int64)
    size = len(encoded.dictionary) + len(file)
    single = len(encoded.dictionary) + np.arange(len(file))
    key = file.astype(np.int64) * size + np.where(known, names, single)
    first = np.unique(key, return_index=True, return_inverse=True)
    rank = np.empty(len(first[1]), np.int64)
    rank[np.argsort(first[1], kind="stable")] = np.arange(len(first[1]))  # in order of first appearance
    return rank[first[2]]


def _refuse_gaps(part: dict[str, np.ndarray], files: Sequence[LogFile]) -> None:
    for name, missing in (
        ("step", np.isnan(part["step"].astype(float))),
        ("completion", np.isnan(part["length"].astype(float))),
        ("solution", part["bare"].astype(bool)),
    ):
        if missing.any():
            at = int(np.argmax(missing))
            raise UserError(
                f"{files[int(part['file'][at])].path}, row {part[ROW][at] + 1}: {name} is null; expected a value "
                f"(leave such rows out with --where '{name} IS NOT NULL')"
            )
