"""ShareGPT conversations: `{"conversations": [{"from", "value"}, ...], "images": [...]}`.

Images stand in the text as `<|vision_start|>path<|vision_end|>`, or as `<image>` with a list under `images`
(or one path under `image`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glyphrl.data.importers.base import Peek, ReadOptions, Record, further_columns, read_json_records, row_id
from glyphrl.data.importers.conversation import Turn, build_sample, images_of_row, text_turn
from glyphrl.data.problems import Problem, RowError, shown
from glyphrl.data.sample import Sample, text_field

LOOKS_FOR = 'JSON or JSON Lines with the key "conversations" (turns with "from" and "value")'
ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_IMAGE_KEYS = ("images", "image")
_USED = ("id", "conversations", "system", *_IMAGE_KEYS)


def detect(peek: Peek) -> bool:
    """Whether the rows have conversations."""
    return "conversations" in peek.common_keys()


def read(path: Path, options: ReadOptions) -> Iterator[Record | Problem]:
    """The rows of a ShareGPT file."""
    return read_json_records(path, options, parse)


def parse(row: dict[str, Any], base: Path, options: ReadOptions) -> Sample:
    """One row.

    Raises:
        RowError: The row is not as it should be.
    """
    conversation = row.get("conversations")
    if not isinstance(conversation, list) or not conversation:
        raise RowError("wrong_type", "conversations", shown(conversation), "a list of turns")
    turns = [text_turn("system", text_field(row["system"], "system"))] if row.get("system") else []
    for index, turn in enumerate(conversation):
        name = f"conversations[{index}]"
        if not isinstance(turn, dict):
            raise RowError("wrong_type", name, shown(turn), 'a turn with "from" and "value"')
        speaker = turn.get("from", turn.get("role"))
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise RowError("malformed_row", f"{name}.from", shown(speaker), f"one of {', '.join(ROLES)}")
        value = text_field(turn.get("value", turn.get("content")), f"{name}.value")
        role = ROLES[speaker]
        # What an assistant wrote is text as it stands: a page may show the word "<image>".
        turns.append(Turn(role, value) if role == "assistant" else text_turn(role, value))
    return build_sample(
        identifier=row_id(row),
        turns=turns,
        listed_images=images_of_row(row, _IMAGE_KEYS),
        solution=None,
        extra=further_columns(row, _USED),
        base=base,
        options=options,
    )
