"""Sampling with transformers: the right number, from the right distribution, cut at the right place."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from glyphrl.trainers.packing import Group, pack_groups
from glyphrl.trainers.policy import add_scoring_forward, rope_index_of, score_groups
from glyphrl.trainers.prompts import banned_token_ids, image_token_id
from glyphrl.trainers.rollout import (
    GREEDY_TEMPERATURE,
    Sampling,
    TransformersBackend,
    cut_at_end,
    end_token_ids,
    pad_prompts,
)

GREEDY = Sampling(6, temperature=GREEDY_TEMPERATURE)


def backend(tiny, model=None, **settings):
    return TransformersBackend(model or tiny.model(), tiny.processor, **settings)


def wanting(model, **biases):
    """The model with an output layer of its own that adds to the logits of some tokens."""
    head = torch.nn.Linear(model.lm_head.in_features, model.lm_head.out_features)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        for token, bias in biases.items():
            head.bias[int(token.removeprefix("t"))] = bias
    model.lm_head = head
    return model


def argmax_by_hand(model, tiny, prompt, steps):
    """Greedy decoding without a cache, one forward pass of the whole sequence per token."""
    banned, ends = banned_token_ids(tiny.processor.tokenizer), end_token_ids(model, tiny.processor.tokenizer)
    inputs = pad_prompts(tiny.processor, [prompt], torch.device("cpu"))
    written = []
    while len(written) < steps:
        ids = torch.cat([inputs["input_ids"], torch.tensor([written], dtype=torch.long)], dim=1)
        more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in inputs:
            more["mm_token_type_ids"] = (ids == image_token_id(tiny.processor)).int()
        with torch.no_grad():
            logits = model(**{**inputs, **more}).logits[0, -1]
        logits[banned] = -torch.inf
        written.append(int(logits.argmax()))
        if written[-1] in ends:
            break
    return written


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_greedy_is_argmax(tiny, samples, batch_size):
    """In batches of one, two and all prompts, padded on the left: results stand at the place of their prompt."""
    model = tiny.model()
    prompts = tiny.encode(samples)
    groups = backend(tiny, model, batch_size=batch_size).sample(prompts, 1, GREEDY)
    for prompt, (rollout,) in zip(prompts, groups, strict=True):
        assert rollout.token_ids == argmax_by_hand(model, tiny, prompt, 6)
        assert rollout.finish_reason == "length"
        assert rollout.logps is None


def test_as_many_as_asked_for_in_the_order_of_the_prompts(tiny25, samples):
    """With only the likeliest token to choose from, every member of a group is the greedy completion of its prompt."""
    prompts = tiny25.encode(samples)
    model = tiny25.model()
    expected = [group[0].token_ids for group in backend(tiny25, model).sample(prompts, 1, GREEDY)]
    assert len({tuple(ids) for ids in expected}) == len(prompts)
    for batch_size in (1, 7, 64):
        groups = backend(tiny25, model, batch_size=batch_size).sample(prompts, 3, Sampling(6, top_k=1))
        assert [[rollout.token_ids for rollout in group] for group in groups] == [
            [ids] * 3 for ids in expected
        ]


def test_samples_differ_and_end_at_the_limit(tiny25, samples):
    torch.manual_seed(0)
    model = tiny25.model()
    ends = end_token_ids(model, tiny25.processor.tokenizer)
    groups = backend(tiny25, model).sample(tiny25.encode(samples), 4, Sampling(3, temperature=1.0))
    assert [len(group) for group in groups] == [4] * 4
    drawn = [rollout for group in groups for rollout in group]
    assert len({tuple(rollout.token_ids) for rollout in drawn}) > 12
    for rollout in drawn:
        ended = rollout.token_ids[-1] in ends
        assert rollout.finish_reason == ("stop" if ended else "length")
        assert len(rollout.token_ids) == 3 or ended


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(6), Sampling(6, temperature=2.0, top_k=2)])
def test_banned_tokens_are_never_written(tiny, samples, sampling):
    """Not even by a model that wants nothing more; and it goes on to write, which an image token would prevent."""
    banned = banned_token_ids(tiny.processor.tokenizer)
    model = wanting(tiny.model(), **{f"t{token}": 100.0 for token in banned})
    prompts = tiny.encode(samples)
    with torch.no_grad():
        logits = model(**pad_prompts(tiny.processor, prompts, torch.device("cpu"))).logits[:, -1]
    assert set(logits.argmax(-1).tolist()) <= set(banned), "the model does want to"
    groups = backend(tiny, model).sample(prompts, 1 if sampling == GREEDY else 4, sampling)
    written = {token for group in groups for rollout in group for token in rollout.token_ids}
    assert written
    assert not written & set(banned)


def test_the_distribution_is_the_one_that_is_scored(tiny25, samples):
    """Frequencies of the first token against the trainer's probabilities, at a temperature, with an image."""
    temperature, count = 0.6, 800
    model = tiny25.model()
    prompt = tiny25.encode(samples)[0]
    torch.manual_seed(0)
    (group,) = backend(tiny25, model, batch_size=count).sample([prompt], count, Sampling(1, temperature))
    frequency = torch.bincount(
        torch.tensor([rollout.token_ids[0] for rollout in group]),
        minlength=model.config.text_config.vocab_size,
    )
    add_scoring_forward(model, banned_token_ids(tiny25.processor.tokenizer), temperature)
    every = [[token] for token in range(len(frequency))]
    packed = pack_groups(
        [Group(prompt.ids, every, prompt.pixel_values, prompt.image_grid_thw)], rope_index_of(model), 0
    )
    with torch.no_grad():
        expected = score_groups(model, packed).logps[:, 0].exp() * count
    assert expected.sum().item() == pytest.approx(count, rel=1e-4)
    often = expected > 10
    assert often.sum() >= 5
    # each count is binomial: within four standard deviations
    assert ((frequency - expected)[often].abs() <= 4 * expected[often].sqrt()).all()
    rest = expected[~often].sum()
    assert (frequency[~often].sum() - rest).abs() <= 4 * rest.sqrt()


