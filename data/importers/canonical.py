"""Canonical JSON Lines: `{"id", "images", "prompt", "solution", ...}`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from glyphrl.data.importers.base import Peek, ReadOptions, Record, read_json_records
from glyphrl.data.problems import Problem
from glyphrl.data.sample import parse_canonical

LOOKS_FOR = 'JSON Lines with the keys "images" and "solution" ("id" and "prompt" besides)'
_OTHER_FORMATS = {"messages", "conversations", "query"}


def detect(peek: Peek) -> bool:
    """Whether the rows have images and a solution, and no conversation."""
    keys = peek.common_keys()
    return {"images", "solution"} <= keys and not keys & _OTHER_FORMATS


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The rows of a canonical file."""
    return read_json_records(path, options, lambda row, base, opts: parse_canonical(row, base, opts.prompt))
