"""Packed groups against the plain way: every completion alone behind its prompt, through transformers' own forward."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from glyphrl.trainers import group_attention, policy
from glyphrl.trainers.group_attention import GroupLayout
from glyphrl.trainers.models import freeze, linear_layers, unwrapped
from glyphrl.trainers.packing import Group, pack_groups
from glyphrl.trainers.policy import add_scoring_forward, rope_index_of, score_groups, score_tokens
from glyphrl.trainers.prompts import banned_token_ids

TEMPERATURE = 0.8
ANSWERS = [
    ["<answer>476.0</answer>", "4", "<think>two</think><answer>47</answer>", "476"],
    ["12", "<answer>12</answer>"],
    ["hello there", "h", "<answer></answer>"],
    ["3", "5"],
]


@pytest.fixture
def groups(tiny, samples):
    """Four groups of unlike sizes: one image, two, none, one; two to four completions of 1 to 21 tokens."""
    return [
        Group(prompt.ids, [tiny.ids(text) for text in texts], prompt.pixel_values, prompt.image_grid_thw)
        for prompt, texts in zip(tiny.encode(samples), ANSWERS, strict=True)
    ]


@pytest.fixture
def groups_of_tiny25(tiny25, samples):
    """The same where one family is enough."""
    return [
        Group(prompt.ids, [tiny25.ids(text) for text in texts], prompt.pixel_values, prompt.image_grid_thw)
        for prompt, texts in zip(tiny25.encode(samples), ANSWERS, strict=True)
    ]


def sequences(groups):
    """Each group with each of its completions."""
    return [(group, completion) for group in groups for completion in group.completions]


def score_alone(model, group, completion, banned, temperature=TEMPERATURE):
    """Log-probabilities and entropies (T,) of one completion: a forward pass of its own, all logits, plain softmax."""
    base = unwrapped(model)
    ids = torch.tensor([group.prompt_ids + completion])
    images = {}
    if group.pixel_values is not None:
        images = {"pixel_values": group.pixel_values, "image_grid_thw": group.image_grid_thw}
        images["mm_token_type_ids"] = (ids == base.config.image_token_id).int()
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **images).logits[0]
    logits = logits[len(group.prompt_ids) - 1 : -1] / temperature
    kept = [token for token in range(logits.shape[1]) if token not in banned]
    column = torch.full((logits.shape[1],), -1)
    column[kept] = torch.arange(len(kept))
    distribution = torch.log_softmax(logits[:, kept], dim=-1)
    logps = distribution[torch.arange(len(completion)), column[completion]]
    return logps, -(distribution.exp() * distribution).sum(-1)


def pack(tiny, model, groups):
    return pack_groups(groups, rope_index_of(unwrapped(model)), tiny.processor.tokenizer.pad_token_id)


def scoring(tiny, model):
    """Adds the scoring forward, as the trainer does."""
    add_scoring_forward(unwrapped(model), banned_token_ids(tiny.processor.tokenizer), TEMPERATURE)
    return model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got, expected, rtol=1e-5):
    """The same parameters, and nowhere a difference above `rtol` of the parameter's largest gradient."""
    assert set(got) == set(expected)
    for name, value in expected.items():
        largest = value.abs().max()
        assert largest > 0, name
        assert (got[name] - value).abs().max() <= rtol * largest, name


@pytest.fixture
def by_parts(monkeypatch):
    """Every row as if it were a long one."""
    monkeypatch.setattr(group_attention, "LONG_ROW", 0)


def compare(tiny, packed_model, alone_model, groups, rtol=1e-5):
    """Values, entropies and the gradient of a sum with another weight for each token."""
    banned = banned_token_ids(tiny.processor.tokenizer)
    scores = score_groups(packed_model, pack(tiny, packed_model, groups))
    torch.manual_seed(1)
    loss = 0.0
    for row, (group, completion) in enumerate(sequences(groups)):
        logps, entropies = score_alone(alone_model, group, completion, banned)
        length = len(completion)
        torch.testing.assert_close(scores.logps[row, :length], logps, rtol=rtol, atol=1e-5)
        torch.testing.assert_close(scores.entropies[row, :length], entropies, rtol=rtol, atol=1e-5)
        assert not scores.logps[row, length:].any()
        assert not scores.entropies[row, length:].any()
        weights = torch.randn(length)
        (logps * weights).sum().backward()
        loss = loss + (scores.logps[row, :length] * weights).sum()
    loss.backward()
    assert_same_gradients(gradients(packed_model), gradients(alone_model), rtol)


def test_values_and_gradients_of_packed_groups(tiny, groups):
    compare(tiny, scoring(tiny, tiny.model()), tiny.model(), groups)


def test_values_and_gradients_by_parts(tiny, groups, by_parts):
    compare(tiny, scoring(tiny, tiny.model()), tiny.model(), groups)


