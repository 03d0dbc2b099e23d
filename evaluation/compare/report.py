"""What a comparison says, as plain data: the content of compare.json."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from glyphrl.evaluation.bootstrap import Interval


@dataclass(frozen=True)
class AgainstTruth:
    """A reward held against a truth.

    Attributes:
        identical: On this log the reward equals the truth, so that agreeing says nothing about it.
        spearman: Mean over groups of the rank correlation within the group.
        kendall: The same, tau-b.
        groups: Groups behind those two: both vary.
        correlation: Pearson's, over all completions.
        regret: Mean over groups of what is lost by taking the best completion by the reward.
    """

    identical: bool
    spearman: Interval | None
    kendall: Interval | None
    groups: int
    correlation: Interval | None
    regret: Interval | None


@dataclass(frozen=True)
class LengthSensitivity:
    """How a reward moves with the number of characters, within groups.

    Attributes:
        correlation: Pearson's, of what the group's means are taken from.
        at_equal_truth: The same with what edit similarity explains taken out (partial correlation).
        per_100: Change of the reward per 100 characters (least squares).
    """

    correlation: Interval | None
    at_equal_truth: Interval | None
    per_100: float | None


@dataclass(frozen=True)
class RewardStats:
    """One reward over all completions that it applies to."""

    label: str
    spec: str
    completions: int
    undefined: int
    """Completions that it does not apply to: they take no part in anything said about it."""
    mean: float
    std: float
    low: float
    high: float
    at_floor: float
    """Share of completions that earn `low`."""
    at_ceiling: float
    groups: int
    """Groups with at least two completions that it applies to."""
    spread: float | None
    """Mean over those groups of the standard deviation within."""
    zero_spread: Interval | None
    """Share of them whose completions all earn the same."""
    truths: dict[str, AgainstTruth]
    length: LengthSensitivity
    milliseconds: float | None
    """Per completion, on one core; None where the log holds the values."""


@dataclass(frozen=True)
class PairStats:
    """Two rewards, over the completions that both apply to.

    Attributes:
        spearman: Mean over groups of the rank correlation within the group.
        kendall: The same, tau-b.
        groups: Groups behind those two: both rewards vary.
        best_changes: Share of groups where no completion is best under both.
        best_groups: Groups behind that: both rewards vary.
        sign_changes: Share of completions whose advantage has the other sign.
        completions: Completions behind that.
        cosine: Between the two vectors of all advantages.
    """

    first: str
    second: str
    spearman: Interval | None
    kendall: Interval | None
    groups: int
    best_changes: Interval | None
    best_groups: int
    sign_changes: Interval | None
    completions: int
    cosine: Interval | None


@dataclass(frozen=True)
class Shown:
    """One completion of an example: its text is cut, its scores are not."""

    completion: str
    characters: int
    answer: str
    edit_similarity: float | None
    rewards: dict[str, float | None]
    advantages: dict[str, float | None]


@dataclass(frozen=True)
class Disagreement:
    """Two completions of one group that two rewards put in opposite orders.

    Attributes:
        first: Reward that prefers `left`.
        second: Reward that prefers `right`.
        gap: By how many standard deviations of each reward, at least.
    """

    first: str
    second: str
    gap: float
    run: str
    step: int
    group_id: str
    sample_id: str
    solution: str
    left: Shown
    right: Shown


@dataclass(frozen=True)
class Curves:
    """Values by training step; each array has the shape (S,), NaN where there is none.

    Attributes:
        steps: Ascending.
        rewards: Reward -> the fields of `RewardStats` that are numbers of a step (`mean`, `std`, `low`, `high`,
            `at_floor`, `at_ceiling`, `spread`, `zero_spread`), and `length`, its correlation with length in groups.
        against: Reward -> truth -> `spearman`, `kendall`, `correlation`, `regret`.
        truths: Truth -> mean.
        length: Mean characters.
        pairs: `FIRST | SECOND` -> `spearman`, `kendall`, `best_changes`, `sign_changes`, `cosine`.
    """

    steps: np.ndarray
    rewards: dict[str, dict[str, np.ndarray]]
    against: dict[str, dict[str, dict[str, np.ndarray]]]
    truths: dict[str, np.ndarray]
    length: np.ndarray
    pairs: dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Trend:
    """From the first third of the steps to the last: means, and whether the change is more than chance."""

    before: float
    after: float
    change: Interval


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found."""

    files: int
    repeated_files: int
    where: str | None
    completions: int
    groups: int
    group_sizes: tuple[int, int]
    """The least and the greatest."""
    steps: tuple[int, int]
    """The first and the last."""
    runs: list[str]
    truths: dict[str, float]
    """Truth -> mean over all completions."""
    rewards: list[RewardStats]
    pairs: list[PairStats]
    regret_differences: dict[str, dict[str, Interval | None]]
    """`FIRST - SECOND` -> truth -> paired difference of the regrets."""
    trends: dict[str, Trend]
    """Reward or truth -> how it moved over training."""
    curves: Curves
    examples: list[Disagreement]
    confidence: float
    resamples: int
    seed: int
    reused_scores: int = 0
    verdict: list[str] = field(default_factory=list)

    def reward(self, label: str) -> RewardStats:
        """The statistics of one reward."""
        return next(stats for stats in self.rewards if stats.label == label)
