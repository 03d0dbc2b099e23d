"""A group as one sequence: the prompt once, then every completion, each blind to the others.

A row holds `prompt[:-1]` followed by one segment per completion. A segment starts with a copy of the prompt's last
token and goes on with the completion without its last token, so that the k-th position of a segment predicts the
completion's k-th token. A segment sees the prompt and itself, and has the positions that it would have had alone:
log-probabilities and gradients are those of `num_generations` separate sequences, while image and prompt are
computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

PROMPT_SEGMENT = 0
PADDING_SEGMENT = -1

# (input ids (1, P), grids) -> M-RoPE positions (3, 1, P), as `Model.get_rope_index` computes them
RopeIndex = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Group:
    """A prompt and its completions."""

    prompt_ids: list[int]
    completions: list[list[int]]
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("a group needs a prompt of at least one token")
        if any(not completion for completion in self.completions):
            raise ValueError("a completion has no token; the end-of-sequence token counts as one")


@dataclass(frozen=True)
class PackedGroups:
    """Groups as the rows of one batch. R rows, L positions, C completions in the order of groups and completions."""

    input_ids: torch.Tensor
    """(R, L)"""
    position_ids: torch.Tensor
    """(3, R, L)"""
    segments: torch.Tensor
    """(R, L): 0 for the prompt, 1.. for completions, -1 for padding."""
    scored: torch.Tensor
    """(N, 2): row and position whose output predicts a completion token, completion by completion."""
    targets: torch.Tensor
    """(N,): the token predicted there."""
    lengths: list[int]
    """Tokens of each completion; they sum to N."""
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None

    def to(self, device: torch.device) -> PackedGroups:
        """The same groups on another device."""
        move = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return PackedGroups(**{**vars(self), **move})


def pack_groups(groups: Sequence[Group], rope_index: RopeIndex, pad_token_id: int) -> PackedGroups:
    """Lays groups out as rows, padded on the right to the longest."""
    rows, positions, segments = [], [], []
    scored: list[tuple[int, int]] = []
    targets: list[int] = []
    lengths: list[int] = []
    for row, group in enumerate(groups):
        ids, position, segment = _row(group, rope_index)
        rows.append(ids)
        positions.append(position)
        segments.append(segment)
        start = len(group.prompt_ids) - 1
        for completion in group.completions:
            scored.extend((row, start + k) for k in range(len(completion)))
            targets.extend(completion)
            lengths.append(len(completion))
            start += len(completion)
    longest = max(len(ids) for ids in rows)
    input_ids = torch.full((len(rows), longest), pad_token_id)
    position_ids = torch.zeros((3, len(rows), longest), dtype=torch.long)
    segment_ids = torch.full((len(rows), longest), PADDING_SEGMENT)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        position_ids[:, row, : len(ids)] = positions[row]
        segment_ids[row, : len(ids)] = torch.tensor(segments[row])
    pixels = [group.pixel_values for group in groups if group.pixel_values is not None]
    grids = [group.image_grid_thw for group in groups if group.image_grid_thw is not None]
    return PackedGroups(
        input_ids=input_ids,
        position_ids=position_ids,
        segments=segment_ids,
        scored=torch.tensor(scored),
        targets=torch.tensor(targets),
        lengths=lengths,
        pixel_values=torch.cat(pixels) if pixels else None,
        image_grid_thw=torch.cat(grids) if grids else None,
    )


def _row(group: Group, rope_index: RopeIndex) -> tuple[list[int], torch.Tensor, list[int]]:
    """Ids (L), positions (3, L) and segments (L) of one group."""
    prompt = group.prompt_ids
    prompt_positions = rope_index(torch.tensor([prompt]), group.image_grid_thw)[:, 0]
    last = prompt_positions[:, -1:]
    ids = list(prompt[:-1])
    positions = [prompt_positions[:, :-1]]
    segments = [PROMPT_SEGMENT] * len(ids)
    for number, completion in enumerate(group.completions, start=1):
        ids.extend([prompt[-1], *completion[:-1]])
        # The prompt ends in text, whose three axes agree, so completion tokens simply count on from there.
        positions.append(last + torch.arange(len(completion)))
        segments.extend([number] * len(completion))
    return ids, torch.cat(positions, dim=1), segments


def attention_mask(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask (R, 1, L, L): a position sees earlier positions of the prompt and of its own segment.

    Padding sees itself, so that no row of the softmax is empty.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = causal & ((key == PROMPT_SEGMENT) | (query == key))
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def split_by_length(values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """(N,) values of completions one after the other -> (C, longest), zero where a completion has ended."""
    return torch.nn.utils.rnn.pad_sequence(list(torch.split(values, list(lengths))), batch_first=True)
