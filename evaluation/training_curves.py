"""`metrics.jsonl` of a run as curves: which charts the report draws, and from what."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

METRICS_LOG = "metrics.jsonl"


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: In the legend.
        steps: shape (S,), ascending.
        values: shape (S,), finite.
        low: Lower edge of a band around it, shape (S,), or None.
        high: Upper edge.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class ChartData:
    """A chart: a title, what it shows in a sentence, and its curves."""

    title: str
    caption: str
    curves: list[Curve]
    percent: bool = False


@dataclass
class TrainingLog:
    """What `metrics.jsonl` holds.

    Attributes:
        values: stage -> metric -> step -> value. Where a resumed run logged a step again, the later value
            counts.
        broken_lines: Lines that are no JSON object (a killed run can leave half a line).
    """

    values: dict[str, dict[str, dict[float, float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    broken_lines: int = 0

    def curve(self, stage: str, metric: str, name: str | None = None) -> Curve | None:
        """The curve of a metric, None where it was not logged."""
        points = self.values.get(stage, {}).get(metric)
        if not points:
            return None
        steps = sorted(points)
        return Curve(name or metric, np.array(steps), np.array([points[step] for step in steps]))

    def names(self, stage: str) -> list[str]:
        """Names of the metrics of a stage."""
        return list(self.values.get(stage, {}))


def read_training_log(path: str | Path) -> TrainingLog:
    """Reads a `metrics.jsonl`; an absent file is an empty log."""
    log = TrainingLog()
    path = Path(path)
    if not path.is_file():
        return log
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                stage, step = row["stage"], float(row["step"])
            except (ValueError, KeyError, TypeError):
                log.broken_lines += 1
                continue
            for name, value in row.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if number and name not in ("step", "epoch", "time") and math.isfinite(value):
                    log.values[str(stage)][name][step] = float(value)
    return log


@dataclass(frozen=True)
class _Wanted:
    """A chart that is drawn where its metrics were logged. `sources`: (metric, name in the legend)."""

    title: str
    caption: str
    stage: str
    sources: tuple[tuple[str, str], ...]
    percent: bool = False


_REWARD_PARTS = _Wanted("Parts of the reward", "Mean of each reward function, before its weight.", "grpo", ())
_WANTED = (
    _Wanted(
        "Reward",
        "Weighted sum, mean over the completions of a step; the band is one standard deviation to each side.",
        "grpo",
        (("reward", "reward"),),
    ),
    _REWARD_PARTS,
    _Wanted(
        "Edit similarity",
        "Of answers to references, whatever the reward is: where it falls while the reward rises, the reward is gamed.",
        "grpo",
        (("edit_similarity", "edit similarity"),),
        percent=True,
    ),
    _Wanted(
        "Completion length",
        "Tokens: the mean, and a band from the shortest to the longest completion of a step.",
        "grpo",
        (("completions/mean_length", "mean length"),),
    ),
    _Wanted(
        "Format",
        "Completions in exactly the format that was asked for, and completions cut off at the length limit.",
        "grpo",
        (("format_rate", "exact format"), ("completions/clipped_ratio", "cut off")),
        percent=True,
    ),
    _Wanted(
        "SFT loss",
        "Cross-entropy of the answer, in nats a token.",
        "sft",
        (("loss", "training"), ("eval_loss", "held-out")),
    ),
    _Wanted(
        "SFT token accuracy",
        "Answer tokens whose most likely value is the right one, given the right tokens before it.",
        "sft",
        (("mean_token_accuracy", "training"), ("eval_mean_token_accuracy", "held-out")),
        percent=True,
    ),
    _Wanted(
        "GRPO loss",
        "The policy's objective. It says little by itself: look at the reward.",
        "grpo",
        (("loss", "loss"),),
    ),
    _Wanted(
        "Groups without a signal",
        "Groups whose completions all earned the same reward: they teach nothing.",
        "grpo",
        (("frac_reward_zero_std", "same reward"),),
        percent=True,
    ),
    _Wanted(
        "Entropy",
        "Of the distribution over tokens, in nats: how much the policy still explores.",
        "grpo",
        (("entropy", "entropy"),),
    ),
    _Wanted(
        "Sampler against trainer",
        "Mean absolute difference of their log-probabilities of the sampled tokens, in nats: 0 is right.",
        "grpo",
        (("sampling/sampling_logp_difference/mean", "difference"),),
    ),
    _Wanted("KL divergence", "From the reference policy, in nats a token.", "grpo", (("kl", "KL"),)),
)


def training_charts(log: TrainingLog) -> list[ChartData]:
    """The charts that the log has data for, the most telling ones first."""
    charts = []
    for wanted in _WANTED:
        sources = _reward_parts(log) if wanted is _REWARD_PARTS else wanted.sources
        found = [log.curve(wanted.stage, metric, name) for metric, name in sources]
        curves = [_with_band(log, curve) for curve in found if curve is not None and len(curve.steps) > 1]
        if curves:
            charts.append(ChartData(wanted.title, wanted.caption, curves, wanted.percent))
    return charts


def _reward_parts(log: TrainingLog) -> tuple[tuple[str, str], ...]:
    names = [name for name in log.names("grpo") if name.startswith("rewards/") and name.endswith("/mean")]
    return tuple((name, name.removeprefix("rewards/").removesuffix("/mean")) for name in names)


def _with_band(log: TrainingLog, curve: Curve) -> Curve:
    """Adds the band of the curves that have one."""
    if curve.name == "reward":
        spread = _at(log, "reward_std", curve.steps)
        if spread is not None:
            return Curve(curve.name, curve.steps, curve.values, curve.values - spread, curve.values + spread)
    if curve.name == "mean length":
        low = _at(log, "completions/min_length", curve.steps)
        high = _at(log, "completions/max_length", curve.steps)
        if low is not None and high is not None:
            return Curve(curve.name, curve.steps, curve.values, low, high)
    return curve


def _at(log: TrainingLog, metric: str, steps: np.ndarray) -> np.ndarray | None:
    """Values of a GRPO metric at `steps`, None where one is missing."""
    points = log.values.get("grpo", {}).get(metric, {})
    return np.array([points[s] for s in steps]) if all(s in points for s in steps) else None
