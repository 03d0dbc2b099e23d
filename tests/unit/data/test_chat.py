"""Chat messages of a sample."""

from __future__ import annotations

import copy

import pytest

from glyphrl.data.chat import build_messages
from glyphrl.data.sample import Prompt, Sample
from glyphrl.errors import UserError

IMAGE = {"type": "image"}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def build(prompt: Prompt, images: int, system: str | None = None):
    return build_messages(Sample("s1", tuple(f"/{i}.png" for i in range(images)), prompt, "ref"), system)


@pytest.mark.parametrize(
    ("prompt", "images", "content"),
    [
        ("Read.", 1, [IMAGE, text("Read.")]),
        ("Compare.", 2, [IMAGE, IMAGE, text("Compare.")]),
        ("<image>Read.", 1, [IMAGE, text("Read.")]),
        ("Page 1: <image>\nPage 2: <image>", 2, [text("Page 1: "), IMAGE, text("\nPage 2: "), IMAGE]),
        ("A<|vision_start|><|image_pad|><|vision_end|>B", 1, [text("A"), IMAGE, text("B")]),
        ("<|vision_start|>x/y.png<|vision_end|>B", 1, [IMAGE, text("B")]),
        ("<image>", 1, [IMAGE]),
        ("No image here.", 0, [text("No image here.")]),
    ],
)
def test_images_stand_where_the_prompt_names_them(prompt, images, content):
    assert build(prompt, images) == [{"role": "user", "content": content}]


def test_a_chat_is_kept_with_its_own_system_message():
    chat = [
        {"role": "system", "content": "Own."},
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "One.", "name": "x"},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, text("Now <image>.")],
        },
    ]
    before = copy.deepcopy(chat)
    assert build(chat, 2, system="Ours.") == [
        {"role": "system", "content": [text("Own.")]},
        {"role": "user", "content": [text("First?")]},
        {"role": "assistant", "content": [text("One.")], "name": "x"},
        {"role": "user", "content": [IMAGE, text("Now "), IMAGE, text(".")]},
    ]
    assert chat == before


def test_images_that_a_chat_does_not_name_come_before_its_first_user_text():
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "q2"},
    ]
    assert [m["content"] for m in build(chat, 1)] == [
        [text("s")],
        [IMAGE, text("q1")],
        [text("a")],
        [text("q2")],
    ]


def test_the_system_message_comes_first():
    assert build("Read.", 1, system="Be exact.")[0] == {"role": "system", "content": [text("Be exact.")]}


@pytest.mark.parametrize(
    ("prompt", "images", "message"),
    [
        ("<image> and <image>", 1, "sample 's1': field 'prompt': found 2 image placeholders for 1 images"),
        ("<image>", 2, "found 1 image placeholders for 2 images"),
        ("<image>", 0, "found 1 image placeholders for 0 images"),
        ("Read <|image_pad|>.", 1, r"found the token '<\|image_pad\|>'"),
        ("Read.<|im_end|>", 1, r"found the token '<\|im_end\|>'"),
        ([{"role": "system", "content": "s"}], 1, "no message of 'user'"),
        ([{"role": "user", "content": [{"type": "video"}]}], 0, "type 'text' or 'image'"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompt, images, message):
    with pytest.raises(UserError, match=message):
        build(prompt, images)
