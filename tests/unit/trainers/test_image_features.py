"""Encoded images: right, computed once, bounded in memory and on disk."""

import os

import pytest
import torch

from glyphrl.data.images import image_hash
from glyphrl.trainers.image_features import (
    FeatureFolder,
    ImageFeatures,
    tower_fingerprint,
    vision_is_frozen,
)
from glyphrl.trainers.models import freeze


@pytest.fixture
def prompts(tiny25, samples):
    return tiny25.encode(samples)


def hashes_of(samples):
    return {path: image_hash(path) for sample in samples for path in sample.images}


def watched(tiny, **how):
    """A cache and the list of grids that its tower has encoded."""
    model, seen = tiny.model(), []
    model.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(kwargs["grid_thw"].tolist()), with_kwargs=True
    )
    return ImageFeatures(model, **{"memory_bytes": 10**6, **how}), seen


def test_features_are_those_of_the_model(tiny, samples):
    """Also where a sample has several images, and where images repeat."""
    cache, _ = watched(tiny)
    prompts = tiny.encode([*samples, samples[0]])
    found = cache.encode(prompts, hashes_of(samples))
    for prompt, features in zip(prompts, found, strict=True):
        if prompt.pixel_values is None:
            assert features is None
            continue
        with torch.no_grad():
            alone = tiny.model().model.get_image_features(prompt.pixel_values, prompt.image_grid_thw)
        torch.testing.assert_close(features, torch.cat(alone.pooler_output), rtol=1e-5, atol=1e-5)


def test_an_image_is_encoded_once(tiny25, samples, prompts):
    cache, seen = watched(tiny25)
    first = cache.encode([*prompts, prompts[0]], hashes_of(samples))
    again = cache.encode(prompts, hashes_of(samples))
    assert len(seen) == 4
    assert torch.equal(first[1], again[1])


def test_memory_is_bounded_and_the_longest_unused_goes(tiny25, samples, prompts):
    size = 3 * 64 * 4  # the first image: three tokens of 64 float32
    cache, seen = watched(tiny25, memory_bytes=2 * size)
    cache.encode(prompts[:1], hashes_of(samples))
    cache.encode(prompts[:1], hashes_of(samples))
    assert (len(seen), cache.used) == (1, size)
    cache.encode(prompts, hashes_of(samples))
    assert cache.used <= 2 * size
    assert cache.used == sum(features.nbytes for features in cache.memory.values())
    cache.encode(prompts[:1], hashes_of(samples))
    assert len(seen) == 5, "the first one has gone for others"
    nothing, seen = watched(tiny25, memory_bytes=0)
    assert nothing.encode(prompts, hashes_of(samples))[0] is not None
    assert not nothing.memory


def test_on_disk_they_outlive_the_process(tiny25, samples, prompts, tmp_path):
    first, seen = watched(tiny25, disk=FeatureFolder(tmp_path / "a", 10**6))
    expected = first.encode(prompts, hashes_of(samples))
    other, not_seen = watched(tiny25, disk=FeatureFolder(tmp_path / "a", 10**6))
    found = other.encode(prompts, hashes_of(samples))
    assert (len(seen), len(not_seen)) == (4, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True) if a is not None)


def test_the_disk_is_bounded(tmp_path):
    folder = FeatureFolder(tmp_path, 3000)
    for number, name in enumerate("abc"):
        folder.write(name, torch.full((10, 25), float(number)))  # 1,000 bytes and a header
        os.utime(tmp_path / f"{name}.safetensors", (number, number))
    assert folder.read("a").tolist()[0][0] == 0.0  # now the one that was used last
    folder.trim()
    assert folder.read("b") is None
    assert folder.read("a") is not None
    assert folder.read("c") is not None
    folder.write("too large", torch.zeros(1000))
    assert folder.read("too large") is None


def test_a_file_that_was_cut_short_is_as_none(tmp_path):
    folder = FeatureFolder(tmp_path, 10**6)
    folder.write("a", torch.zeros(4))
    path = tmp_path / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert folder.read("a") is None


def test_a_folder_for_each_tower(tiny25, tmp_path):
    model = tiny25.model()
    assert FeatureFolder.of_tower(model, None, 100, ()) is None
    assert FeatureFolder.of_tower(model, tmp_path, 0, ()) is None
    folder = FeatureFolder.of_tower(model, tmp_path, 100, (1,))
    assert folder.folder == tmp_path / tower_fingerprint(model, 1)


def test_frozen_or_not(tiny25):
    model = tiny25.model()
    assert not vision_is_frozen(model)
    freeze(model, vision=True, merger=False)
    assert not vision_is_frozen(model)
    freeze(model, vision=True, merger=True)
    assert vision_is_frozen(model)


def test_another_tower_or_setting_has_another_fingerprint(tinies):
    model = tinies["qwen2_5_vl"].model()
    same = tower_fingerprint(tinies["qwen2_5_vl"].model(), 1)
    assert tower_fingerprint(model, 1) == same
    assert tower_fingerprint(model, 2) != same
    with torch.no_grad():
        next(model.model.visual.parameters()).view(-1)[0] += 1e-3
    assert tower_fingerprint(model, 1) != same
    assert tower_fingerprint(model.to(torch.bfloat16), 1) != same
