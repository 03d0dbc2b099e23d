"""TRL's prompt and completion: `{"prompt", "completion", "images"}`, both text or both chat messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from glyphrl.data.chat import split_prompt
from glyphrl.data.importers.base import Peek, ReadOptions, Record, further_columns, read_json_records, row_id
from glyphrl.data.importers.conversation import build_sample, images_of_row, text_turn
from glyphrl.data.importers.messages import message_turns
from glyphrl.data.importers.rendering import write_json_lines
from glyphrl.data.problems import Problem, RowError, shown
from glyphrl.data.sample import Sample, text_field

LOOKS_FOR = 'JSON Lines with the keys "prompt" and "completion" (text or chat messages), and "images"'
_IMAGE_KEYS = ("images", "image")
_USED = ("id", "prompt", "completion", *_IMAGE_KEYS)


def detect(peek: Peek) -> bool:
    """Whether the rows have a prompt and a completion."""
    return {"prompt", "completion"} <= peek.common_keys()


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The rows of a prompt and completion file."""
    return read_json_records(path, options, parse)


def parse(row: dict[str, Any], base: Path, options: ReadOptions) -> Sample:
    """One row.

    Raises:
        RowError: The row is not as it should be.
    """
    prompt = row.get("prompt")
    turns = (
        message_turns(prompt, "prompt")
        if isinstance(prompt, list)
        else [text_turn("user", text_field(prompt, "prompt"))]
    )
    return build_sample(
        identifier=row_id(row),
        turns=turns,
        listed_images=images_of_row(row, _IMAGE_KEYS),
        solution=_completion(row.get("completion")),
        extra=further_columns(row, _USED),
        base=base,
        options=options,
    )


def _completion(value: object) -> str:
    if not isinstance(value, list):
        return text_field(value, "completion")
    turns = message_turns(value, "completion")
    if len(turns) != 1 or turns[0].role != "assistant" or turns[0].images:
        raise RowError(
            "malformed_row", "completion", shown(value), "one message of the assistant, text alone"
        )
    return turns[0].text


def write(samples: Sequence[Sample], path: Path, folder: Path) -> None:
    """Writes chat messages with content parts, as TRL's trainers read them."""
    write_json_lines(samples, path, folder, render)


def render(sample: Sample, images: list[str]) -> dict[str, Any]:
    """One row."""
    completion = [{"role": "assistant", "content": [{"type": "text", "text": sample.solution}]}]
    prompt = split_prompt(sample.prompt, len(images))
    return {**sample.extra, "id": sample.id, "prompt": prompt, "completion": completion, "images": images}
