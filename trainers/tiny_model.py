"""A small Qwen2-VL or Qwen2.5-VL built from scratch: the real architecture, tokenizer kind and image processor.

Tests, the quickstart and dry runs use it where no weights can be downloaded. It is saved as an ordinary model folder
that transformers and vLLM load like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Ordinary tokens (they survive decoding) for strings that a byte-level vocabulary would spell out in every sample.
TAG_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
MERGED_WORDS = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATCH_SIZE, MERGE_SIZE, TEMPORAL_PATCH_SIZE = 14, 2, 2
HEAD_SIZE = 32

Family = Literal["qwen2_5_vl", "qwen2_vl"]


def build_tokenizer() -> Any:
    """A byte-level Qwen2 tokenizer: 256 bytes, chat roles as merged words, answer tags, Qwen's special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    pieces = sorted(ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in MERGED_WORDS:
        for end in range(1, len(word)):
            pair = (word[:end], word[end])
            if pair not in merges:
                merges.append(pair)
                pieces.append(word[: end + 1])
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
    )
    tokenizer.add_tokens(list(TAG_TOKENS))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(family: Family, *, min_pixels: int, max_pixels: int) -> Any:
    """The family's processor around the byte-level tokenizer and Qwen2-VL's image processor."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    patches = {
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
    }
    cls = Qwen2_5_VLProcessor if family == "qwen2_5_vl" else Qwen2VLProcessor
    return cls(
        image_processor=Qwen2VLImageProcessor(min_pixels=min_pixels, max_pixels=max_pixels, **patches),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**patches),
        chat_template=CHAT_TEMPLATE,
    )


def build_model_config(
    family: Family,
    tokenizer: Any,
    *,
    hidden_size: int,
    num_layers: int,
    vision_hidden_size: int,
    vision_layers: int,
    max_position_embeddings: int,
) -> Any:
    """The configuration of a small model of the family.

    The rotary base is low and most of the rotary frequencies go to the width axis: with Qwen's own settings (base 1e6,
    the lowest frequencies for the width) a head of 32 can hardly tell neighbouring image columns apart, and a model of
    this size needs thousands of steps to find them.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    heads = hidden_size // HEAD_SIZE
    text = {
        "vocab_size": (len(tokenizer) + 63) // 64 * 64,
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "max_position_embeddings": max_position_embeddings,
        "max_window_layers": num_layers,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 2, 12],
            "rope_theta": 10.0,
        },
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    patches = {
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
    }
    token_ids = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
    }
    vision_heads = max(1, vision_hidden_size // 16)
    if family == "qwen2_5_vl":
        vision = {
            "depth": vision_layers,
            "hidden_size": vision_hidden_size,
            "num_heads": vision_heads,
            "intermediate_size": 4 * vision_hidden_size,
            "out_hidden_size": hidden_size,
            "window_size": 112,
            "fullatt_block_indexes": list(range(vision_layers)),
            **patches,
        }
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **token_ids)
    vision = {
        "depth": vision_layers,
        "embed_dim": vision_hidden_size,
        "num_heads": vision_heads,
        "mlp_ratio": 4,
        "hidden_size": hidden_size,
        **patches,
    }
    return Qwen2VLConfig(text_config=text, vision_config=vision, **token_ids)


def build_tiny_model(
    family: Family,
    out: str | Path,
    *,
    hidden_size: int = 128,
    num_layers: int = 3,
    vision_hidden_size: int = 64,
    vision_layers: int = 3,
    min_pixels: int = 28 * 28,
    max_pixels: int = 28 * 28 * 64,
    max_position_embeddings: int = 2048,
    seed: int = 0,
) -> Path:
    """Builds a model with random weights and saves model, tokenizer and processor as an ordinary model folder.

    Args:
        family: `qwen2_5_vl` or `qwen2_vl`.
        out: Folder to write; made where it is missing.
        hidden_size: Width of the language model, a multiple of 32 (the head size).
        num_layers: Decoder layers.
        vision_hidden_size: Width of the vision tower, a multiple of 16.
        vision_layers: Layers of the vision tower, all with full attention.
        min_pixels: Smallest image area in pixels that the processor keeps.
        max_pixels: Largest image area in pixels that the processor keeps.
        max_position_embeddings: Longest sequence in tokens.
        seed: Seed of the random weights.

    Returns:
        The folder.

    Raises:
        ValueError: The family is unknown, or a width is no multiple of its head size.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

    from glyphrl.errors import UserError, did_you_mean

    classes = {"qwen2_5_vl": Qwen2_5_VLForConditionalGeneration, "qwen2_vl": Qwen2VLForConditionalGeneration}
    if family not in classes:
        raise UserError(f"no tiny model of family {family!r}{did_you_mean(family, classes)}")
    if hidden_size % HEAD_SIZE or vision_hidden_size % 16:
        raise UserError(
            f"hidden_size is {hidden_size} and vision_hidden_size {vision_hidden_size}; expected multiples of "
            f"{HEAD_SIZE} and 16 (one head each)"
        )
    processor = build_processor(family, min_pixels=min_pixels, max_pixels=max_pixels)
    tokenizer = processor.tokenizer
    config = build_model_config(
        family,
        tokenizer,
        hidden_size=hidden_size,
        num_layers=num_layers,
        vision_hidden_size=vision_hidden_size,
        vision_layers=vision_layers,
        max_position_embeddings=max_position_embeddings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = classes[family](config)
    end, pad = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>"))
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out
