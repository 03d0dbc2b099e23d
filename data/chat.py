"""Chat messages out of a sample: image placeholders where the prompt names its images."""

from __future__ import annotations

import re
from typing import Any

from glyphrl.data.problems import RowError
from glyphrl.data.sample import Prompt, Sample
from glyphrl.errors import UserError

IMAGE_MARK = "<image>"
PLACEHOLDER = re.compile(r"<image>|<\|vision_start\|>(.*?)<\|vision_end\|>", re.DOTALL)
"""Where a text names an image; group 1 is what stands between the vision tokens."""
CONTROL_TOKEN = re.compile(
    r"<\|(?:image_pad|video_pad|vision_pad|vision_start|vision_end|im_start|im_end|endoftext)\|>"
)
"""Tokens that steer the model: inside a text they would break the forward pass or end the turn."""
_IMAGE_PARTS = ("image", "image_url")


def build_messages(sample: Sample, system: str | None) -> list[dict[str, Any]]:
    """The chat messages of a sample's prompt, every content a list of parts.

    Parts are `{"type": "image"}` (one per image of the sample, in the order of `sample.images`) and
    `{"type": "text", "text": ...}`. Images stand where the text says `<image>` or
    `<|vision_start|>...<|vision_end|>`; a prompt that names none has them before its first user text.

    Args:
        sample: The sample; its `solution` is not used.
        system: System message; left out where the prompt is a chat that starts with its own.

    Raises:
        UserError: The prompt names more or fewer images than the sample has, or holds a control token of the
            model.
    """
    try:
        messages = split_prompt(sample.prompt, len(sample.images))
    except RowError as error:
        raise UserError(f"sample {sample.id!r}: {error}") from None
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return messages


def split_prompt(prompt: Prompt, num_images: int) -> list[dict[str, Any]]:
    """The messages of a prompt with its texts cut at the image placeholders.

    Raises:
        RowError: The number of placeholders is neither 0 nor `num_images`, a text holds a control token, or a
            part is neither text nor image.
    """
    chat: list[dict[str, Any]] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = [{**message, "content": _parts(message["content"])} for message in chat]
    named = sum(part["type"] == "image" for message in messages for part in message["content"])
    if named == 0 and num_images:
        first_user = next((m for m in messages if m["role"] == "user"), None)
        if first_user is None:
            raise RowError("malformed_row", "prompt", "no message of 'user'", "one that the images belong to")
        first_user["content"][:0] = [{"type": "image"} for _ in range(num_images)]
    elif named != num_images:
        raise RowError(
            "image_count",
            "prompt",
            f"{named} image placeholders for {num_images} images",
            "one <image> per image, or none at all (then the images come first)",
        )
    return messages


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return _split_text(content)
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] in _IMAGE_PARTS:
            parts.append({"type": "image"})
        elif part["type"] == "text" and isinstance(part.get("text"), str):
            parts.extend(_split_text(part["text"]))
        else:
            raise RowError(
                "wrong_type", "prompt", f"a content part {part!r}", "a part of type 'text' or 'image'"
            )
    return parts


def _split_text(text: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    position = 0
    for mark in PLACEHOLDER.finditer(text):
        parts.append({"type": "text", "text": text[position : mark.start()]})
        parts.append({"type": "image"})
        position = mark.end()
    parts.append({"type": "text", "text": text[position:]})
    parts = [part for part in parts if part["type"] == "image" or part["text"]]
    for part in parts:
        if found := CONTROL_TOKEN.search(part.get("text", "")):
            raise RowError(
                "special_token", "prompt", f"the token {found[0]!r}", "text without control tokens"
            )
    return parts