def test_it_stops_where_the_model_ends(tiny25, samples):
    tokenizer = tiny25.processor.tokenizer
    for end in ("<|im_end|>", "<|endoftext|>"):
        token = tokenizer.convert_tokens_to_ids(end)
        model = wanting(tiny25.model(), **{f"t{token}": 100.0})
        for group in backend(tiny25, model).sample(tiny25.encode(samples), 2, Sampling(5)):
            assert [(rollout.token_ids, rollout.finish_reason) for rollout in group] == [
                ([token], "stop")
            ] * 2


def test_cut_at_end_by_hand():
    assert cut_at_end([5, 6, 9, 0, 0], [9]).token_ids == [5, 6, 9]
    assert cut_at_end([5, 6, 9, 9], [9, 8]).finish_reason == "stop"
    assert cut_at_end([9], [9]).token_ids == [9]
    whole = cut_at_end([5, 6], [9])
    assert (whole.token_ids, whole.finish_reason, whole.logps) == ([5, 6], "length", None)


def test_end_tokens(tiny25):
    model, tokenizer = tiny25.model(), tiny25.processor.tokenizer
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert end_token_ids(model, tokenizer) == [end, pad]
    for setting, expected in ((pad, [end, pad]), (None, [end]), ([pad], [end, pad]), (end, [end])):
        model.generation_config.eos_token_id = setting
        assert end_token_ids(model, tokenizer) == expected


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(tiny25, samples, training):
    """In training or evaluation mode, with checkpointing on, whether sampling succeeds or not; without gradients."""
    model = tiny25.model().train(training)
    model.gradient_checkpointing_enable()
    sampler = backend(tiny25, model)
    expected = TransformersBackend(tiny25.model(), tiny25.processor).sample(tiny25.encode(samples), 1, GREEDY)
    assert sampler.sample(tiny25.encode(samples), 1, GREEDY) == expected
    assert model.training is training
    with pytest.raises(ValueError, match="max_new_tokens"):
        sampler.sample(tiny25.encode(samples), 1, Sampling(0))
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_settings_of_the_checkpoint_do_not_leak_in(tiny25, samples):
    """Published models bring sampling settings of their own (a repetition penalty, a low top_p): ours hold."""
    model = tiny25.model()
    prompts = tiny25.encode(samples)
    torch.manual_seed(3)
    expected = backend(tiny25, model).sample(prompts, 3, Sampling(5))
    changed = tiny25.model()
    found = changed.generation_config
    found.do_sample, found.temperature, found.top_p, found.top_k = True, 0.01, 0.001, 1
    found.repetition_penalty, found.max_new_tokens = 5.0, 1
    torch.manual_seed(3)
    assert backend(tiny25, changed).sample(prompts, 3, Sampling(5)) == expected


def test_a_sync_changes_the_model(tiny25, samples):
    """Another model, with an adapter on top, is sampled from after `sync`."""
    prompts = tiny25.encode(samples)
    torch.manual_seed(0)
    adapted = get_peft_model(
        tiny25.model(), LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False)
    )
    sampler = backend(tiny25)
    before = sampler.sample(prompts, 1, GREEDY)
    sampler.sync(adapted)
    after = sampler.sample(prompts, 1, GREEDY)
    assert after != before
    adapted.eval()
    assert [g[0].token_ids for g in after] == [
        argmax_by_hand(adapted.merge_and_unload(), tiny25, p, 6) for p in prompts
    ]
