"""What a rollout must never do: emit image tokens, touch base weights, or process a group's image more than once.

Each test of a safeguard also shows what happens without it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from rollout_bench import (
    AGREE,
    CASES,
    GREEDY,
    MIXED,
    SAMPLING,
    SETTINGS,
    WRONG,
    Bench,
    enliven,
    report,
)

from glyphrl.config_schema import LoraSettings, ModelConfig
from glyphrl.trainers import vllm_engine
from glyphrl.trainers.models import load_base_model, lora_config
from glyphrl.trainers.prompts import banned_token_ids, image_token_id
from glyphrl.trainers.rollout import Rollout, TransformersBackend
from glyphrl.trainers.weights import named_policy_weights

pytestmark = pytest.mark.slow


# -- 2. image tokens are never sampled -----------------------------------------------------------------------------


@pytest.fixture
def eager(bench) -> Any:
    """A model whose favourite tokens are those that stand for images and videos."""
    model = bench.model(seed=2)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        for token in banned_token_ids(bench.processor.tokenizer):
            head[token] *= 100.0  # logits of +-300, so one of them wins at about three positions in four
    return model


def emitted(bench: Bench, sampled: Sequence[list[Rollout]]) -> set[int]:
    """Which image and video tokens were sampled."""
    banned = set(banned_token_ids(bench.processor.tokenizer))
    return banned & {token for group in sampled for rollout in group for token in rollout.token_ids}


@pytest.mark.parametrize("sampling", [SAMPLING, GREEDY], ids=["sampled", "greedy"])
def test_vllm_never_samples_an_image_token(bench, eager, sampling, monkeypatch):
    prompts = bench.prompts(MIXED)
    bench.backend.sync(eager)
    sampled = bench.backend.sample(prompts, 4 if sampling is SAMPLING else 1, sampling)
    assert not emitted(bench, sampled)
    if sampling is SAMPLING:  # the trainer leaves them out of the distribution as well
        assert bench.difference(eager, prompts, sampled) < AGREE
    monkeypatch.setattr(vllm_engine, "BANNED_WORDS", [])
    one_token = dataclasses.replace(sampling, max_tokens=1)
    assert emitted(bench, bench.backend.sample(prompts, 1, one_token))


@pytest.mark.parametrize("sampling", [SAMPLING, GREEDY], ids=["sampled", "greedy"])
def test_transformers_never_samples_an_image_token(bench, eager, sampling, monkeypatch):
    prompts = bench.prompts(MIXED)
    backend = TransformersBackend(eager, bench.processor)
    assert not emitted(bench, backend.sample(prompts, 4 if sampling is SAMPLING else 1, sampling))
    monkeypatch.setattr("glyphrl.trainers.rollout.banned_token_ids", lambda tokenizer: None)
    one_token = dataclasses.replace(sampling, max_tokens=1)
    assert emitted(bench, backend.sample(prompts, 1, one_token))


def test_a_sampled_image_token_would_break_the_next_forward_pass(bench):
    (prompt,) = bench.prompts(CASES["one image"])
    completion = Rollout([image_token_id(bench.processor), 5], None, "length")
    with pytest.raises(ValueError, match=r"[Ii]mage features and image tokens do not match"):
        bench.trainer_logps(bench.model(seed=2), [prompt], [[completion]])


# -- 4. adapters ---------------------------------------------------------------------------------------------------


def checksum(named: Iterator[tuple[str, torch.Tensor]]) -> str:
    """Hash of names and bits."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(name.encode() + tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def base_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights under the adapters."""
    return ((name, p) for name, p in model.get_base_model().named_parameters() if ".lora_" not in name)


def with_adapter(model: Any, *, vision: bool) -> Any:
    """A PEFT model whose adapters change the output much."""
    from peft import get_peft_model

    settings = ModelConfig(path="-", freeze_vision=not vision, freeze_merger=not vision)
    wrapped = get_peft_model(model, lora_config(model, LoraSettings(r=4, alpha=8), settings))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0.0, 0.3, generator=generator)
    return wrapped


