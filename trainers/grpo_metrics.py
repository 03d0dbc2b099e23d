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


class LossMeter:
    """Sums over the forward passes of a micro-batch, and what they mean over all ranks."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.sums: dict[str, torch.Tensor] = {}
        self.largest: torch.Tensor | None = None

    def add(
        self,
        terms: LossTerms,
        entropies: torch.Tensor,
        logps: torch.Tensor,
        sampler: torch.Tensor | None,
        ratio: torch.Tensor | None,
        mask: torch.Tensor,
    ) -> None:
        """Takes in one pass; tensors are (C, T) or (C, 1).

        Args:
            terms: The loss per token.
            entropies: Of the distribution that each token was drawn from.
            logps: By the trainer, of the policy that has sampled.
            sampler: Log-probabilities by the sampler, NaN where it gave none.
            ratio: What corrects for the difference between the two.
            mask: 1 for tokens that count.
        """
        values = {
            "entropy": entropies,
            "clip_ratio/low_mean": terms.clipped_low.float(),
            "clip_ratio/high_mean": terms.clipped_high.float(),
            "clip_ratio/region_mean": (terms.clipped_low | terms.clipped_high).float(),
        }
        if terms.kl is not None:
            values["kl"] = terms.kl
        for name, value in values.items():
            self._count(name, (value * mask).sum(), mask.sum())
        if sampler is None:
            return
        counted = mask.bool() & ~torch.isnan(sampler)
        difference = (logps - sampler)[counted].abs()
        count = counted.sum().float()
        self._count("sampling/sampling_logp_difference/mean", difference.sum(), count)
        # a rank without a token brings 0
        largest = torch.cat([difference, torch.zeros_like(count)[None]]).max()
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        if ratio is not None:
            used = ratio.expand_as(mask)[counted] if ratio.shape[1] > 1 else ratio[:, 0]
            size = torch.tensor(float(used.numel()), device=used.device)
            self._count("sampling/importance_sampling_ratio/mean", used.sum(), size)

    def _count(self, name: str, total: torch.Tensor, count: torch.Tensor) -> None:
        pair = torch.stack([total.detach().float(), count.float()])
        self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def result(self, accelerator: Any) -> dict[str, float]:
        """Means over what counts on all ranks, in one reduction; nothing where nothing was seen."""
        if not self.sums:
            return {}
        totals = accelerator.reduce(torch.stack(list(self.sums.values())), reduction="sum")
        means = (totals[:, 0] / totals[:, 1].clamp(min=1.0)).tolist()
        metrics = dict(zip(self.sums, means, strict=True))
        if self.largest is not None:
            metrics["sampling/sampling_logp_difference/max"] = float(gather(self.largest[None]).max())
        return metrics
