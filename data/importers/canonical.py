"""Canonical JSON Lines: `{"id", "images", "prompt", "solution", ...}`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from glyphrl.data.importers.base import Peek, ReadOptions, Record, read_json_records
from glyphrl.data.importers.rendering import write_json_lines
from glyphrl.data.problems import Problem
from glyphrl.data.sample import Sample, parse_canonical

LOOKS_FOR = 'JSON Lines with the keys "images" and "solution" ("id" and "prompt" besides)'
_OTHER_FORMATS = {"messages", "conversations", "query", "completion"}


def detect(peek: Peek) -> bool:
    """Whether the rows have images and a solution, and no conversation."""
    keys = peek.common_keys()
    return {"images", "solution"} <= keys and not keys & _OTHER_FORMATS


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The rows of a canonical file."""
    return read_json_records(path, options, lambda row, base, opts: parse_canonical(row, base, opts.prompt))


def write(samples: Sequence[Sample], path: Path, folder: Path) -> None:
    """Writes a canonical file."""
    write_json_lines(samples, path, folder, lambda sample, _: sample.to_json(folder))
