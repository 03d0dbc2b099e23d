"""The tiny model: an ordinary folder that transformers loads like any other."""

import json

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)

from glyphrl.errors import UserError
from glyphrl.trainers.tiny_model import SPECIAL_TOKENS, TAG_TOKENS, build_tiny_model

SMALL = {"hidden_size": 32, "num_layers": 1, "vision_hidden_size": 16, "vision_layers": 1}
CLASSES = {
    "qwen2_5_vl": (Qwen2_5_VLForConditionalGeneration, "Qwen2_5_VLProcessor"),
    "qwen2_vl": (Qwen2VLForConditionalGeneration, "Qwen2VLProcessor"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder of each family, as the factory leaves it."""
    return {f: build_tiny_model(f, tmp_path_factory.mktemp(f) / "new" / "model", **SMALL) for f in CLASSES}


@pytest.mark.parametrize("family", CLASSES)
def test_it_loads_by_the_auto_classes(built, family):
    model = AutoModelForImageTextToText.from_pretrained(built[family])
    processor = AutoProcessor.from_pretrained(built[family])
    model_class, processor_class = CLASSES[family]
    assert type(model) is model_class
    assert type(processor).__name__ == processor_class
    assert model.config.model_type == family
    assert json.loads((built[family] / "config.json").read_text())["architectures"] == [model_class.__name__]


@pytest.mark.parametrize("family", CLASSES)
def test_sizes(built, family):
    config = AutoModelForImageTextToText.from_pretrained(built[family]).config
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (32, 1)
    assert config.vision_config.depth == 1
    width = config.vision_config.hidden_size if family == "qwen2_5_vl" else config.vision_config.embed_dim
    assert width == 16
    if family == "qwen2_5_vl":
        assert config.vision_config.fullatt_block_indexes == [0]


@pytest.mark.parametrize("family", CLASSES)
def test_tokens_mean_the_same_to_model_and_tokenizer(built, family):
    model = AutoModelForImageTextToText.from_pretrained(built[family])
    tokenizer = AutoProcessor.from_pretrained(built[family]).tokenizer
    number = tokenizer.convert_tokens_to_ids
    config = model.config
    assert (config.image_token_id, config.video_token_id) == (
        number("<|image_pad|>"),
        number("<|video_pad|>"),
    )
    assert config.vision_start_token_id == number("<|vision_start|>")
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == [number("<|im_end|>"), number("<|endoftext|>")]
    assert len(tokenizer) <= config.text_config.vocab_size
    for token in (*SPECIAL_TOKENS, *TAG_TOKENS):
        assert tokenizer(token)["input_ids"] == [number(token)]


@pytest.mark.parametrize(
    "text", ["476.0 €", "等:¥476.0", "a\n\tb  c", "🙂 é\u0301", "<answer>x</answer>", "user"]
)
def test_any_text_survives_the_tokenizer(built, text):
    """Bytes, so that nothing is unknown; answer tags are kept where special tokens are dropped."""
    tokenizer = AutoProcessor.from_pretrained(built["qwen2_5_vl"]).tokenizer
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


@pytest.mark.parametrize("family", CLASSES)
def test_images_change_what_it_says(tinies, samples, family):
    """Forward and backward with images, in train mode."""
    model = tinies[family].model().train()
    inputs = tinies[family].processor(
        text=[p.text for p in tinies[family].encode(samples[:1])],
        images=[list(tinies[family].encode(samples[:1])[0].images)],
        return_tensors="pt",
    )
    output = model(**inputs)
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    assert not torch.equal(model(**other).logits, output.logits)
    output.logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_pixel_bounds(tmp_path):
    folder = build_tiny_model("qwen2_vl", tmp_path, **SMALL, min_pixels=784 * 3, max_pixels=784 * 7)
    size = AutoProcessor.from_pretrained(folder).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (784 * 3, 784 * 7)


def test_the_seed_decides_the_weights_and_leaves_others_alone(tmp_path):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        folder = build_tiny_model("qwen2_5_vl", tmp_path / str(number), **SMALL, seed=seed)
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_family(tmp_path):
    with pytest.raises(UserError, match=r"no tiny model of family 'qwen25_vl'; did you mean .*'qwen2_5_vl'"):
        build_tiny_model("qwen25_vl", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("sizes", [{"hidden_size": 40}, {"vision_hidden_size": 40}])
def test_widths_that_fit_no_heads(tmp_path, sizes):
    with pytest.raises(
        UserError, match=r"hidden_size is \d+ and vision_hidden_size \d+; expected multiples of 32"
    ):
        build_tiny_model("qwen2_vl", tmp_path / "x", **{**SMALL, **sizes})
