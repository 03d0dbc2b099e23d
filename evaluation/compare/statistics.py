"""From what was measured by group to numbers with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from glyphrl.evaluation.bootstrap import Interval
from glyphrl.evaluation.compare.measure import Measured
from glyphrl.evaluation.compare.report import AgainstTruth, LengthSensitivity, PairStats, RewardStats
from glyphrl.evaluation.compare.resampling import correlation, group_intervals, ratio

Sums = Mapping[str, np.ndarray]
Key = tuple[str, ...]


@dataclass
class Plan:
    """Columns that are summed over resampled groups, and statistics of those sums.

    All statistics of a log share one set of resamples, so that differences between them are paired.
    """

    group: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    statistics: dict[Key, Callable[[Sums], np.ndarray]] = field(default_factory=dict)

    def by_group(self, name: str, values: np.ndarray) -> str:
        """Adds a column of one number for each group; NaN adds nothing."""
        self.columns[name] = np.nan_to_num(values.astype(float), nan=0.0)
        return name

    def by_row(self, name: str, values: np.ndarray) -> str:
        """Adds a column of one number for each completion."""
        summed = np.bincount(self.group, np.nan_to_num(values, nan=0.0), int(self.group.max()) + 1)
        return self.by_group(name, summed)

    def mean(self, key: Key, values: np.ndarray) -> None:
        """The mean over groups where the value is defined."""
        top = self.by_group("/".join((*key, "sum")), values)
        below = self.by_group("/".join((*key, "count")), ~np.isnan(values))
        self.statistics[key] = lambda s: ratio(s[top], s[below])

    def row_mean(self, key: Key, values: np.ndarray) -> None:
        """The mean over completions where the value is defined."""
        top = self.by_row("/".join((*key, "sum")), values)
        below = self.by_row("/".join((*key, "count")), (~np.isnan(values)).astype(float))
        self.statistics[key] = lambda s: ratio(s[top], s[below])

    def products(self, key: Key, **columns: np.ndarray) -> dict[str, str]:
        """Adds the products of every two columns, summed over the completions where all are defined."""
        known = ~np.isnan(np.sum(list(columns.values()), axis=0))
        clean = {name: np.where(known, values, 0.0) for name, values in columns.items()}
        names = list(columns)
        return {
            a + b: self.by_row("/".join((*key, a, b)), clean[a] * clean[b])
            for i, a in enumerate(names)
            for b in names[i:]
        }

    def intervals(self, resamples: int, seed: int) -> dict[Key, Interval | None]:
        """All statistics with their intervals."""
        names = list(self.columns)
        matrix = np.stack([self.columns[name] for name in names], axis=1)

        def statistic(sums: np.ndarray) -> np.ndarray:
            by_name = {name: sums[:, i] for i, name in enumerate(names)}
            return np.stack([compute(by_name) for compute in self.statistics.values()], axis=1)

        found = group_intervals(matrix, statistic, resamples=resamples, seed=seed)
        return dict(zip(self.statistics, found, strict=True))


def plan_statistics(
    group: np.ndarray,
    rewards: Mapping[str, np.ndarray],
    truths: Mapping[str, np.ndarray],
    measured: Measured,
) -> Plan:
    """Lays out every statistic that gets an interval; keys are read by `reward_stats` and `pair_stats`."""
    plan = Plan(group)
    for name, values in rewards.items():
        own = measured.rewards[name]
        plan.mean(("zero", name), np.where(own.count >= 2, own.flat, np.nan))
        for truth, true in truths.items():
            pair = measured.pairs[name, truth]
            plan.mean(("spearman", name, truth), pair.spearman)
            plan.mean(("kendall", name, truth), pair.kendall)
            plan.mean(("regret", name, truth), pair.regret)
            _pearson(plan, ("pearson", name, truth), values, true)
        _length(plan, name, measured)
    for a, b in combinations(rewards, 2):
        pair = measured.pairs[a, b]
        plan.mean(("spearman", a, b), pair.spearman)
        plan.mean(("kendall", a, b), pair.kendall)
        plan.mean(("best", a, b), pair.best_changes)
        left, right = measured.rewards[a].advantages, measured.rewards[b].advantages
        known = ~np.isnan(left + right)
        plan.row_mean(("sign", a, b), np.where(known, left * right < 0, np.nan))
        sums = plan.products(("cosine", a, b), x=left, y=right)
        plan.statistics["cosine", a, b] = _cosine(sums)
        for truth in truths:
            keys = ("regret", a, truth), ("regret", b, truth)
            plan.statistics["less", a, b, truth] = _difference(
                plan.statistics[keys[0]], plan.statistics[keys[1]]
            )
    return plan


def _difference(
    first: Callable[[Sums], np.ndarray], second: Callable[[Sums], np.ndarray]
) -> Callable[[Sums], np.ndarray]:
    return lambda s: first(s) - second(s)


def _cosine(sums: dict[str, str]) -> Callable[[Sums], np.ndarray]:
    return lambda s: correlation(s[sums["xy"]], s[sums["xx"]], s[sums["yy"]])


def _pearson(plan: Plan, key: Key, values: np.ndarray, truth: np.ndarray) -> None:
    """Pearson's correlation over all completions, from sums."""
    # Near zero, sums of squares keep their digits.
    shift = [float(np.nanmean(x)) if (~np.isnan(x)).any() else 0.0 for x in (values, truth)]
    x, y = values - shift[0], truth - shift[1]
    sums = plan.products(key, o=np.ones(len(x)), x=x, y=y)

    def statistic(s: Sums) -> np.ndarray:
        n, sx, sy = (s[sums[name]] for name in ("oo", "ox", "oy"))
        n = np.maximum(n, 1.0)
        return correlation(
            s[sums["xy"]] - sx * sy / n, s[sums["xx"]] - sx * sx / n, s[sums["yy"]] - sy * sy / n
        )

    plan.statistics[key] = statistic


