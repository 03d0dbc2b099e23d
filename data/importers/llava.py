"""LLaVA: ShareGPT conversations with the images of a row under `image`, one path or a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from glyphrl.data.importers import sharegpt
from glyphrl.data.importers.base import Peek, ReadOptions, Record
from glyphrl.data.importers.rendering import write_json_array
from glyphrl.data.problems import Problem
from glyphrl.data.sample import Sample

LOOKS_FOR = 'JSON with the keys "conversations" and "image"'


def detect(peek: Peek) -> bool:
    """Whether the rows have conversations and `image`, and no `images`."""
    keys = peek.common_keys()
    return {"conversations", "image"} <= keys and "images" not in keys


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The rows of a LLaVA file."""
    return sharegpt.read(path, options)


def write(samples: Sequence[Sample], path: Path, folder: Path) -> None:
    """Writes a LLaVA file: one JSON array."""
    write_json_array(samples, path, folder, render)


def render(sample: Sample, images: list[str]) -> dict[str, Any]:
    """One row."""
    image = images[0] if len(images) == 1 else images
    return {**sample.extra, "id": sample.id, "image": image, "conversations": sharegpt.conversation(sample)}
