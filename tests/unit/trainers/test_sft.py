"""SFT batches: the answer alone is learned, in the format that GRPO asks for."""

import pytest
import torch
from PIL import Image

from glyphrl.data.sample import Sample
from glyphrl.data.table import SampleTable
from glyphrl.errors import UserError
from glyphrl.trainers.sft import IGNORED, AnswerCollator, render_answer

TEMPLATE = "<answer>{solution}</answer>"


def collator(tiny, samples, **settings):
    table = SampleTable.from_samples(samples)
    defaults = {"system": None, "template": TEMPLATE, "max_length": None}
    return AnswerCollator(tiny.processor, {"sft": table}, sizing=tiny.sizing, **{**defaults, **settings})


def rows(*indices):
    return [{"split": "sft", "index": index} for index in indices]


def test_only_the_answer_is_learned(tiny, samples):
    """Its tokens and the end-of-sequence token, nothing of the prompt, the image or the padding."""
    batch = collator(tiny, samples)(rows(0, 1, 2, 3))
    tokenizer = tiny.processor.tokenizer
    prompts = tiny.encode(samples)
    for row, (sample, prompt) in enumerate(zip(samples, prompts, strict=True)):
        labels = batch["labels"][row]
        learned = labels[labels != IGNORED].tolist()
        assert tokenizer.decode(learned) == f"<answer>{sample.solution}</answer><|im_end|>"
        start = len(prompt.ids)
        assert batch["input_ids"][row, :start].tolist() == prompt.ids
        assert (labels[:start] == IGNORED).all()
        assert batch["input_ids"][row, start : start + len(learned)].tolist() == learned
        end = start + len(learned)
        assert (labels[end:] == IGNORED).all()
        assert batch["attention_mask"][row].tolist() == [1] * end + [0] * (batch["input_ids"].shape[1] - end)
        assert (batch["input_ids"][row, end:] == tokenizer.pad_token_id).all()


def test_inputs_are_those_of_the_processor(tiny, samples):
    """The same conversation through transformers' own processor, padded on the right."""
    batch = collator(tiny, samples)(rows(0, 1, 2, 3))
    prompts = tiny.encode(samples)
    texts = [
        f"{p.text}<answer>{s.solution}</answer><|im_end|>" for p, s in zip(prompts, samples, strict=True)
    ]
    pictures = [[Image.open(path).convert("RGB") for path in s.images] for s in samples if s.images]
    expected = tiny.processor(
        text=texts, images=pictures, padding=True, padding_side="right", return_tensors="pt"
    )
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw", "pixel_values"):
        assert torch.equal(batch[name], expected[name].to(batch[name].dtype)), name


def test_the_loss_is_that_of_the_answers(tiny, samples):
    """Of a batch, as transformers computes it from the labels: the mean over all answer tokens, sample by sample."""
    model = tiny.model()
    collate = collator(tiny, samples)
    with torch.no_grad():
        together = model(**collate(rows(0, 1, 2, 3))).loss
        total, count = 0.0, 0
        for index in range(4):
            batch = collate(rows(index))
            tokens = int((batch["labels"] != IGNORED).sum())
            total, count = total + model(**batch).loss * tokens, count + tokens
    torch.testing.assert_close(together, total / count, rtol=1e-5, atol=1e-5)


def test_no_image_in_the_batch(tiny25, samples):
    assert set(collator(tiny25, samples)(rows(2))) == {"input_ids", "attention_mask", "labels"}


def test_the_system_message_is_there(tiny25, samples):
    batch = collator(tiny25, samples, system="You read.")(rows(2))
    assert tiny25.processor.tokenizer.decode(batch["input_ids"][0]).startswith(
        "<|im_start|>system\nYou read."
    )


def test_tables_are_told_apart(tiny25, samples):
    made = collator(tiny25, samples)
    made.tables["eval"] = SampleTable.from_samples(samples[::-1])
    (learned,) = made([{"split": "eval", "index": 0}])["labels"]
    assert tiny25.processor.tokenizer.decode(learned[learned != IGNORED]).startswith("<answer>3.50")


def test_a_long_answer_loses_its_end(tiny25, samples):
    start = len(tiny25.encode(samples)[0].ids)
    batch = collator(tiny25, samples, max_length=start + 3)(rows(0))
    labels = batch["labels"][0]
    assert batch["input_ids"].shape == (1, start + 3)
    assert tiny25.processor.tokenizer.decode(labels[labels != IGNORED]) == "<answer>47"


@pytest.mark.parametrize("room", [0, -5])
def test_a_prompt_that_leaves_no_room(tiny25, samples, room):
    start = len(tiny25.encode(samples)[0].ids)
    message = rf"sample 'one': its prompt has {start} tokens and sft\.max_length is {start + room}.*data\.max_pixels"
    with pytest.raises(UserError, match=message):
        collator(tiny25, samples, max_length=start + room)(rows(0))


def test_answers():
    sample = Sample("s", (), "Read.", "{4}", {"think": "a <b>", "level": 3})
    assert render_answer(sample, TEMPLATE) == "<answer>{4}</answer>"
    long = "<think>{think} {{x}}</think><answer>{solution}</answer>{level:02d}"
    assert render_answer(sample, long) == "<think>a <b> {x}</think><answer>{4}</answer>03"


def test_a_column_named_like_ours_does_not_win():
    sample = Sample("s", (), "Read.", "right", {"solution": "wrong"})
    assert render_answer(sample, TEMPLATE) == "<answer>right</answer>"


def test_a_column_that_is_not_there():
    sample = Sample("s", (), "Read.", "4", {"level": 3})
    message = r"names 'think', but sample 's' has only the columns \['solution', 'level'\]"
    with pytest.raises(UserError, match=message):
        render_answer(sample, "<think>{think}</think><answer>{solution}</answer>")