def _length(plan: Plan, name: str, measured: Measured) -> None:
    """Correlation with length within groups, as it is and with edit similarity held fixed."""
    x, length, truth = measured.centred[name].T
    sums = plan.products(("length", name), x=x, l=length, t=truth)

    def plain(s: Sums) -> np.ndarray:
        return correlation(s[sums["xl"]], s[sums["xx"]], s[sums["ll"]])

    def partial(s: Sums) -> np.ndarray:
        xl, xt = plain(s), correlation(s[sums["xt"]], s[sums["xx"]], s[sums["tt"]])
        lt = correlation(s[sums["lt"]], s[sums["ll"]], s[sums["tt"]])
        xt, lt = np.nan_to_num(xt), np.nan_to_num(lt)  # a truth that does not vary explains nothing
        left = (1 - xt**2) * (1 - lt**2)
        # A reward that is the truth leaves nothing to explain.
        return np.clip(ratio(xl - xt * lt, np.sqrt(np.where(left > 1e-9, left, 0.0))), -1.0, 1.0)

    plan.statistics["length", name] = plain
    plan.statistics["partial", name] = partial
    plan.statistics["slope", name] = lambda s: 100 * ratio(s[sums["xl"]], s[sums["ll"]])


def reward_stats(
    label: str,
    spec: str,
    values: np.ndarray,
    truths: Mapping[str, np.ndarray],
    measured: Measured,
    found: Mapping[Key, Interval | None],
    milliseconds: float | None,
) -> RewardStats:
    """The statistics of one reward; there is at least one completion that it applies to."""
    known = values[~np.isnan(values)]
    own = measured.rewards[label]
    low, high = float(known.min()), float(known.max())
    scored = own.count >= 2
    slope = found["slope", label]
    return RewardStats(
        label=label,
        spec=spec,
        completions=len(known),
        undefined=len(values) - len(known),
        mean=float(known.mean()),
        std=float(known.std()),
        low=low,
        high=high,
        at_floor=float(np.mean(known <= low)),
        at_ceiling=float(np.mean(known >= high)),
        groups=int(scored.sum()),
        spread=float(own.std[scored].mean()) if scored.any() else None,
        zero_spread=found["zero", label],
        truths={
            truth: AgainstTruth(
                identical=low < high and bool(np.all(np.abs(known - true[~np.isnan(values)]) <= 1e-9)),
                spearman=found["spearman", label, truth],
                kendall=found["kendall", label, truth],
                groups=int((~np.isnan(measured.pairs[label, truth].kendall)).sum()),
                correlation=found["pearson", label, truth],
                regret=found["regret", label, truth],
            )
            for truth, true in truths.items()
        },
        length=LengthSensitivity(
            found["length", label], found["partial", label], slope.value if slope is not None else None
        ),
        milliseconds=milliseconds,
    )


def pair_stats(a: str, b: str, measured: Measured, found: Mapping[Key, Interval | None]) -> PairStats:
    """The statistics of two rewards."""
    pair = measured.pairs[a, b]
    both = ~np.isnan(measured.rewards[a].advantages + measured.rewards[b].advantages)
    return PairStats(
        first=a,
        second=b,
        spearman=found["spearman", a, b],
        kendall=found["kendall", a, b],
        groups=int((~np.isnan(pair.kendall)).sum()),
        best_changes=found["best", a, b],
        best_groups=int((~np.isnan(pair.best_changes)).sum()),
        sign_changes=found["sign", a, b],
        completions=int(both.sum()),
        cosine=found["cosine", a, b],
    )