@pytest.mark.parametrize("vision", [False, True], ids=["language model", "all parts"])
def test_an_adapter_reaches_the_engine_and_leaves_its_base_alone(bench, vision):
    plain, prompts = bench.model(seed=2), bench.prompts(MIXED)
    adapted = with_adapter(copy_of(bench, plain), vision=vision)
    before = checksum(base_weights(adapted))
    for _ in range(3):
        bench.backend.sync(adapted)
    found = bench.compare(adapted, prompts)
    report("adapter", found)
    assert found < AGREE
    assert bench.compare(plain, prompts) > WRONG  # the adapter does change what is sampled
    assert checksum(base_weights(adapted)) == before


def copy_of(bench: Bench, model: Any) -> Any:
    """Another model with the same weights (a copied one would keep calling the original's forward)."""
    twin = bench.model(seed=2)
    twin.load_state_dict(model.state_dict())
    return twin


def test_merging_in_place_would_change_bfloat16_base_weights(bench):
    settings = dataclasses.replace(SETTINGS, dtype="bfloat16")
    model = with_adapter(enliven(load_base_model(str(bench.path), settings, cpu=True), seed=2), vision=False)
    before = checksum(base_weights(model))
    merged = {name: tensor.clone() for name, tensor in named_policy_weights(model)}
    assert checksum(base_weights(model)) == before
    plain = load_base_model(str(bench.path), settings, cpu=True)
    assert plain.load_state_dict(merged, strict=False).unexpected_keys == []
    model.merge_adapter()  # TRL's stock way: into the base and out again at every sync
    model.unmerge_adapter()
    assert checksum(base_weights(model)) != before


# -- 5. one request a sample ---------------------------------------------------------------------------------------


@contextmanager
def recorded(owner: Any, name: str) -> Iterator[list[tuple[Any, ...]]]:
    """Arguments of the calls of a method."""
    calls: list[tuple[Any, ...]] = []
    original: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append((*args, copy.copy(kwargs)))
        return original(*args, **kwargs)

    setattr(owner, name, call)
    try:
        yield calls
    finally:
        delattr(owner, name)


def test_a_group_is_one_request_whose_images_are_encoded_once(bench):
    model, prompts = bench.model(seed=2), bench.prompts(MIXED)
    bench.backend.sync(model)
    runner = bench.backend.llm.llm_engine.model_executor.driver_worker.model_runner
    with (
        recorded(bench.backend.llm, "generate") as generated,
        recorded(runner.get_model(), "embed_multimodal") as encoded,
    ):
        sampled = bench.backend.sample(prompts, 6, SAMPLING)
    assert [len(group) for group in sampled] == [6] * len(prompts)
    ((requests, params, _),) = generated
    assert len(requests) == len(prompts)
    assert params.n == 6
    images = [tuple(grid) for call in encoded for grid in call[-1]["image_grid_thw"].tolist()]
    expected = [tuple(grid) for p in prompts if p.images for grid in p.image_grid_thw.tolist()]
    assert sorted(images) == sorted(expected)
    assert len({tuple(r.token_ids) for r in sampled[0]}) > 1  # and yet the completions of a group differ


def test_an_engine_starts_beside_numba(monkeypatch):
    """When the first half fails, vLLM has mended it, and `tolerate_foreign_objects` can go."""
    pytest.importorskip("llvmlite.binding.ffi")
    from vllm.platforms import current_platform
    from vllm.triton_utils import dispatcher

    if not current_platform.is_cpu():
        pytest.skip("vLLM replaces its kernels on a CPU only")
    monkeypatch.setattr(dispatcher, "vars", vars, raising=False)
    with pytest.raises(AttributeError, match="get"):
        dispatcher._rebind_kernels([])
    vllm_engine.tolerate_foreign_objects()
    dispatcher._rebind_kernels([])
