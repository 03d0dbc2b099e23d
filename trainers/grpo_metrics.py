"""Numbers of a GRPO step under TRL's names, over all ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather

from glyphrl.rewards.compose import Scores
from glyphrl.rewards.edit_distance import weighted_distances
from glyphrl.rewards.repetition import Repetition, repetition
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
        **answer_columns(groups, scores.answers),
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
        "edit_similarity": column["similarity"].mean(),
        "repetition": column["repetition"].mean(),
        "degenerate_rate": degenerate_share(column["exact"] == 1, column["answer"], column["reference"]),
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


def answer_columns(groups: Sequence[SampledGroup], answers: Sequence[str]) -> dict[str, np.ndarray]:
    """What the answers say of the reading, whatever the reward is; (C,) float64 each.

    Args:
        groups: Groups of this rank.
        answers: What was taken out of their completions, in order.

    Returns:
        `similarity` to the reference, `repetition` above the reference's, and `answer` and `reference` as numbers that
        are equal where the texts are, on all ranks.
    """
    references = [group.prompt.sample.solution for group in groups for _ in group.rollouts]
    ngram = Repetition.ngram
    allowed = {text: repetition(text, ngram) for text in set(references)}
    return {
        "similarity": edit_similarities(references, answers),
        "repetition": np.array(
            [
                max(0.0, repetition(answer, ngram) - allowed[reference])
                for answer, reference in zip(answers, references, strict=True)
            ]
        ),
        "answer": np.array([text_number(text) for text in answers]),
        "reference": np.array([text_number(text.strip()) for text in references]),
    }


def edit_similarities(references: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """(C,) 1 - distance / length of the longer text; 1 for two empty texts."""
    distances, _ = weighted_distances(references, answers, important_weight=1.0)
    pairs = zip(references, answers, strict=True)
    longer = np.array([max(len(reference), len(answer), 1) for reference, answer in pairs])
    return 1.0 - distances / longer


def text_number(text: str) -> float:
    """A text as a number that float64 holds exactly: 0 for an empty one, else 48 bits of its hash."""
    if not text:
        return 0.0
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return float(int.from_bytes(digest, "big"))


FEW_REFERENCES = 3
"""An answer that is wrong for fewer different references is no pattern."""


def degenerate_share(exact: np.ndarray, answers: np.ndarray, references: np.ndarray) -> float:
    """Share of completions in the exact format whose answer reads nothing; 0 where none is in the format.

    An answer reads nothing where it is wrong and empty, or wrong for at least three references and for half of all.

    Args:
        exact: (C,) bool.
        answers: (C,) as `text_number` gives them.
        references: (C,) likewise.
    """
    if not exact.any():
        return 0.0
    wrong = answers != references
    needed = max(FEW_REFERENCES, len(np.unique(references)) / 2)
    pairs = np.unique(np.stack([answers[wrong], references[wrong]], axis=1), axis=0)
    texts, spread = np.unique(pairs[:, 0], return_counts=True)
    nothing = wrong & ((answers == 0) | np.isin(answers, texts[spread >= needed]))
    return float(nothing[exact].mean())


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
