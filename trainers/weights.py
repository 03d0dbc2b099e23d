"""The weights of a policy under the names of its checkpoint, for a sampler to take over.

LoRA is merged out of place, one weight at a time: the base weights themselves are never written, so they are
bit-identical before and after a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from glyphrl.errors import UserError


def named_policy_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight that an ordinary checkpoint of the policy would hold, adapters merged into copies.

    Args:
        model: A transformers model, plain or wrapped by PEFT (not by DDP or DeepSpeed: unwrap it first).

    Raises:
        UserError: An adapter is of a kind that cannot be merged out of place.
    """
    if not hasattr(model, "peft_config"):
        for name, parameter in model.named_parameters():
            yield name, parameter.detach()
        return
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    layers = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    for name, parameter in base.named_parameters():
        plain = _plain_name(name)
        if plain is None:
            continue
        owner, _, attribute = name.rpartition(".base_layer.")
        if owner in layers and attribute == "weight":
            yield plain, merged_weight(layers[owner], owner)
        else:
            yield plain, parameter.detach()


def _plain_name(name: str) -> str | None:
    """The checkpoint's name of a parameter of a model with adapters; None for what a checkpoint does not hold."""
    if ".lora_" in name or ".original_module." in name:
        return None
    for active in (".modules_to_save.default.", ".base_layer."):
        name = name.replace(active, ".")
    return name


@torch.no_grad()
def merged_weight(layer: Any, name: str) -> torch.Tensor:
    """Base weight plus the active adapters' update, in a new tensor of the base weight's type.

    The sum is formed in float32 and rounded once.
    """
    weight = layer.get_base_layer().weight
    if any(layer.use_dora.get(adapter, False) for adapter in layer.active_adapters):
        raise UserError(
            f"the adapter of {name} is a DoRA adapter, which cannot be merged out of place; use LoRA"
        )
    merged = weight.detach().float()
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            merged = merged + layer.get_delta_weight(adapter).float()
    return merged.to(weight.dtype)
