"""Data sets of the Hugging Face hub, read as a stream: `hf:OWNER/NAME`, `hf:OWNER/NAME@CONFIG#SPLIT`.

A local folder in place of `OWNER/NAME` is read by the same library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glyphrl.data.importers.base import Peek, ReadOptions, Record
from glyphrl.data.importers.hf_rows import COLUMNS, read_rows
from glyphrl.data.problems import Problem
from glyphrl.errors import UserError

LOOKS_FOR = f"hf:OWNER/NAME[@CONFIG][#SPLIT], a data set of the Hugging Face hub with {COLUMNS}"
PREFIX = "hf:"
_SOURCE = re.compile(r"hf:(?P<name>[^@#]+)(?:@(?P<config>[^#]+))?(?:#(?P<split>.+))?")


def is_hub(source: str | Path) -> bool:
    """Whether a source names a data set of the hub."""
    return str(source).startswith(PREFIX)


def detect(peek: Peek) -> bool:
    """Whether the source names a data set of the hub."""
    return is_hub(peek.path)


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The rows of a data set, as they arrive; split `train` where none is named.

    Raises:
        UserError: The data set cannot be reached or has no such split.
    """
    found = _SOURCE.fullmatch(str(path))
    if found is None:
        raise UserError(f"{path}: expected hf:OWNER/NAME, with @CONFIG and #SPLIT where needed")
    from datasets import load_dataset

    try:
        rows: Any = load_dataset(
            found["name"], found["config"], split=found["split"] or "train", streaming=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be opened as a data set ({error})") from None
    rows = rows.decode(False) if rows.features is not None else rows
    columns = rows.column_names or list(next(iter(rows), {}))
    base = Path(found["name"]) if Path(found["name"]).is_dir() else Path()
    yield from read_rows(rows, columns, str(path), options.image_root or base, options)
