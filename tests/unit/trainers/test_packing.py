"""How groups are laid out in rows: ids, segments, positions, masks, by hand and against transformers' positions."""

from dataclasses import replace

import pytest
import torch

from glyphrl.trainers.packing import Group, pack_groups, split_by_length
from glyphrl.trainers.policy import rope_index_of

PAD = 0


def count_up(ids, grids):
    """Positions of plain text: 0, 1, 2, ... on all three axes."""
    return torch.arange(ids.shape[1]).expand(3, 1, -1)


def test_layout_by_hand():
    packed = pack_groups(
        [
            Group([5, 6, 7], [[11, 12], [21], [31, 32, 33]], None, None),
            Group([8], [[41, 42], [51]], None, None),
        ],
        count_up,
        PAD,
    )
    # prompt without its last token; then for each completion that token, and the completion without its own last
    assert packed.input_ids.tolist() == [[5, 6, 7, 11, 7, 7, 31, 32], [8, 41, 8, 0, 0, 0, 0, 0]]
    assert packed.layout.segments(8).tolist() == [[0, 0, 1, 1, 2, 3, 3, 3], [1, 1, 2, -1, -1, -1, -1, -1]]
    assert packed.position_ids[0].tolist() == [[0, 1, 2, 3, 2, 2, 3, 4], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert torch.equal(packed.position_ids[0], packed.position_ids[1])
    assert packed.lengths == [2, 1, 3, 2, 1]
    assert packed.targets.tolist() == [11, 12, 21, 31, 32, 33, 41, 42, 51]
    assert packed.scored.tolist() == [[0, k] for k in (2, 3, 4, 5, 6, 7)] + [[1, 0], [1, 1], [1, 2]]


def test_positions_are_those_of_each_sequence_alone(tiny, samples):
    """M-RoPE positions of prompt plus completion, as transformers computes them for the whole sequence."""
    model = tiny.model()
    rope_index = rope_index_of(model)
    prompts = tiny.encode(samples)
    completions = [[65, 66, 67, 68], [70], [71, 72]]
    groups = [Group(p.ids, completions, p.pixel_values, p.image_grid_thw) for p in prompts]
    packed = pack_groups(groups, rope_index, PAD)
    segments = packed.layout.segments(packed.input_ids.shape[1])
    for row, prompt in enumerate(prompts):
        for number, completion in enumerate(completions, start=1):
            ids = torch.tensor([prompt.ids + completion])
            kinds = (ids == model.config.image_token_id).int()
            alone, _ = model.model.get_rope_index(
                ids, mm_token_type_ids=kinds, image_grid_thw=prompt.image_grid_thw
            )
            seen = (segments[row] == 0) | (segments[row] == number)
            # everything but the last token, which predicts nothing
            assert torch.equal(packed.position_ids[:, row, seen], alone[:, 0, :-1])
            assert torch.equal(packed.input_ids[row, seen], ids[0, :-1])


def test_pixels_follow_the_order_of_the_groups(tiny25, samples):
    prompts = tiny25.encode(samples)
    groups = [Group(p.ids, [[65]], p.pixel_values, p.image_grid_thw) for p in prompts]
    packed = pack_groups(groups, rope_index_of(tiny25.model()), PAD)
    with_images = [p for p in prompts if p.images]
    assert torch.equal(packed.pixel_values, torch.cat([p.pixel_values for p in with_images]))
    assert torch.equal(packed.image_grid_thw, torch.cat([p.image_grid_thw for p in with_images]))
    without = pack_groups([groups[2]], rope_index_of(tiny25.model()), PAD)
    assert (without.pixel_values, without.image_grid_thw) == (None, None)


def test_moving_keeps_everything_else():
    packed = pack_groups([Group([5, 6], [[1, 2], [3]], None, None)], count_up, PAD)
    moved = packed.to(torch.device("meta"))
    assert moved.lengths == packed.lengths
    assert moved.pixel_values is None
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert {value.device.type for value in tensors} == {"meta"}
    assert len(tensors) == 4
    assert moved.layout == packed.layout


def test_features_replace_pixels(tiny25, samples):
    prompts = tiny25.encode(samples)
    rope_index = rope_index_of(tiny25.model())
    groups = [
        Group(p.ids, [[65]], p.pixel_values, p.image_grid_thw, torch.full((2, 3), float(number)))
        for number, p in enumerate(prompts)
        if p.images
    ]
    packed = pack_groups(groups, rope_index, PAD)
    assert packed.features.shape == (6, 3)
    assert packed.features[:, 0].tolist() == [0, 0, 1, 1, 3, 3]
    assert (packed.pixel_values, packed.image_grid_thw) == (None, None)
    with pytest.raises(ValueError, match="encoded images and others pixels"):
        pack_groups([groups[0], replace(groups[1], features=None)], rope_index, PAD)


def test_empty_parts_are_refused():
    with pytest.raises(ValueError, match="prompt of at least one token"):
        Group([], [[1]], None, None)
    with pytest.raises(ValueError, match="completion has no token"):
        Group([1], [[1], []], None, None)


def test_split_by_length():
    split = split_by_length(torch.tensor([1.0, 2.0, 3.0, 4.0]), [1, 3])
    assert split.tolist() == [[1.0, 0.0, 0.0], [2.0, 3.0, 4.0]]
