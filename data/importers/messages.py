"""Chat messages with images, as OpenAI and ms-swift write them: `{"messages": [{"role", "content"}], ...}`.

A content is a string with `<image>` marks and a list under `images`, or a list of parts
(`{"type": "text", "text": ...}`, `{"type": "image", "image": path}`, `{"type": "image_url", "image_url":
{"url": path}}`). The reference is the last turn of the assistant, or the key `solution`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from glyphrl.data.chat import IMAGE_MARK
from glyphrl.data.importers.base import Peek, ReadOptions, Record, further_columns, read_json_records, row_id
from glyphrl.data.importers.conversation import Turn, build_sample, images_of_row, join_turns, text_turn
from glyphrl.data.importers.rendering import rendered_turns, write_json_lines
from glyphrl.data.problems import Problem, RowError, shown
from glyphrl.data.sample import Sample, text_field

LOOKS_FOR = 'JSON or JSON Lines with the key "messages" (turns with "role" and "content")'
ROLES = ("system", "user", "assistant")
_IMAGE_KEYS = ("images", "image")
_USED = ("id", "messages", "solution", *_IMAGE_KEYS)


def detect(peek: Peek) -> bool:
    """Whether the rows have messages."""
    return "messages" in peek.common_keys()


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The rows of a file of chat messages."""
    return read_json_records(path, options, parse)


def parse(row: dict[str, Any], base: Path, options: ReadOptions) -> Sample:
    """One row.

    Raises:
        RowError: The row is not as it should be.
    """
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RowError("wrong_type", "messages", shown(messages), "a list of chat messages")
    return build_sample(
        identifier=row_id(row),
        turns=message_turns(messages, "messages"),
        listed_images=images_of_row(row, _IMAGE_KEYS),
        solution=text_field(row["solution"], "solution") if "solution" in row else None,
        extra=further_columns(row, _USED),
        base=base,
        options=options,
    )


def message_turns(messages: list[Any], name: str) -> list[Turn]:
    """The turns of a list of chat messages.

    Raises:
        RowError: One is no chat message.
    """
    return [_turn(message, f"{name}[{index}]") for index, message in enumerate(messages)]


def _turn(message: object, name: str) -> Turn:
    if not isinstance(message, dict):
        raise RowError("wrong_type", name, shown(message), 'a message with "role" and "content"')
    role = message.get("role")
    if role not in ROLES:
        raise RowError("malformed_row", f"{name}.role", shown(role), f"one of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return _text(role, content)
    if not isinstance(content, list):
        raise RowError("wrong_type", f"{name}.content", shown(content), "a string or a list of content parts")
    return join_turns(role, (_part(part, role, f"{name}.content[{i}]") for i, part in enumerate(content)))


def _text(role: str, text: str) -> Turn:
    # What an assistant wrote is text as it stands: a page may show the word "<image>".
    return Turn(role, text) if role == "assistant" else text_turn(role, text)


def _part(part: object, role: str, name: str) -> Turn:
    if not isinstance(part, dict):
        raise RowError("wrong_type", name, shown(part), "a content part")
    kind = part.get("type")
    if kind == "text":
        return _text(role, text_field(part.get("text"), f"{name}.text"))
    if kind not in ("image", "image_url"):
        raise RowError("malformed_row", f"{name}.type", shown(kind), "'text', 'image' or 'image_url'")
    value = part.get("image_url", part.get("image", part.get("path", part.get("url"))))
    if isinstance(value, dict):
        value = value.get("url", value.get("path"))
    return Turn(role, IMAGE_MARK, (None if value is None else text_field(value, name),))


def write(samples: Sequence[Sample], path: Path, folder: Path) -> None:
    """Writes chat messages as ms-swift reads them: text with marks, and a list of images."""
    write_json_lines(samples, path, folder, render)


def render(sample: Sample, images: list[str]) -> dict[str, Any]:
    """One row."""
    turns = [*rendered_turns(sample), ("assistant", sample.solution)]
    messages = [{"role": role, "content": text} for role, text in turns]
    return {**sample.extra, "id": sample.id, "messages": messages, "images": images}