def test_blind_to_each_other_by_parts(tiny25, groups, by_parts):
    """One call for the completions of a group, and still none of them moves another one."""
    test_completions_are_blind_to_each_other(tiny25, groups, 0)


def test_with_features_in_the_place_of_pixels(tiny, groups):
    """The vision tower's output handed in: the same values, and the same gradients of the language model."""
    packed, alone = scoring(tiny, tiny.model()), tiny.model()
    for model in (packed, alone):
        freeze(model, vision=True, merger=True)
    encoded = []
    for group in groups:
        features = None
        if group.pixel_values is not None:
            with torch.no_grad():
                images = packed.model.get_image_features(group.pixel_values, group.image_grid_thw)
            features = torch.cat(images.pooler_output)
        encoded.append(replace(group, features=features))
    assert pack(tiny, packed, encoded).pixel_values is None
    compare(tiny, packed, alone, encoded)


def test_with_a_frozen_vision_tower_and_merger(tiny, groups):
    packed, alone = scoring(tiny, tiny.model()), tiny.model()
    for model in (packed, alone):
        freeze(model, vision=True, merger=True)
    compare(tiny, packed, alone, groups)
    assert not any(name.startswith("model.visual.") for name in gradients(packed))


def with_lora(model):
    """Adapters on every linear layer, vision included, with an update that is not zero."""
    targets = linear_layers(model, vision=True, merger=True)
    wrapped = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    ).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
        elif ".lora_A." in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return wrapped


def test_with_lora(tiny, groups):
    packed, alone = with_lora(tiny.model()), with_lora(tiny.model())
    compare(tiny, scoring(tiny, packed), alone, groups)
    assert all(".lora_" in name for name in gradients(packed))


def test_gradient_checkpointing_changes_nothing(tiny, groups):
    plain, saving = scoring(tiny, tiny.model()), scoring(tiny, tiny.model())
    saving.gradient_checkpointing_enable()
    results = []
    for model in (plain, saving):
        model.train()
        scores = score_groups(model, pack(tiny, model, groups))
        (scores.logps * torch.arange(scores.logps.shape[1])).sum().backward()
        results.append((scores.logps.detach(), gradients(model)))
    assert torch.equal(results[0][0], results[1][0])
    assert_same_gradients(results[1][1], results[0][1], 1e-6)


def test_gradient_checkpointing_by_parts(tiny25, groups_of_tiny25, by_parts):
    test_gradient_checkpointing_changes_nothing(tiny25, groups_of_tiny25)


def test_padding_other_groups_and_their_order_do_not_matter(tiny, groups):
    model = scoring(tiny, tiny.model())
    with torch.no_grad():
        together = score_groups(model, pack(tiny, model, groups[::-1])).logps
        alone = [score_groups(model, pack(tiny, model, [group])).logps for group in groups[::-1]]
    rows = iter(together)
    for part in alone:
        for row in part:
            torch.testing.assert_close(next(rows)[: len(row)], row, rtol=1e-5, atol=1e-5)


def perturbed(group, victim):
    """The group with every token of one completion replaced by its successor."""
    completions = [list(completion) for completion in group.completions]
    completions[victim] = [token + 1 if token < 200 else 65 for token in completions[victim]]
    return Group(group.prompt_ids, completions, group.pixel_values, group.image_grid_thw)


@pytest.mark.parametrize("victim", [0, 2])
def test_completions_are_blind_to_each_other(tiny, groups, victim):
    """Another first or middle completion leaves the log-probabilities of the others as they are, bit for bit."""
    model = scoring(tiny, tiny.model())
    others = [index for index in range(4) if index != victim]
    with torch.no_grad():
        before = score_groups(model, pack(tiny, model, groups[:1])).logps
        changed = [perturbed(groups[0], victim)]
        after = score_groups(model, pack(tiny, model, changed)).logps
    assert torch.equal(before[others], after[others])
    assert (before[victim] - after[victim]).abs().max() > 0.1


def test_a_causal_mask_alone_would_not_do(tiny25, samples, monkeypatch):
    """The test above can fail: with nothing but causality the later completions see the earlier ones."""
    (prompt,) = tiny25.encode(samples[:1])
    group = Group(
        prompt.ids, [tiny25.ids("476.0"), tiny25.ids("12")], prompt.pixel_values, prompt.image_grid_thw
    )

    monkeypatch.setattr(
        GroupLayout, "segments", lambda layout, length: torch.zeros(1, length, dtype=torch.long)
    )
    model = scoring(tiny25, tiny25.model())
    with torch.no_grad():
        before = score_groups(model, pack(tiny25, model, [group])).logps
        after = score_groups(model, pack(tiny25, model, [perturbed(group, 0)])).logps
    assert (before[1] - after[1]).abs().max() > 1e-3


