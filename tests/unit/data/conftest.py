"""Data sets that several tests of `glyphrl.data` use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_files import draw_line, write_jsonl


@pytest.fixture
def line_image(tmp_path: Path) -> Callable[..., Path]:
    """Draws `tmp_path/name` and returns its path."""
    return lambda name, **options: draw_line(tmp_path / name, **options)


@pytest.fixture
def label_folder(tmp_path: Path) -> Path:
    """A folder as in the shared data: ten lines of three documents."""
    folder = tmp_path / "lines" / "train"
    labels, documents = [], []
    for index in range(10):
        name = f"img/{index:02d}.png"
        draw_line(folder / name, f"line {index}")
        labels.append(f"{name}\tline {index}")
        documents.append(f"{name}\tdoc{index % 3}")
    (folder / "labels.tsv").write_text("\n".join(labels) + "\n", encoding="utf-8")
    (folder / "docs.tsv").write_text("\n".join(documents) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], Path]:
    """Writes `tmp_path/name` with one row per line."""
    return lambda name, rows: write_jsonl(tmp_path / name, rows)
