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

from glyphrl.trainers.group_attention import GroupLayout, RowLayout

# (input ids (1, P), grids) -> M-RoPE positions (3, 1, P), as `Model.get_rope_index` computes them
RopeIndex = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Group:
    """A prompt and its completions."""

    prompt_ids: list[int]
    completions: list[list[int]]
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None
    features: torch.Tensor | None = None
    """(image tokens, hidden size) where the vision tower has encoded the images already; no pixels are needed then."""

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("a group needs a prompt of at least one token")
        if any(not completion for completion in self.completions):
            raise ValueError("a completion has no token; the end-of-sequence token counts as one")

    @property
    def length(self) -> int:
        """Positions of the group's row."""
        return len(self.prompt_ids) - 1 + sum(map(len, self.completions))


@dataclass(frozen=True)
class PackedGroups:
    """Groups as the rows of one batch. R rows, L positions, C completions in the order of groups and completions."""

    input_ids: torch.Tensor
    """(R, L)"""
    position_ids: torch.Tensor
    """(3, R, L)"""
    layout: GroupLayout
    """What stands where in the rows: who may see whom."""
    scored: torch.Tensor
    """(N, 2): row and position whose output predicts a completion token, completion by completion."""
    targets: torch.Tensor
    """(N,): the token predicted there."""
    lengths: list[int]
    """Tokens of each completion; they sum to N."""
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None
    features: torch.Tensor | None = None
    """(image tokens of all rows, hidden size) in the place of pixels."""

    def to(self, device: torch.device) -> PackedGroups:
        """The same groups on another device."""
        move = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return PackedGroups(**{**vars(self), **move})


def pack_groups(groups: Sequence[Group], rope_index: RopeIndex, pad_token_id: int) -> PackedGroups:
    """Lays groups out as rows, padded on the right to the longest."""
    longest = max(group.length for group in groups)
    input_ids = torch.full((len(groups), longest), pad_token_id)
    position_ids = torch.zeros((3, len(groups), longest), dtype=torch.long)
    rows = []
    scored: list[tuple[int, int]] = []
    for row, group in enumerate(groups):
        ids, positions = _row(group, rope_index)
        input_ids[row, : len(ids)] = torch.tensor(ids)
        position_ids[:, row, : len(ids)] = positions
        prompt = len(group.prompt_ids) - 1
        rows.append(RowLayout(prompt, tuple(map(len, group.completions))))
        scored.extend((row, position) for position in range(prompt, group.length))
    pixels = [g.pixel_values for g in groups if g.pixel_values is not None and g.features is None]
    grids = [g.image_grid_thw for g in groups if g.image_grid_thw is not None and g.features is None]
    features = [group.features for group in groups if group.features is not None]
    if features and pixels:
        raise ValueError("some groups of a batch bring encoded images and others pixels")
    return PackedGroups(
        input_ids=input_ids,
        position_ids=position_ids,
        layout=GroupLayout(tuple(rows)),
        scored=torch.tensor(scored),
        targets=torch.tensor([token for group in groups for ids in group.completions for token in ids]),
        lengths=[len(completion) for group in groups for completion in group.completions],
        pixel_values=torch.cat(pixels) if pixels else None,
        image_grid_thw=torch.cat(grids) if grids else None,
        features=torch.cat(features) if features else None,
    )


def _row(group: Group, rope_index: RopeIndex) -> tuple[list[int], torch.Tensor]:
    """Ids (L) and positions (3, L) of one group."""
    prompt = group.prompt_ids
    prompt_positions = rope_index(torch.tensor([prompt]), group.image_grid_thw)[:, 0]
    last = prompt_positions[:, -1:]
    ids = list(prompt[:-1])
    positions = [prompt_positions[:, :-1]]
    for completion in group.completions:
        ids.extend([prompt[-1], *completion[:-1]])
        # The prompt ends in text, whose three axes agree, so completion tokens simply count on from there.
        positions.append(last + torch.arange(len(completion)))
    return ids, torch.cat(positions, dim=1)


def split_by_length(values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """(N,) values of completions one after the other -> (C, longest), zero where a completion has ended."""
    return torch.nn.utils.rnn.pad_sequence(list(torch.split(values, list(lengths))), batch_first=True)
