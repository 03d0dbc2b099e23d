"""The way back: samples as rows of other formats, written beside each other in one file.

Shared by the formats that can be written; this is no format of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from glyphrl.data.chat import IMAGE_MARK, split_prompt
from glyphrl.data.problems import RowError
from glyphrl.data.sample import Sample
from glyphrl.errors import UserError

Render = Callable[[Sample, list[str]], dict[str, Any]]
"""One row out of a sample and its image paths as the file has to name them."""


def rendered_turns(sample: Sample) -> list[tuple[str, str]]:
    """Role and text of every turn of the prompt, with a mark `<image>` for each image, also where none stood.

    Raises:
        RowError: The prompt is none that can be trained on.
    """
    return [
        (message["role"], "".join(part.get("text", IMAGE_MARK) for part in message["content"]))
        for message in split_prompt(sample.prompt, len(sample.images))
    ]


def image_paths(sample: Sample, folder: Path) -> list[str]:
    """The sample's images as a file in `folder` names them: relative where they are inside."""
    return sample.to_json(folder)["images"]


def render_each(samples: Iterable[Sample], folder: Path, render: Render) -> Iterable[dict[str, Any]]:
    """The rows of a file in `folder`.

    Raises:
        UserError: A sample cannot be written in the format.
    """
    for sample in samples:
        try:
            yield render(sample, image_paths(sample, folder))
        except RowError as error:
            raise UserError(f"sample {sample.id!r} cannot be written in this format: {error}") from None


def write_json_lines(samples: Iterable[Sample], path: Path, folder: Path, render: Render) -> None:
    """Writes one JSON object a line; image paths are relative to `folder`."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in render_each(samples, folder, render):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_json_array(samples: Iterable[Sample], path: Path, folder: Path, render: Render) -> None:
    """Writes one JSON array, an object a line; image paths are relative to `folder`."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        separator = "[\n"
        for row in render_each(samples, folder, render):
            file.write(separator + json.dumps(row, ensure_ascii=False))
            separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def relative_path(path: str, folder: Path) -> str:
    """A path as a file in `folder` names it: relative where it is inside."""
    return Sample("", (path,), "", "").to_json(folder)["images"][0]
