"""Attention within packed groups: a prompt sees itself, a completion sees the prompt and itself, never another one.

Two ways to the same numbers. `one mask` puts whole rows through one kernel with a mask of (L, L), which suits many
short rows. `by parts` runs the prompt causally and its completions as a batch whose keys begin with the prompt's: work
and memory grow with P² + ΣC·(P + C) instead of (P + ΣC)², and no (L, L) mask exists, which suits long rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PREFIX = "groups_"
LONG_ROW = 512  # positions from which a row is computed by parts


@dataclass(frozen=True)
class RowLayout:
    """What stands where in a row: `prompt` positions, then completions one after the other, then padding."""

    prompt: int
    completions: tuple[int, ...]

    @property
    def length(self) -> int:
        """Positions that are in use."""
        return self.prompt + sum(self.completions)


@dataclass
class GroupLayout:
    """The rows of a batch of packed groups; it travels through the model in the place of an attention mask."""

    rows: tuple[RowLayout, ...]
    masks: dict[tuple[int, torch.device], torch.Tensor] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Masks made so far, by length: every layer uses the same one."""

    def segments(self, length: int) -> torch.Tensor:
        """(R, L): 0 for the prompt, 1.. for completions, -1 for padding."""
        segments = torch.full((len(self.rows), length), -1)
        for row, layout in zip(segments, self.rows, strict=True):
            counts = torch.tensor([layout.prompt, *layout.completions])
            row[: layout.length] = torch.arange(len(counts)).repeat_interleave(counts)
        return segments

    def mask(self, length: int, device: torch.device) -> torch.Tensor:
        """(R, 1, L, L) bool: which positions each position sees. Padding sees itself, so that no row is empty."""
        key = (length, device)
        if key not in self.masks:
            segments = self.segments(length).to(device)
            seen = (segments[:, None, :] == 0) | (segments[:, :, None] == segments[:, None, :])
            self.masks[key] = seen.tril()[:, None]
        return self.masks[key]


def use_group_attention(text_model: Any) -> None:
    """Lets the layers of a language model take a `GroupLayout` as their mask; all other masks work as before.

    Args:
        text_model: The language model inside a Qwen2-VL or Qwen2.5-VL model.
    """
    name = text_model.config._attn_implementation
    if name.startswith(PREFIX):
        return
    AttentionInterface.register(
        PREFIX + name, functools.partial(_attend, ALL_ATTENTION_FUNCTIONS.get(name), name)
    )
    AttentionMaskInterface.register(PREFIX + name, ALL_MASK_ATTENTION_FUNCTIONS[name])
    text_model.config._attn_implementation = PREFIX + name


def _attend(
    ordinary: Callable[..., Any] | None,
    name: str,
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The layers' attention function: (R, heads, L, D) in, (R, L, heads, D) out, as transformers has it."""
    if not isinstance(attention_mask, GroupLayout):
        if ordinary is None:  # the eager one is no entry of the table but a function of the model's own file
            import sys

            ordinary = sys.modules[type(module).__module__].eager_attention_forward
        return ordinary(module, query, key, value, attention_mask, **arguments)
    repeats = module.num_key_value_groups
    key, value = repeat_kv(key, repeats), repeat_kv(value, repeats)
    scale, dropout = arguments.get("scaling"), arguments.get("dropout", 0.0)
    attended = attend_groups(query, key, value, attention_mask, scale=scale, dropout=dropout)
    return attended.transpose(1, 2).contiguous(), None


def attend_groups(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: GroupLayout,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Attention of packed groups.

    Args:
        query: (R, heads, L, D).
        key: Likewise.
        value: Likewise.
        layout: What stands in the R rows.
        scale: Factor on the scores; None: 1 / sqrt(D).
        dropout: Probability of leaving out a weight.

    Returns:
        (R, heads, L, D); what stands at padding means nothing.
    """
    length = query.shape[2]
    # under autocast the rotary embedding has made the first two float32 again
    query, key = query.to(value.dtype), key.to(value.dtype)
    if length < LONG_ROW:
        mask = layout.mask(length, query.device)
        return scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    rows = [
        _attend_row(query[[row]], key[[row]], value[[row]], layout.rows[row], scale, dropout)
        for row in range(len(query))
    ]
    return torch.cat(rows)


def _attend_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: RowLayout,
    scale: float | None,
    dropout: float,
) -> torch.Tensor:
    """One row, (1, heads, L, D), by parts."""
    prompt, end = row.prompt, row.length
    parts = []
    if prompt:
        first, keys, values = (tensor[:, :, :prompt] for tensor in (query, key, value))
        parts.append(
            scaled_dot_product_attention(first, keys, values, None, dropout, is_causal=True, scale=scale)
        )
    if row.completions:
        longest = max(row.completions)
        tail = [
            as_batch(tensor[0, :, prompt:end], row.completions, longest) for tensor in (query, key, value)
        ]
        keys, values = (
            torch.cat([whole[:, :, :prompt].expand(len(row.completions), -1, -1, -1), own], dim=2)
            for whole, own in zip((key, value), tail[1:], strict=True)
        )
        bias = causal_lower_right(longest, prompt + longest)
        attended = scaled_dot_product_attention(tail[0], keys, values, bias, dropout, scale=scale)
        parts.append(from_batch(attended, row.completions)[None])
    if end < query.shape[2]:
        parts.append(query[:, :, end:] * 0.0)
    return torch.cat(parts, dim=2)


def as_batch(tensor: torch.Tensor, lengths: Sequence[int], longest: int) -> torch.Tensor:
    """(heads, ΣC, D), completions one after the other -> (G, heads, longest, D), filled up on the right."""
    if all(length == longest for length in lengths):
        return tensor.unflatten(1, (len(lengths), longest)).transpose(0, 1)
    parts = tensor.transpose(0, 1).split(list(lengths))
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True).transpose(1, 2)


def from_batch(tensor: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """(G, heads, longest, D) -> (heads, ΣC, D), without what was filled up."""
    if all(length == tensor.shape[2] for length in lengths):
        return tensor.transpose(0, 1).flatten(1, 2)
    return torch.cat([one[:, :length] for one, length in zip(tensor, lengths, strict=True)], dim=1)
