"""Prompts: the ids and pixels that transformers' own processor makes of the same sample."""

import pytest
import torch
from PIL import Image

from glyphrl.data.images import load_resized
from glyphrl.data.sample import Sample
from glyphrl.errors import UserError
from glyphrl.trainers.prompts import banned_token_ids, expand_image_tokens, image_token_id, render_prompt
from glyphrl.trainers.rollout import pad_prompts


def test_ids_and_pixels_are_those_of_the_processor(tiny, samples):
    """Texts, expanded ids, pixels and grids, for each sample alone, although all were encoded together."""
    for sample, prompt in zip(samples, tiny.encode(samples), strict=True):
        pictures = [Image.open(path).convert("RGB") for path in sample.images]
        expected = tiny.processor(text=[prompt.text], images=pictures or None, return_tensors="pt")
        assert prompt.sample is sample
        assert prompt.ids == expected["input_ids"][0].tolist()
        if pictures:
            torch.testing.assert_close(prompt.pixel_values, expected["pixel_values"], rtol=0, atol=0)
            assert torch.equal(prompt.image_grid_thw, expected["image_grid_thw"])
        else:
            assert (prompt.pixel_values, prompt.image_grid_thw) == (None, None)


def test_raw_ids_hold_one_token_per_image(tiny, samples):
    token = image_token_id(tiny.processor)
    for sample, prompt in zip(samples, tiny.encode(samples), strict=True):
        assert prompt.raw_ids == tiny.processor.tokenizer(prompt.text)["input_ids"]
        assert prompt.raw_ids.count(token) == len(sample.images) == len(prompt.images)
    # 3 x 1 tokens; 2 x 2 and 5 x 1; none; 6 x 1
    assert [prompt.ids.count(token) for prompt in tiny.encode(samples)] == [3, 9, 0, 6]


def test_images_stand_where_the_prompt_names_them(tiny25, samples):
    text = render_prompt(tiny25.processor, samples[1], "You read.")
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == (
        "<|im_start|>system\nYou read.<|im_end|>\n"
        f"<|im_start|>user\n{image}Read both:{image}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_large_image_is_sized_once(tiny25, tmp_path):
    """20 x 4 tokens are too many: the pixels that the rollout gets are those that training computes on."""
    path = tmp_path / "large.png"
    Image.effect_mandelbrot((560, 112), (-2, -1, 1, 1), 40).save(path)
    (prompt,) = tiny25.encode([Sample("large", (str(path),), "Read.", "")])
    sized = load_resized(str(path), tiny25.sizing.min_pixels, tiny25.sizing.max_pixels)
    assert prompt.images[0].size == sized.size
    assert sized.width * sized.height <= tiny25.sizing.max_pixels
    again = tiny25.processor.image_processor(images=[sized], return_tensors="pt")
    assert torch.equal(prompt.pixel_values, again["pixel_values"])
    assert prompt.ids.count(image_token_id(tiny25.processor)) == (sized.width // 28) * (sized.height // 28)


def test_expansion_by_hand():
    # 9 stands for an image: the first becomes two tokens, the second one
    assert expand_image_tokens([1, 9, 2, 9], [2, 1], 9) == [1, 9, 9, 2, 9]
    assert expand_image_tokens([1, 2], [], 9) == [1, 2]


@pytest.mark.parametrize(
    ("ids", "counts"), [([9, 1, 9], [2]), ([9], [2, 2]), ([1], [4]), ([9, 9, 9], [1, 1])]
)
def test_expansion_wants_one_token_per_image(ids, counts):
    with pytest.raises(ValueError, match=f"{ids.count(9)} image tokens for {len(counts)} images"):
        expand_image_tokens(ids, counts, 9)


def test_a_prompt_cannot_smuggle_in_an_image_token(tiny25, images):
    sample = Sample("s", (images(3),), "Read <|image_pad|> this.", "")
    with pytest.raises(UserError, match="image_pad"):
        tiny25.encode([sample])


def test_banned_tokens(tiny):
    tokenizer = tiny.processor.tokenizer
    assert tokenizer.convert_ids_to_tokens(banned_token_ids(tokenizer)) == ["<|image_pad|>", "<|video_pad|>"]
    assert image_token_id(tiny.processor) == tiny.model().config.image_token_id


def test_a_tokenizer_without_video_bans_the_image_token_alone(tiny25):
    class NoVideo:
        unk_token_id = 5

        def convert_tokens_to_ids(self, token):
            return {"<|image_pad|>": 7}.get(token, self.unk_token_id)

    assert banned_token_ids(NoVideo()) == [7]


def test_left_padding_is_that_of_the_processor(tiny, samples):
    prompts = tiny.encode(samples)
    inputs = pad_prompts(tiny.processor, prompts, torch.device("cpu"))
    pictures = [list(prompt.images) for prompt in prompts if prompt.images]
    texts = [prompt.text for prompt in prompts]
    expected = tiny.processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    assert set(inputs) == set(expected)
    for name, value in inputs.items():
        assert torch.equal(value, expected[name].to(value.dtype)), name


def test_padding_does_not_move_the_prediction(tiny, samples):
    """The next token after a padded prompt is as likely as after the prompt alone."""
    prompts = tiny.encode(samples)
    model = tiny.model()
    with torch.no_grad():
        together = model(**pad_prompts(tiny.processor, prompts, torch.device("cpu"))).logits[:, -1]
        alone = [
            model(**pad_prompts(tiny.processor, [p], torch.device("cpu"))).logits[0, -1] for p in prompts
        ]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_prompts_without_any_image(tiny25, samples):
    (prompt,) = tiny25.encode([samples[2]])
    assert set(pad_prompts(tiny25.processor, [prompt], torch.device("cpu"))) == {
        "input_ids",
        "attention_mask",
    }
