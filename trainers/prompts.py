"""Samples as model inputs: chat template, images sized once, image tokens expanded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from glyphrl.data.chat import build_messages
from glyphrl.data.images import load_resized
from glyphrl.data.sample import Sample


@dataclass(frozen=True)
class ImageSizing:
    """Bounds of an image's area in pixels; the same ones everywhere a sample is read."""

    min_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class EncodedPrompt:
    """One sample's prompt, ready for rollout and for training."""

    sample: Sample
    text: str
    """The rendered chat template with one image token per image."""
    raw_ids: list[int]
    """Token ids with one image token per image: what vLLM expects, since it expands them itself."""
    ids: list[int]
    """Token ids with one image token per merged patch: what the model computes on."""
    images: tuple[Image.Image, ...]
    """RGB images, already sized: rollout and training see these very pixels."""
    pixel_values: torch.Tensor | None
    """(patches of all images, channels * temporal patch * patch * patch), float32; None without images."""
    image_grid_thw: torch.Tensor | None
    """(images, 3): patches per image in time, height and width; None without images."""


def image_token_id(processor: Any) -> int:
    """Id of the placeholder that stands for image content."""
    return processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")


def banned_token_ids(tokenizer: Any) -> list[int]:
    """Tokens that a policy must never emit: they stand for image or video content and break the next forward pass."""
    found = (tokenizer.convert_tokens_to_ids(token) for token in ("<|image_pad|>", "<|video_pad|>"))
    return [token_id for token_id in found if token_id is not None and token_id != tokenizer.unk_token_id]


def render_prompt(processor: Any, sample: Sample, system: str | None) -> str:
    """The chat template around the sample's prompt, ending where the assistant begins to speak."""
    messages = build_messages(sample, system)
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def expand_image_tokens(ids: Sequence[int], tokens_per_image: Sequence[int], image_token: int) -> list[int]:
    """Repeats the k-th image token `tokens_per_image[k]` times, as the processor does in text.

    Raises:
        ValueError: The number of image tokens is not the number of images.
    """
    expanded: list[int] = []
    image = 0
    for token in ids:
        if token != image_token:
            expanded.append(token)
            continue
        if image == len(tokens_per_image):
            break
        expanded.extend([image_token] * tokens_per_image[image])
        image += 1
    named = sum(token == image_token for token in ids)
    if named != len(tokens_per_image):
        raise ValueError(f"the prompt holds {named} image tokens for {len(tokens_per_image)} images")
    return expanded


def encode_prompts(
    processor: Any, samples: Sequence[Sample], *, system: str | None, sizing: ImageSizing
) -> list[EncodedPrompt]:
    """Renders, tokenises and preprocesses each sample once.

    Args:
        processor: Processor of a Qwen2-VL or Qwen2.5-VL model.
        samples: Samples with readable images.
        system: System message for samples that carry none.
        sizing: Bounds of the image area.

    Raises:
        UserError: An image cannot be read, or a prompt names another number of images than the sample has.
    """
    images = [
        tuple(load_resized(path, sizing.min_pixels, sizing.max_pixels) for path in sample.images)
        for sample in samples
    ]
    features = preprocess_images(processor, images, sizing)
    merged = processor.image_processor.merge_size**2
    token = image_token_id(processor)
    encoded = []
    for sample, pictures, (pixels, grid) in zip(samples, images, features, strict=True):
        text = render_prompt(processor, sample, system)
        raw_ids = processor.tokenizer(text)["input_ids"]
        counts = [] if grid is None else (grid.prod(-1) // merged).tolist()
        ids = expand_image_tokens(raw_ids, counts, token)
        encoded.append(EncodedPrompt(sample, text, raw_ids, ids, pictures, pixels, grid))
    return encoded


def preprocess_images(
    processor: Any, images: Sequence[Sequence[Image.Image]], sizing: ImageSizing
) -> list[tuple[torch.Tensor | None, torch.Tensor | None]]:
    """Patches and grids of each sample's images, all images in one call of the image processor."""
    flat = [image for pictures in images for image in pictures]
    if not flat:
        return [(None, None)] * len(images)
    size = {"shortest_edge": sizing.min_pixels, "longest_edge": sizing.max_pixels}
    batch = processor.image_processor(images=flat, size=size, return_tensors="pt")
    grids = batch["image_grid_thw"]
    pixels = torch.split(batch["pixel_values"], grids.prod(-1).tolist())
    result: list[tuple[torch.Tensor | None, torch.Tensor | None]] = []
    start = 0
    for pictures in images:
        end = start + len(pictures)
        result.append((torch.cat(pixels[start:end]), grids[start:end]) if pictures else (None, None))
        start = end
    return result
