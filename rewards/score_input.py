"""Reading completions that are to be scored: JSON Lines, or the Parquet files of a run's completions log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glyphrl.errors import UserError, did_you_mean


@dataclass(frozen=True)
class InputRow:
    """One completion."""

    place: str
    """Where it stands: `FILE, line 3` or `FILE, row 3`."""
    values: dict[str, Any]
    """All its columns."""


def read_rows(path: Path) -> Iterator[InputRow]:
    """Rows of a file, or of all Parquet files of a folder in the order of their names.

    Raises:
        UserError: There is no such file, or it cannot be read, or a row lacks `completion` or `solution`.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
        if not files:
            raise UserError(f"{path} has no .parquet files; expected a folder of a completions log")
    elif path.exists():
        files = [path]
    else:
        raise UserError(
            f"{path} does not exist; expected a .jsonl or .parquet file, or a folder of the latter"
        )
    for file in files:
        reader = _read_parquet if file.suffix == ".parquet" else _read_json_lines
        for row in reader(file):
            for name in ("completion", "solution"):
                if name not in row.values:
                    raise UserError(f"{row.place}: no field {name!r}{did_you_mean(name, row.values)}")
            if not isinstance(row.values["solution"], str):
                found = type(row.values["solution"]).__name__
                raise UserError(f"{row.place}: solution is {found}; expected text")
            yield row


def _read_json_lines(path: Path) -> Iterator[InputRow]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{place}: not UTF-8 at byte {error.start}") from error
            except json.JSONDecodeError as error:
                raise UserError(f"{place}: not JSON: {error.msg} at character {error.pos}") from error
            if not isinstance(values, dict):
                raise UserError(
                    f"{place}: {type(values).__name__}; expected an object with completion and solution"
                )
            yield InputRow(place, values)


def _read_parquet(path: Path) -> Iterator[InputRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {error}") from error
    number = 0
    with file:
        for batch in file.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield InputRow(f"{path}, row {number}", values)
