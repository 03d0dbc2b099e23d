"""Local files of Hugging Face's data sets: Parquet, Arrow, a folder of them, or what `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glyphrl.data.importers.base import BINARY, Peek, ReadOptions, Record
from glyphrl.data.importers.hf_rows import COLUMNS, read_rows
from glyphrl.data.importers.rendering import render_each
from glyphrl.data.problems import Problem
from glyphrl.data.sample import Sample
from glyphrl.data.textfiles import open_bytes
from glyphrl.errors import UserError

LOOKS_FOR = f"Parquet or Arrow files, or a folder of them, with {COLUMNS}"
SUFFIXES = (".parquet", ".arrow")
_BATCH_ROWS = 256  # rows may hold whole images


def detect(peek: Peek) -> bool:
    """Whether it is Parquet or Arrow, or a folder of such files."""
    return peek.head.startswith(BINARY) or (peek.path.is_dir() and bool(data_files(peek.path)))


def data_files(folder: Path) -> list[Path]:
    """The Parquet or Arrow files of a folder, in order."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The rows of a file, or of all files of a folder, batch by batch."""
    files = data_files(path) if path.is_dir() else [path]
    for file in files:
        columns, batches = _open(file)
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        yield from read_rows(rows, columns, str(file), options.image_base(file), options)


def _open(file: Path) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    """Column names, and the batches of a file.

    Raises:
        UserError: It is neither Parquet nor Arrow, or damaged.
    """
    try:
        with open_bytes(file) as head:
            is_parquet = head.read(4) == b"PAR1"
        if is_parquet:
            table = pq.ParquetFile(file)
            return table.schema_arrow.names, table.iter_batches(batch_size=_BATCH_ROWS)
        source = pa.memory_map(str(file))
        try:
            stream: Any = pa.ipc.open_stream(source)
            return stream.schema.names, iter(stream)
        except pa.ArrowInvalid:
            blocks: Any = pa.ipc.open_file(source)
            return blocks.schema.names, (blocks.get_batch(i) for i in range(blocks.num_record_batches))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: cannot be read as Parquet or Arrow ({error})") from None


def write(samples: Sequence[Sample], path: Path, folder: Path) -> None:
    """Writes a Parquet file with the columns of the canonical form."""
    rows = list(render_each(samples, folder, lambda sample, _: sample.to_json(folder)))
    try:
        table = pa.Table.from_pylist(rows, schema=_schema(rows))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"a column holds values of several types, which Parquet cannot ({error})") from None
    pq.write_table(table, path)


def _schema(rows: list[dict[str, Any]]) -> pa.Schema:
    """Types of all columns: a column may first appear in a late row."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, pa.array([row.get(name) for row in rows]).type) for name in names])
