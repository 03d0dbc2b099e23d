"""The GRPO objective on log-probabilities: pure functions of tensors, equal to TRL 1.16's `GRPOTrainer._compute_loss`.

Shapes: C completions, T tokens; every tensor is zero or ignored where `mask` is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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

    @classmethod
    def of(cls, args: Any) -> LossSettings:
        """Those of a GRPOConfig."""
        return cls(
            loss_type=args.loss_type,
            epsilon_low=args.epsilon,
            epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
            delta=args.delta,
            beta=args.beta,
            use_bias_correction_kl=args.use_bias_correction_kl,
            importance_sampling_level=args.importance_sampling_level,
            max_completion_length=args.max_completion_length,
        )


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


def token_weights(mask: torch.Tensor, settings: LossSettings, *, window_tokens: float) -> torch.Tensor:
    """(C, T): the weight of each token in the loss of a micro-batch.

    They depend on what was sampled alone: completions that teach nothing count in the denominators whether or not they
    take part in a forward pass.

    Args:
        mask: (C, T) of the whole micro-batch, 1 for tokens that count.
        settings: `loss_type` chooses the average: `grpo` over the tokens of each completion, then over completions;
            `bnpo` over the micro-batch's tokens; `dr_grpo` (Liu et al. 2025) by a constant; `dapo` (Yu et al. 2025) by
            the tokens of the whole accumulation window on all ranks.
        window_tokens: Tokens that count in one accumulation window, per rank on average (`dapo`).
    """
    if settings.loss_type == "dapo":
        return mask / window_tokens
    if settings.loss_type == "grpo":
        return mask / mask.sum(-1, keepdim=True).clamp(min=1.0) / mask.shape[0]
    if settings.loss_type == "bnpo":
        return mask / mask.sum().clamp(min=1.0)
    if settings.loss_type == "dr_grpo":
        return mask / (mask.shape[0] * settings.max_completion_length)
    raise ValueError(f"unknown loss_type {settings.loss_type!r}; known: grpo, bnpo, dr_grpo, dapo")


def reduce_loss(
    per_token: torch.Tensor, weights: torch.Tensor, settings: LossSettings, *, accumulation_steps: float
) -> torch.Tensor:
    """One number per forward pass; summed over a gradient accumulation window it is the step's loss.

    Args:
        per_token: (C, T), or (C, 1) where the ratio is per sequence.
        weights: (C, T), see `token_weights`.
        settings: With `dapo` the weights are those of the whole window already.
        accumulation_steps: Micro-batches per optimizer step.
    """
    loss = (per_token * weights).sum()
    return loss if settings.loss_type == "dapo" else loss / accumulation_steps


@dataclass(frozen=True)
class Correction:
    """How the ratio between trainer and sampler is bounded; names are TRL's without `vllm_importance_sampling_`."""

    mode: str
    """`token_truncate`, `token_mask`, `sequence_truncate` or `sequence_mask`."""
    clip_min: float | None
    """Lower bound of the ratio."""
    clip_max: float | None
    """Upper bound of the ratio."""

    @classmethod
    def of(cls, args: Any) -> Correction | None:
        """That of a GRPOConfig; None where it asks for none."""
        if not args.vllm_importance_sampling_correction:
            return None
        return cls(
            args.vllm_importance_sampling_mode,
            args.vllm_importance_sampling_clip_min,
            args.vllm_importance_sampling_clip_max,
        )


def sampler_correction(
    logps: torch.Tensor, sampler_logps: torch.Tensor, mask: torch.Tensor, correction: Correction
) -> torch.Tensor:
    """Ratio between the trainer's and the sampler's probability of what was sampled, truncated or masked.

    Args:
        logps: (C, T) by the trainer, without gradient.
        sampler_logps: (C, T) by the sampler; NaN where it has none (ratio 1 there).
        mask: (C, T).
        correction: Level and bounds of the ratio.

    Returns:
        (C, T) for the token modes, (C, 1) for the sequence modes.
    """
    mode, clip_min, clip_max = correction.mode, correction.clip_min, correction.clip_max
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
