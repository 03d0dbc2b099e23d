"""Curves over training, of one run or of several overlaid: from the completions log, and from the trainer's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from glyphrl.evaluation.training_curves import read_training_log, training_charts
from glyphrl.evaluation.viewer.index import Index
from glyphrl.evaluation.viewer.runs import Run

if TYPE_CHECKING:
    import numpy as np

POINTS = 600  # a chart is not wider; longer runs are averaged over neighbouring steps
DIGITS = 5


@dataclass
class Series:
    """One line: `x` steps, `y` values, and a band from `low` to `high` where there is one."""

    run: int
    name: str
    x: list[float]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None


@dataclass
class Chart:
    """A chart: `percent` says how values are shown, `steps` whether its points are steps of the log."""

    title: str
    caption: str
    percent: bool = False
    steps: bool = True
    series: list[Series] = field(default_factory=list)


@dataclass(frozen=True)
class _Wanted:
    title: str
    caption: str
    columns: tuple[tuple[str, str], ...]
    percent: bool = False
    band: tuple[str, str] | None = None


_PARTS = "Parts of the reward"
_WANTED = (
    _Wanted(
        "Reward",
        "Weighted sum, mean of a step's completions; where one run is shown, a band of one standard deviation to "
        "each side.",
        (("reward", "reward"),),
        band=("reward - coalesce(spread, 0)", "reward + coalesce(spread, 0)"),
    ),
    _Wanted(_PARTS, "Mean of each reward function, before its weight.", ()),
    _Wanted(
        "Edit similarity",
        "1 − edit distance / longer length of reference and answer; and the share of exact answers. It does not "
        "depend on the reward: where the reward rises and this falls, the reward is being gamed.",
        (("similarity", "similarity"), ("exact", "exact")),
        percent=True,
    ),
    _Wanted(
        "Groups without a signal",
        "Groups whose completions all earned the same reward: they teach nothing.",
        (("same", "same reward"),),
        percent=True,
    ),
    _Wanted(
        "Completion length",
        "Tokens: the mean; where one run is shown, a band from the shortest to the longest.",
        (("tokens", "mean length"),),
        band=("shortest", "longest"),
    ),
    _Wanted(
        "Format",
        "Completions in exactly the format that was asked for, and those cut off at the length limit.",
        (("format_ok", "exact format"), ("cut", "cut off")),
        percent=True,
    ),
)
FROM_LOG = {wanted.title for wanted in _WANTED}


def charts(index: Index, runs: Sequence[Run]) -> list[Chart]:
    """All charts that the runs have data for; the same chart of several runs is one."""
    made: dict[str, Chart] = {}
    for run in runs:
        logged = _logged(index, run)
        for chart in [*logged, *_from_trainer(run, bool(logged))]:
            kept = made.setdefault(chart.title, Chart(chart.title, chart.caption, chart.percent, chart.steps))
            kept.series.extend(chart.series)
    order = [*(wanted.title for wanted in _WANTED), "Entropy"]
    place = {title: number for number, title in enumerate(order)}
    return sorted(made.values(), key=lambda chart: place.get(chart.title, len(order)))


def _logged(index: Index, run: Run) -> list[Chart]:
    """The charts of the completions log."""
    span = index.fetch(
        "SELECT count(*) AS steps, min(step) AS low, max(step) AS high FROM steps WHERE run = $run",
        {"run": run.number},
    )[0]
    if not span["steps"]:
        return []
    width = max(1, -(-(span["high"] - span["low"] + 1) // POINTS))
    parts = [(index.part_columns[name], name) for name in index.states[run.number].parts]
    asked: list[tuple[Chart, str, tuple[str, str] | None, str]] = []
    for wanted in _WANTED:
        for column, name in parts if wanted.title == _PARTS else wanted.columns:
            caption = wanted.caption
            if width > 1:
                caption += f" Each point is the mean of {width} steps."
            asked.append((Chart(wanted.title, caption, wanted.percent), column, wanted.band, name))
    terms: list[str] = []
    for number, (_, column, band, _) in enumerate(asked):
        terms.append(f"avg({column}) AS y{number}")
        if band:
            # the band of several steps holds the bands of all of them where it spans a range
            low, high = ("min", "max") if band[0] == "shortest" else ("avg", "avg")
            terms += [f"{low}({band[0]}) AS low{number}", f"{high}({band[1]}) AS high{number}"]
    rows = index.fetch(
        f"SELECT avg(step) AS x, {', '.join(terms)} FROM steps WHERE run = $run GROUP BY (step - $low) // $width "
        "ORDER BY x",
        {"run": run.number, "low": span["low"], "width": width},
    )
    x = [round(row["x"], 1) for row in rows]
    found = []
    for number, (chart, _, band, name) in enumerate(asked):
        series = Series(run.number, name, x, _short(rows, f"y{number}"))
        if band:
            series.low, series.high = _short(rows, f"low{number}"), _short(rows, f"high{number}")
        if any(value is not None for value in series.y):
            found.append(Chart(chart.title, chart.caption, chart.percent, True, [series]))
    return found


def _from_trainer(run: Run, logged: bool) -> list[Chart]:
    """The charts of `metrics.jsonl`, without those that the completions log has."""
    found = []
    for chart in training_charts(read_training_log(run.metrics)):
        if logged and chart.title in FROM_LOG:
            continue
        width = max(1, -(-max(len(curve.steps) for curve in chart.curves) // POINTS))
        series = [
            Series(
                run.number,
                curve.name,
                [round(step, 1) for step in averaged(curve.steps, width)],
                [_rounded(value) for value in averaged(curve.values, width)],
            )
            for curve in chart.curves
        ]
        caption = chart.caption + (f" Each point is the mean of {width} logged ones." if width > 1 else "")
        found.append(Chart(chart.title, caption, chart.percent, False, series))
    return found


def averaged(values: np.ndarray, width: int) -> list[float]:
    """Means over `width` neighbours, (S,) -> ceil(S / width) values; the last one may be of fewer.

    >>> import numpy
    >>> averaged(numpy.array([1.0, 3.0, 5.0, 7.0, 8.0]), 2)
    [2.0, 6.0, 8.0]
    """
    starts = range(0, len(values), width)
    return [float(values[start : start + width].mean()) for start in starts]


def _short(rows: Sequence[dict[str, Any]], name: str) -> list[float | None]:
    return [_rounded(row[name]) for row in rows]


def _rounded(value: float | None) -> float | None:
    """To so many digits as a chart can show: it halves the page."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
