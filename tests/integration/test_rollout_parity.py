"""Rollouts come from the policy that is trained: vLLM and the trainer agree on every token, before and after a sync.

Each test of a safeguard also shows what happens without it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from rollout_bench import AGREE, CASES, GREEDY, MIXED, SAMPLING, WRONG, Bench, report

from glyphrl.trainers import vllm_engine
from glyphrl.trainers.rollout import Sampling, TransformersBackend

pytestmark = pytest.mark.slow


# -- the sampler computes what the trainer computes ----------------------------------------------------------------


def test_agree_before_any_sync(bench):
    report("as loaded", bench.at_start)
    assert bench.at_start < AGREE


@pytest.mark.parametrize("case", list(CASES))
def test_agree_after_a_sync(bench, case):
    model, prompts = bench.model(seed=2), bench.prompts(CASES[case])
    bench.backend.sync(model)
    found = bench.compare(model, prompts)
    report(case, found)
    assert found < AGREE
    # these very tokens under other weights: the test would notice a sync that did nothing
    assert bench.compare(bench.model(seed=3), prompts) > WRONG


@pytest.mark.parametrize("shared_bench", ["qwen2_5_vl with a copy"], indirect=True)
def test_agree_where_the_checkpoint_holds_a_copy_of_its_tied_output_layer(bench):
    """The engine takes such a model for untied until the weights are loaded."""
    assert bench.at_start < AGREE
    model, prompts = bench.model(seed=2), bench.prompts(CASES["one image"])
    bench.backend.sync(model)
    found = bench.compare(model, prompts)
    report("tied, with a copy", found)
    assert found < AGREE


def test_agree_at_another_temperature(bench):
    model = bench.model(seed=2, temperature=0.6)
    bench.backend.sync(model)
    prompts = bench.prompts(CASES["one image"])
    sampled = bench.backend.sample(prompts, 8, Sampling(max_tokens=12, temperature=0.6))
    assert bench.difference(model, prompts, sampled) < AGREE


def test_images_decide_the_next_token(bench):
    """Else every comparison of this file would be blind to the image."""
    model, (prompt,) = bench.model(seed=2), bench.prompts(CASES["one image"])
    bench.backend.sync(model)
    sampled = bench.backend.sample([prompt], 4, SAMPLING)
    blank = dataclasses.replace(prompt, pixel_values=torch.zeros_like(prompt.pixel_values))
    assert bench.difference(model, [blank], sampled) > WRONG


def test_greedy_answers_are_those_of_transformers_with_left_padding(bench):
    model, prompts = bench.model(seed=2), bench.prompts(MIXED)
    assert len({len(prompt.ids) for prompt in prompts}) == len(prompts)  # so all but the longest are padded
    bench.backend.sync(model)
    by_vllm = bench.backend.sample(prompts, 1, GREEDY)
    by_transformers = TransformersBackend(model, bench.processor).sample(prompts, 1, GREEDY)
    assert [group[0].token_ids for group in by_vllm] == [group[0].token_ids for group in by_transformers]
    assert len({tuple(group[0].token_ids) for group in by_vllm}) == len(prompts)


# -- 1. ids before expansion ---------------------------------------------------------------------------------------


def test_ids_that_are_expanded_already_are_refused(bench, monkeypatch):
    model, (prompt,) = bench.model(seed=2), bench.prompts(CASES["one image"])
    bench.backend.sync(model)
    assert len(prompt.ids) == len(prompt.raw_ids) + 4  # 140 x 28 pixels are five image tokens
    expanded = dataclasses.replace(prompt, raw_ids=prompt.ids)
    with pytest.raises(
        RuntimeError, match=rf"computed on \d+ prompt tokens, the trainer on {len(prompt.ids)}"
    ):
        bench.backend.sample([expanded], 2, SAMPLING)
    # without the check it would go through, and the samples would be those of another prompt
    monkeypatch.setattr(vllm_engine, "check_expansion", lambda prompt, ids: None)
    found = bench.compare(model, [expanded])
    report("ids expanded twice", found)
    assert found > WRONG


# -- 3. nothing computed with old weights survives a sync ----------------------------------------------------------


def test_a_changed_vision_tower_takes_effect_on_images_seen_before(bench):
    old, prompts = bench.model(seed=2), bench.prompts(MIXED)
    bench.backend.sync(old)
    bench.backend.sample(prompts, 2, SAMPLING)
    new = with_changed_vision(bench, old)
    bench.backend.sync(new)
    found = bench.compare(new, prompts)
    report("same images, new vision tower", found)
    assert found < AGREE


def test_keys_and_values_of_prompts_would_be_stale_without_their_reset(bench, monkeypatch):
    old, prompts = bench.model(seed=2), bench.prompts(MIXED)
    bench.backend.sync(old)
    bench.backend.sample(prompts, 2, SAMPLING)
    new = with_changed_vision(bench, old)
    monkeypatch.setattr(bench.backend, "reset_caches", bench.backend.llm.llm_engine.reset_encoder_cache)
    bench.backend.sync(new)
    found = bench.compare(new, prompts)
    report("stale prefix cache", found)
    assert found > WRONG


def test_the_list_of_encoded_images_would_be_stale_without_its_reset(bench, monkeypatch):
    """A reload drops the encoded images themselves, but vLLM's scheduler goes on believing that they are there."""
    old, prompts = bench.model(seed=2), bench.prompts(MIXED)
    bench.backend.sync(old)
    bench.backend.sample(prompts, 2, SAMPLING)
    engine = bench.backend.llm.llm_engine
    with monkeypatch.context() as patch:
        patch.setattr(bench.backend, "reset_caches", engine.reset_prefix_cache)
        bench.backend.sync(with_changed_vision(bench, old))
    with pytest.raises(RuntimeError, match="Encoder cache miss"):
        bench.backend.sample(prompts, 2, SAMPLING)
    bench.abandon()
    bench.backend.sync(old)
    assert bench.compare(old, prompts) < AGREE


def with_changed_vision(bench: Bench, model: Any) -> Any:
    """A copy whose vision tower and merger have other weights."""
    changed, other = bench.model(seed=2), bench.model(seed=4)
    changed.load_state_dict(model.state_dict())
    changed.model.visual.load_state_dict(other.model.visual.state_dict())
    return changed


def test_the_packed_output_layer_would_be_stale_without_repacking(bench, monkeypatch):
    """On a CPU, vLLM computes tied embeddings' logits on a packed copy, which its reload does not renew."""
    model, prompts = bench.model(seed=2), bench.prompts(CASES["one image"])
    bench.backend.sync(bench.model(seed=3))
    monkeypatch.setattr(vllm_engine, "repack_tied_head", lambda model: None)
    bench.backend.sync(model)
    found = bench.compare(model, prompts)
    report("without repacking", found)
    tied = model.config.tie_word_embeddings
    assert (found > WRONG) if tied else (found < AGREE)