def test_no_gradient_flows_between_completions(tiny, groups):
    """A completion's log-probability depends on the embeddings of its prompt and of itself, and on no other."""
    model = scoring(tiny, tiny.model())
    packed = pack(tiny, model, groups[:1])
    kept = []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)

    model.get_input_embeddings().register_forward_hook(keep)
    score_groups(model, packed).logps[1:3].sum().backward()
    influence = kept[0].grad[0].abs().sum(-1)  # (L,)
    segments = packed.layout.segments(packed.input_ids.shape[1])[0]
    assert not influence[(segments == 1) | (segments == 4)].any()
    for own in (2, 3):
        assert (influence[segments == own] > 0).all()
    text = (segments == 0) & (packed.input_ids[0] != model.config.image_token_id)
    assert (influence[text] > 0).all()


def test_banned_tokens_have_no_probability_and_the_rest_renormalises():
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30, bias=False)
    hidden = torch.randn(1, 8)
    everything = torch.arange(30)
    logps, entropies = score_tokens(head, hidden.expand(30, 8), everything, [4, 17], 0.7)
    probabilities = logps.exp()
    assert probabilities[[4, 17]].tolist() == [0.0, 0.0]
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-6)
    # the others keep their proportions: softmax over the rest
    rest = torch.tensor([token for token in range(30) if token not in (4, 17)])
    expected = torch.softmax(head(hidden)[0, rest] / 0.7, dim=-1)
    torch.testing.assert_close(probabilities[rest], expected)
    entropy = -(expected * expected.log()).sum()
    torch.testing.assert_close(entropies, entropy.expand(30))


def test_the_gradient_of_a_banned_token_is_zero_not_nan():
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30, bias=False)
    hidden = torch.randn(5, 8, requires_grad=True)
    logps, entropies = score_tokens(head, hidden, torch.arange(5), [29], 1.0)
    logps.sum().backward()
    assert torch.isfinite(hidden.grad).all()
    assert not head.weight.grad[29].any()
    assert head.weight.grad[:29].any(1).all()
    assert not entropies.requires_grad


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30, bias=False)
    hidden, targets = torch.randn(6, 8), torch.arange(6)
    logps, entropies = score_tokens(head, hidden, targets, [], temperature)
    distribution = torch.distributions.Categorical(logits=head(hidden) / temperature)
    torch.testing.assert_close(logps, distribution.log_prob(targets))
    torch.testing.assert_close(entropies, distribution.entropy())


def test_chunks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30)
    results = []
    for chunk in (1024, 3):
        monkeypatch.setattr(policy, "CHUNK_LOGITS", 30 * chunk)
        head.zero_grad()
        hidden = torch.linspace(-1, 1, 80).reshape(10, 8).requires_grad_()
        logps, entropies = score_tokens(head, hidden, torch.arange(10), [4], 0.9)
        (logps * torch.arange(10)).sum().backward()
        results.append((logps, entropies, hidden.grad, head.weight.grad.clone(), head.bias.grad.clone()))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_ordinary_calls_stay_as_they_were(tiny25):
    """Logits and `generate` of a model that can score are those of the model before."""
    plain, taught = tiny25.model(), scoring(tiny25, tiny25.model())
    ids = torch.tensor([tiny25.ids("Read this")])
    mask = torch.ones_like(ids)
    assert torch.equal(
        taught(input_ids=ids, attention_mask=mask).logits, plain(input_ids=ids, attention_mask=mask).logits
    )
    settings = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(taught.generate(ids, **settings), plain.generate(ids, **settings))


def test_half_precision_stays_near_full(tiny25, samples):
    """bfloat16 weights: log-probabilities are computed in float32 from the head on, so they stay within rounding."""
    prompts = tiny25.encode(samples)
    groups = [
        Group(p.ids, [tiny25.ids("<answer>4</answer>")], p.pixel_values, p.image_grid_thw) for p in prompts
    ]
    full, half = scoring(tiny25, tiny25.model()), scoring(tiny25, tiny25.model().to(torch.bfloat16))
    with torch.no_grad():
        exact = score_groups(full, pack(tiny25, full, groups)).logps
        rough = score_groups(half, pack(tiny25, half, groups)).logps
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.05


@pytest.mark.parametrize("long_row", [0, 10**6], ids=["by parts", "one mask"])
def test_autocast_stays_near_full(tiny25, groups_of_tiny25, monkeypatch, long_row):
    """Weights in float32, computed in bfloat16, as `bf16: true` trains."""
    monkeypatch.setattr(group_attention, "LONG_ROW", long_row)
    model = scoring(tiny25, tiny25.model())
    packed = pack(tiny25, model, groups_of_tiny25)
    exact = score_groups(model, packed).logps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = score_groups(model, packed).logps
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.05
    rough.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
