"""The GRPO objective on log-probabilities: pure functions of tensors, equal to TRL 1.16's `GRPOTrainer._compute_loss`.

Shapes: C completions, T tokens; every tensor is zero or ignored where `mask` is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]


@dataclass(frozen=True)
class LossSettings:
    """What shapes the objective; names and defaults are TRL's."""

    loss_type: LossType = "dapo"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    beta: float = 0.0
    use_bias_correction_kl: bool = True
    importance_sampling_level: Literal["token", "sequence"] = "token"
    max_completion_length: int = 256


@dataclass(frozen=True)
class LossTerms:
    """Per-token loss before it is averaged, with what is worth logging: all (C, T) or (C, 1)."""

    loss: torch.Tensor
    kl: torch.Tensor | None
    clipped_low: torch.Tensor
    clipped_high: torch.Tensor


def token_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    settings: LossSettings,
    *,
    ref_logps: torch.Tensor | None = None,
    sampler_ratio: torch.Tensor | None = None,
) -> LossTerms:
    """The clipped surrogate of each token (PPO; Schulman et al. 2017), with KL to a reference (GRPO; Shao et al. 2024).

    Args:
        logps: (C, T) under the policy.
        old_logps: (C, T) under the policy that the step started from, without gradient.
        advantages: (C,).
        mask: (C, T), 1 for tokens that count.
        settings: Clipping, KL weight and the level of the ratio.
        ref_logps: (C, T) under the reference model; needed where `beta` is not 0.
        sampler_ratio: (C, T) or (C, 1): truncated ratio between trainer and sampler, see `sampler_correction`.
    """
    advantages = advantages[:, None]
    log_ratio = logps - old_logps
    if settings.importance_sampling_level == "sequence":  # GSPO (Zheng et al. 2025)
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1.0))[:, None]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - settings.epsilon_low, 1 + settings.epsilon_high)
    bounded = ratio if settings.delta is None else ratio.clamp(max=settings.delta)
    loss = -torch.min(bounded * advantages, clipped * advantages)
    if sampler_ratio is not None:
        loss = loss * sampler_ratio
    kl = None
    if settings.beta != 0.0:
        if ref_logps is None:
            raise ValueError("beta is not 0 but there are no log-probabilities of a reference model")
        gap = ref_logps - logps
        kl = gap.exp() - gap - 1  # k3 estimator, http://joschu.net/blog/kl-approx.html
        if settings.use_bias_correction_kl:
            kl = (
                kl * ratio
            )  # its gradient is that of the reverse KL (DeepSeek-V3.2, https://arxiv.org/abs/2512.02556)
        loss = loss + settings.beta * kl
    bounded = bounded.detach()
    return LossTerms(
        loss=loss,
        kl=None if kl is None else kl.detach(),
        clipped_low=(bounded < 1 - settings.epsilon_low) & (advantages < 0),
        clipped_high=(bounded > 1 + settings.epsilon_high) & (advantages > 0),
    )


def reduce_loss(
    per_token: torch.Tensor,
    mask: torch.Tensor,
    settings: LossSettings,
    *,
    accumulation_steps: float,
    window_tokens: torch.Tensor | float,
) -> torch.Tensor:
    """One number per micro-batch; summed over a gradient accumulation window it is the step's loss.

    Args:
        per_token: (C, T), or (C, 1) where the ratio is per sequence.
        mask: (C, T).
        settings: `loss_type` chooses the average: `grpo` over the tokens of each completion, then over completions;
            `bnpo` over the micro-batch's tokens; `dr_grpo` (Liu et al. 2025) by a constant; `dapo` (Yu et al. 2025) by
            the tokens of the whole accumulation window on all ranks.
        accumulation_steps: Micro-batches per optimizer step.
        window_tokens: Tokens that count in one accumulation window, per rank on average (`dapo`).
    """
    total = per_token * mask
    if settings.loss_type == "dapo":
        return total.sum() / window_tokens
    if settings.loss_type == "grpo":
        loss = (total.sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    elif settings.loss_type == "bnpo":
        loss = total.sum() / mask.sum().clamp(min=1.0)
    elif settings.loss_type == "dr_grpo":
        loss = total.sum() / (mask.size(0) * settings.max_completion_length)
    else:
        raise ValueError(f"unknown loss_type {settings.loss_type!r}; known: grpo, bnpo, dr_grpo, dapo")
    return loss / accumulation_steps


def sampler_correction(
    logps: torch.Tensor,
    sampler_logps: torch.Tensor,
    mask: torch.Tensor,
    *,
    mode: str,
    clip_min: float | None,
    clip_max: float | None,
) -> torch.Tensor:
    """Ratio between the trainer's and the sampler's probability of what was sampled, truncated or masked.

    Args:
        logps: (C, T) by the trainer, without gradient.
        sampler_logps: (C, T) by the sampler; NaN where it has none (ratio 1 there).
        mask: (C, T).
        mode: `token_truncate`, `token_mask`, `sequence_truncate` or `sequence_mask`, as in TRL.
        clip_min: Lower bound of the ratio.
        clip_max: Upper bound of the ratio.

    Returns:
        (C, T) for the token modes, (C, 1) for the sequence modes.
    """
    difference = torch.nan_to_num((logps - sampler_logps) * mask, nan=0.0)
    level, _, kind = mode.partition("_")
    if level not in ("token", "sequence") or kind not in ("truncate", "mask"):
        raise ValueError(
            f"unknown vllm_importance_sampling_mode {mode!r}; known: token_truncate, token_mask, "
            "sequence_truncate, sequence_mask"
        )
    if level == "sequence":
        difference = difference.sum(-1, keepdim=True)
    ratio = difference.exp()
    if kind == "truncate":
        return ratio.clamp(min=clip_min, max=clip_max) if (clip_min, clip_max) != (None, None) else ratio
    low = -torch.inf if clip_min is None else clip_min
    high = torch.inf if clip_max is None else clip_max
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)
