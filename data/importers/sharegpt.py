"""ShareGPT conversations: `{"conversations": [{"from", "value"}, ...], "images": [...]}`.

Images stand in the text as `<|vision_start|>path<|vision_end|>`, or as `<image>` with a list under `images`
(or one path under `image`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from glyphrl.data.importers.base import Peek, ReadOptions, Record, further_columns, read_json_records, row_id
from glyphrl.data.importers.conversation import Turn, build_sample, images_of_row, text_turn
from glyphrl.data.importers.rendering import rendered_turns, write_json_lines
from glyphrl.data.problems import Problem, RowError, shown
from glyphrl.data.sample import Sample, text_field

LOOKS_FOR = 'JSON or JSON Lines with the key "conversations" (turns with "from" and "value")'
ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SPEAKERS = {"user": "human", "assistant": "gpt"}
_IMAGE_KEYS = ("images", "image")
_USED = ("id", "conversations", "system", *_IMAGE_KEYS)


def detect(peek: Peek) -> bool:
    """Whether the rows have conversations, and not just LLaVA's key `image`."""
    keys = peek.common_keys()
    return "conversations" in keys and not ("image" in keys and "images" not in keys)


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The rows of a ShareGPT file."""
    return read_json_records(path, options, parse)


def parse(row: dict[str, Any], base: Path, options: ReadOptions) -> Sample:
    """One row.

    Raises:
        RowError: The row is not as it should be.
    """
    turns = [text_turn("system", text_field(row["system"], "system"))] if row.get("system") else []
    turns += spoken_turns(row.get("conversations"), "conversations", ROLES)
    return build_sample(
        identifier=row_id(row),
        turns=turns,
        listed_images=images_of_row(row, _IMAGE_KEYS),
        solution=None,
        extra=further_columns(row, _USED),
        base=base,
        options=options,
    )


def spoken_turns(
    value: object,
    name: str,
    roles: dict[str, str],
    role_keys: tuple[str, ...] = ("from", "role"),
    content_keys: tuple[str, ...] = ("value", "content"),
) -> list[Turn]:
    """The turns of a conversation.

    Args:
        value: List of objects with a speaker and a text.
        name: Field of the row that holds it.
        roles: Speaker -> role.
        role_keys: Where the speaker stands; the first key that is there counts.
        content_keys: Where the text stands, likewise.

    Raises:
        RowError: It is no conversation.
    """
    if not isinstance(value, list) or not value:
        raise RowError("wrong_type", name, shown(value), "a list of turns")
    turns = []
    for index, turn in enumerate(value):
        place = f"{name}[{index}]"
        if not isinstance(turn, dict):
            raise RowError(
                "wrong_type", place, shown(turn), f"a turn with {role_keys[0]!r} and {content_keys[0]!r}"
            )
        role_key = next((key for key in role_keys if key in turn), role_keys[0])
        speaker = turn.get(role_key)
        if not isinstance(speaker, str) or speaker not in roles:
            raise RowError(
                "malformed_row", f"{place}.{role_key}", shown(speaker), f"one of {', '.join(roles)}"
            )
        content_key = next((key for key in content_keys if key in turn), content_keys[0])
        text = text_field(turn.get(content_key), f"{place}.{content_key}")
        role = roles[speaker]
        # What an assistant wrote is text as it stands: a page may show the word "<image>".
        turns.append(Turn(role, text) if role == "assistant" else text_turn(role, text))
    return turns


def write(samples: Sequence[Sample], path: Path, folder: Path) -> None:
    """Writes a ShareGPT file (JSON Lines)."""
    write_json_lines(samples, path, folder, render)


def render(sample: Sample, images: list[str]) -> dict[str, Any]:
    """One row, with marks in the text and a list of images."""
    return {**sample.extra, "id": sample.id, "conversations": conversation(sample), "images": images}


def conversation(sample: Sample) -> list[dict[str, str]]:
    """The turns of a sample, the reference last."""
    turns = [*rendered_turns(sample), ("assistant", sample.solution)]
    return [{"from": SPEAKERS.get(role, role), "value": text} for role, text in turns]
