"""Numbers of a GRPO step under TRL's names, over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather

from glyphrl.rewards.compose import Scores
from glyphrl.trainers.advantages import Advantages
from glyphrl.trainers.grpo_batch import SampledGroup
from glyphrl.trainers.loss import LossTerms


def generation_metrics(
    groups: Sequence[SampledGroup],
    scores: Scores,
    weights: Sequence[float],
    advantages: Advantages,
    accelerator: Any,
) -> dict[str, float]:
    """Lengths, rewards and formats of one generation."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    local = {
        "length": [len(rollout.token_ids) for rollout in rollouts],
        "cut": [rollout.finish_reason == "length" for rollout in rollouts],
        "exact": [fault is None for fault in scores.faults],
        "reward": scores.reward,
        **{f"rewards/{name}": values for name, values in scores.per_function.items()},
    }
    table = np.stack([np.asarray(values, dtype=np.float64) for values in local.values()], axis=1)
    everyone = gather(torch.tensor(table, device=accelerator.device)).cpu().numpy()
    column = dict(zip(local, everyone.T, strict=True))
    ended = column["length"][column["cut"] == 0]
    metrics = {
        "completions/mean_length": column["length"].mean(),
        "completions/min_length": column["length"].min(),
        "completions/max_length": column["length"].max(),
        "completions/clipped_ratio": column["cut"].mean(),
        "completions/mean_terminated_length": ended.mean() if ended.size else 0.0,
        "format_rate": column["exact"].mean(),
        "frac_reward_zero_std": advantages.zero_spread.mean(),
    }
    for name in ("reward", *(key for key in local if key.startswith("rewards/"))):
        known = column[name][~np.isnan(column[name])]
        mean = known.mean() if known.size else np.nan
        spread = known.std(ddof=1) if known.size > 1 else np.nan
        if name == "reward":
            metrics.update({"reward": mean, "reward_std": spread})
        else:
            metrics.update({f"{name}/mean": mean, f"{name}/std": spread})
    metrics.update(scores.metrics)
    return {name: float(value) for name, value in metrics.items()}


def loss_metrics(
    terms: LossTerms, entropies: torch.Tensor, mask: torch.Tensor, accelerator: Any
) -> dict[str, float]:
    """Entropy, KL and clipping, as means over the tokens that count, in one reduction."""
    values = {
        "entropy": entropies,
        "clip_ratio/low_mean": terms.clipped_low.float(),
        "clip_ratio/high_mean": terms.clipped_high.float(),
        "clip_ratio/region_mean": (terms.clipped_low | terms.clipped_high).float(),
    }
    if terms.kl is not None:
        values["kl"] = terms.kl
    sums = [(value * mask).sum() for value in values.values()]
    totals = accelerator.reduce(torch.stack([*sums, mask.sum()]), reduction="sum")
    means = (totals[:-1] / totals[-1].clamp(min=1.0)).tolist()
    return dict(zip(values, means, strict=True))


def sampler_metrics(
    logps: torch.Tensor,
    sampler: torch.Tensor,
    ratio: torch.Tensor | None,
    mask: torch.Tensor,
    accelerator: Any,
) -> dict[str, float]:
    """How far trainer and sampler disagree about what was sampled (nats a token), and the ratio that corrects it."""
    counted = mask.bool() & ~torch.isnan(sampler)
    difference = (logps - sampler)[counted].abs()
    local = torch.stack([difference.sum(), torch.tensor(float(difference.numel()), device=difference.device)])
    total, count = accelerator.reduce(local, reduction="sum").tolist()
    largest = difference.max() if difference.numel() else torch.zeros((), device=difference.device)
    metrics = {
        "sampling/sampling_logp_difference/mean": total / max(count, 1.0),
        "sampling/sampling_logp_difference/max": float(gather(largest[None]).max()),
    }
    if ratio is not None:
        used = ratio.expand_as(mask)[counted] if ratio.shape[1] > 1 else ratio[:, 0]
        spread = torch.stack([used.sum(), torch.tensor(float(used.numel()), device=used.device)])
        total, count = accelerator.reduce(spread, reduction="sum").tolist()
        metrics["sampling/importance_sampling_ratio/mean"] = total / max(count, 1.0)
    return metrics
