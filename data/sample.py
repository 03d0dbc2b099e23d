"""One sample: images, a prompt and the reference text; and its canonical JSON form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glyphrl.data.problems import RowError, shown
from glyphrl.errors import UserError

FIELDS = ("id", "images", "prompt", "solution")
"""Keys of the canonical form; every other key is kept in `Sample.extra`."""

Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Sample:
    """One labelled sample."""

    id: str
    """Unique within a data set."""
    images: tuple[str, ...]
    """Absolute paths, in the order in which the prompt names them."""
    prompt: Prompt
    """Instruction, or chat messages up to the turn that the model has to answer."""
    solution: str
    """The reference text."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other column of the input; reward functions receive them by name."""

    def to_json(self, relative_to: str | Path | None = None) -> dict[str, Any]:
        """The canonical form.

        Args:
            relative_to: Folder of the file that will hold the row. Images inside it are written as relative
                paths, so that the folder can be moved; images elsewhere stay absolute.
        """
        images = [_relative(path, relative_to) for path in self.images]
        return {
            "id": self.id,
            "images": images,
            "prompt": self.prompt,
            "solution": self.solution,
            **self.extra,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any], base: str | Path, where: str) -> Sample:
        """Reads the canonical form.

        Args:
            row: One parsed line.
            base: Folder that relative image paths are relative to.
            where: Place for error messages, e.g. `train.jsonl:12`.

        Raises:
            UserError: A field is absent or has the wrong type.
        """
        try:
            return parse_canonical(row, base)
        except RowError as error:
            raise UserError(f"{where}: {error}") from None


def parse_canonical(row: object, base: str | Path, default_prompt: str | None = None) -> Sample:
    """Reads the canonical form; `default_prompt` stands in for an absent prompt, an absent id becomes `""`.

    Raises:
        RowError: A field is absent or has the wrong type.
    """
    if not isinstance(row, Mapping):
        raise RowError(
            "wrong_type", "", shown(row), "a JSON object with the keys id, images, prompt, solution"
        )
    for name in ("images", "solution"):
        if name not in row:
            raise RowError("missing_field", name, f"the keys {sorted(row)}", f"a key {name!r}")
    identifier = row.get("id", "")
    if not isinstance(identifier, str) or ("id" in row and not identifier):
        raise RowError("wrong_type", "id", shown(identifier), "a non-empty string")
    prompt = row.get("prompt", default_prompt)
    if prompt is None:
        raise RowError("missing_field", "prompt", f"the keys {sorted(row)}", "a key 'prompt'")
    check_prompt(prompt)
    return Sample(
        id=identifier,
        images=tuple(absolute_path(path, base) for path in image_list(row["images"], "images")),
        prompt=prompt,
        solution=text_field(row["solution"], "solution"),
        extra={key: value for key, value in row.items() if key not in FIELDS},
    )


def text_field(value: object, name: str) -> str:
    """`value` if it is a string.

    Raises:
        RowError: It is something else.
    """
    if not isinstance(value, str):
        raise RowError("wrong_type", name, f"{shown(value)} ({type(value).__name__})", "a string")
    return value


def image_list(value: object, name: str) -> list[str]:
    """Image paths out of a string, a list of strings, or a list of `{"path": ...}` objects.

    Raises:
        RowError: It is something else, or an empty string stands for a path.
    """
    items = value if isinstance(value, list | tuple) else [value]
    paths = []
    for item in items:
        path = item.get("path") if isinstance(item, Mapping) else item
        if not isinstance(path, str) or not path.strip():
            raise RowError("wrong_type", name, shown(item), "the path of an image")
        paths.append(path)
    return paths


def check_prompt(prompt: object) -> None:
    """Passes where `prompt` is a string or a non-empty list of chat messages that ends with the user's turn.

    Raises:
        RowError: It is something else.
    """
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, list) or not prompt:
        raise RowError("wrong_type", "prompt", shown(prompt), "a string or a list of chat messages")
    for index, message in enumerate(prompt):
        name = f"prompt[{index}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RowError("wrong_type", name, shown(message), "a chat message with 'role' and 'content'")
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
                    raise RowError(
                        "wrong_type", f"{name}.content", shown(part), "a content part with a 'type'"
                    )
        elif not isinstance(content, str):
            raise RowError(
                "wrong_type", f"{name}.content", shown(content), "a string or a list of content parts"
            )
    if prompt[-1]["role"] != "user":
        raise RowError(
            "malformed_row", "prompt", f"a last message of {prompt[-1]['role']!r}", "one of 'user'"
        )


def absolute_path(path: str, base: str | Path) -> str:
    """`path` as an absolute path; `file://` is cut off, a relative path is taken relative to `base`.

    Raises:
        RowError: A web address or inline data: nothing is downloaded while data are read.
    """
    if path.startswith("file://"):
        path = path[len("file://") :]
    elif path.startswith(("http://", "https://", "data:")):
        raise RowError("unsupported_image", "images", shown(path), "a file; save the image and give its path")
    return os.path.normpath(os.path.join(os.path.abspath(base), path))


def _relative(path: str, folder: str | Path | None) -> str:
    if folder is None:
        return path
    relative = os.path.relpath(path, folder)
    return path if relative.split(os.sep, 1)[0] == os.pardir else Path(relative).as_posix()
