"""Conversations: turns with images in them, turned into a prompt, its images and a reference.

Shared by the importers whose rows are conversations; this is no format of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glyphrl.data.chat import IMAGE_MARK, PLACEHOLDER
from glyphrl.data.importers.base import ReadOptions
from glyphrl.data.problems import RowError, shown
from glyphrl.data.sample import Prompt, Sample, absolute_path, image_list

_PAD = re.compile(r"(<\|image_pad\|>)*")
_RENDERED_ANSWER = re.compile(
    r"\s*(?:<think>(?P<think>.*?)</think>\s*)?<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL
)


@dataclass(frozen=True)
class Turn:
    """One turn: `text` with a mark `<image>` for every image; `images` are aligned to the marks.

    None in `images` stands for "the next one of the row's image list".
    """

    role: str
    text: str
    images: tuple[str | None, ...] = ()


def text_turn(role: str, text: str) -> Turn:
    """A turn whose text may name images: `<image>`, or `<|vision_start|>path<|vision_end|>`."""
    images: list[str | None] = []

    def replace(mark: re.Match[str]) -> str:
        inner = (mark[1] or "").strip()
        images.append(None if _PAD.fullmatch(inner) else inner)
        return IMAGE_MARK

    return Turn(role, PLACEHOLDER.sub(replace, text), tuple(images))


def join_turns(role: str, turns: Iterable[Turn]) -> Turn:
    """Parts of one message as one turn."""
    parts = list(turns)
    return Turn(role, "".join(part.text for part in parts), tuple(i for part in parts for i in part.images))


def build_sample(
    *,
    identifier: str,
    turns: list[Turn],
    listed_images: list[str],
    solution: str | None,
    extra: dict[str, Any],
    base: Path,
    options: ReadOptions,
) -> Sample:
    """The sample of a conversation.

    Args:
        identifier: Id of the row, or `""`.
        turns: Roles `system`, `user`, `assistant`.
        listed_images: The row's image list: for the marks in order, or in front of the first user text where
            no turn names an image.
        solution: The reference, where the row gives it apart from the turns; a last turn of the assistant is
            then left out. None: the last turn of the assistant is the reference.
        extra: Further columns.
        base: Folder that relative image paths are relative to.
        options: Default prompt.

    Raises:
        RowError: Turns or images do not fit.
    """
    turns = list(turns)
    last = turns.pop() if turns and turns[-1].role == "assistant" else None
    if solution is None and last is None:
        found = f"{len(turns)} turns without an answer at the end"
        raise RowError("malformed_row", "conversation", found, "a last turn of the assistant: the reference")
    reference = solution if solution is not None else (last.text if last else "")
    if rendered := _RENDERED_ANSWER.fullmatch(reference):
        reference = rendered["answer"].strip()
        if rendered["think"] is not None:
            extra = {"think": rendered["think"].strip(), **extra}
    if turns and turns[-1].role != "user":
        raise RowError(
            "malformed_row", "conversation", f"{turns[-1].role!r} before the answer", "a turn of the user"
        )
    paths = _fill_images(turns, listed_images)
    return Sample(
        id=identifier,
        images=tuple(absolute_path(path, base) for path in paths),
        prompt=_prompt(turns, options.prompt),
        solution=reference,
        extra=extra,
    )


def _fill_images(turns: list[Turn], listed: list[str]) -> list[str]:
    slots = [image for turn in turns for image in turn.images]
    if not slots:
        return listed
    marks = slots.count(None)
    if marks != len(listed):
        found = f"{marks} marks for an image and {len(listed)} listed images"
        raise RowError("image_count", "images", found, "as many as marks, or no marks at all")
    remaining = iter(listed)
    return [next(remaining) if image is None else image for image in slots]


def _prompt(turns: list[Turn], default: str) -> Prompt:
    """A string for one user turn, else chat messages; a user turn without words gets the default prompt."""
    messages = [{"role": turn.role, "content": turn.text} for turn in turns] or [
        {"role": "user", "content": ""}
    ]
    if not messages[-1]["content"].replace(IMAGE_MARK, "").strip():
        messages[-1]["content"] = messages[-1]["content"].strip() + default
    if len(messages) == 1:
        return messages[0]["content"]
    return messages


def images_of_row(row: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """The row's image list under the one of `names` that it has.

    Raises:
        RowError: Several of the names are there, or the value is no list of paths.
    """
    present = [name for name in names if row.get(name) not in (None, [], "")]
    if len(present) > 1:
        raise RowError(
            "malformed_row", present[1], f"images under {present[0]!r} too: {shown(row[present[0]])}", "one"
        )
    return image_list(row[present[0]], present[0]) if present else []
