"""Attention within packed groups: both ways against a plain table of who sees whom."""

import pytest
import torch

from glyphrl.trainers import group_attention
from glyphrl.trainers.group_attention import GroupLayout, RowLayout, as_batch, attend_groups, from_batch

LAYOUTS = {
    "unlike lengths": ((3, (2, 1, 4)), (5, (1,)), (1, (3, 3))),
    "equal lengths": ((4, (2, 2, 2)), (4, (2, 2, 2))),
    "no prompt in front": ((0, (3, 2)),),
    "single tokens": ((6, (1, 1, 1)),),
}


def layout_of(name):
    return GroupLayout(tuple(RowLayout(prompt, completions) for prompt, completions in LAYOUTS[name]))


def tensors(rows, length):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 2, length, 8, generator=generator, requires_grad=True) for _ in range(3)]


def by_hand(query, key, value, layout):
    """Softmax over the positions that each position sees, one position after the other."""
    result = torch.zeros_like(query)
    for row, segments in enumerate(layout.segments(query.shape[2])):
        for at in range(layout.rows[row].length):
            seen = [k for k in range(at + 1) if segments[k] == 0 or segments[k] == segments[at]]
            scores = query[row, :, at] @ key[row, :, seen].transpose(-1, -2) / 8**0.5  # (heads, heads, seen)
            weights = torch.stack([scores[head, head] for head in range(2)]).softmax(-1)
            result[row, :, at] = torch.einsum("hk,hkd->hd", weights, value[row, :, seen])
    return result


def test_the_mask_by_hand():
    layout = GroupLayout((RowLayout(2, (2, 1)),))  # a b; c d; e; padding
    assert layout.segments(6).tolist() == [[0, 0, 1, 1, 2, -1]]
    assert layout.mask(6, torch.device("cpu"))[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],  # blind to the first completion
        [1, 1, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("way", ["one mask", "by parts"])
def test_values_and_gradients(way, name, padding, monkeypatch):
    monkeypatch.setattr(group_attention, "LONG_ROW", 0 if way == "by parts" else 10**6)
    layout = layout_of(name)
    length = max(row.length for row in layout.rows) + padding
    used = torch.zeros(len(layout.rows), 1, length, 1)
    for row, single in enumerate(layout.rows):
        used[row, :, : single.length] = 1
    results = []
    for attend in (attend_groups, by_hand):
        inputs = tensors(len(layout.rows), length)
        output = attend(*inputs, layout) * used
        (output * torch.arange(output.numel()).view_as(output).cos()).sum().backward()
        results.append((output, *(tensor.grad for tensor in inputs)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert torch.isfinite(got).all()


def test_by_parts_makes_no_mask_of_a_whole_row(monkeypatch):
    monkeypatch.setattr(group_attention, "LONG_ROW", 0)
    layout = layout_of("unlike lengths")
    attend_groups(*tensors(3, 10), layout)
    assert layout.masks == {}


def test_all_layers_use_the_same_mask():
    layout = layout_of("equal lengths")
    for _ in range(2):
        attend_groups(*tensors(2, 10), layout)
    assert len(layout.masks) == 1


@pytest.mark.parametrize("lengths", [(2, 2, 2), (1, 3, 2)])
def test_batches_of_completions_and_back(lengths):
    flat = torch.randn(2, 6, 8)
    batch = as_batch(flat, lengths, max(lengths))
    assert batch.shape == (3, 2, max(lengths), 8)
    assert torch.equal(from_batch(batch, lengths), flat)
