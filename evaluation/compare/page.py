"""compare.html: a comparison as one page that loads nothing.

Labels and completions are untrusted text: Jinja escapes every value, and hidden characters are shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from glyphrl.evaluation.bootstrap import Interval
from glyphrl.evaluation.chardiff import Segment, align, for_display
from glyphrl.evaluation.charts import IntervalChart, interval_chart, line_chart
from glyphrl.evaluation.compare.report import Comparison, Disagreement, Shown
from glyphrl.evaluation.compare.text import measure_of, share, summary_line, tables
from glyphrl.evaluation.compare.verdict import number
from glyphrl.evaluation.report import STYLE, render_template
from glyphrl.evaluation.training_curves import ChartData, Curve
from glyphrl.evaluation.visible import visible_text

PAGE = "compare.html"
COLOURS = 6
"""Colours that curves and rewards take in turn, see report.css."""
MAX_PAIRS = 6
"""Pairs whose curves fit into one chart."""


@dataclass(frozen=True)
class Side:
    """One completion of an example, ready to be shown."""

    shown: Shown
    segments: list[Segment]


@dataclass(frozen=True)
class Example:
    """Two completions that two rewards put in opposite orders."""

    found: Disagreement
    left: Side
    right: Side


@dataclass(frozen=True)
class Whiskers:
    """A chart of intervals with its words."""

    chart: IntervalChart
    title: str
    caption: str


def render_page(comparison: Comparison) -> str:
    """The page."""
    labels = [r.label for r in comparison.rewards]
    return render_template(
        "compare.html.j2",
        styles=(STYLE, "compare.css"),
        title="Which reward to trust",
        comparison=comparison,
        summary=summary_line(comparison),
        verdict=[marked(sentence) for sentence in comparison.verdict],
        whiskers=_whiskers(comparison),
        tables=tables(comparison),
        charts=[line_chart(data) for data in _charts(comparison)],
        examples=[
            Example(found, _side(found, found.left), _side(found, found.right))
            for found in comparison.examples
        ],
        colours={label: f"s{(i + 1) % COLOURS}" for i, label in enumerate(labels)},
        number=number,
    )


def marked(sentence: str) -> Markup:
    r"""A sentence of the verdict: escaped, and what stands in backticks as code.

    >>> marked("`<b>` is 1")
    Markup('<code>&lt;b&gt;</code> is 1')
    """
    parts = re.split(r"`([^`]*)`", sentence)
    return Markup("").join(
        Markup("<code>{}</code>").format(visible_text(part)) if i % 2 else escape(visible_text(part))
        for i, part in enumerate(parts)
    )


def _whiskers(comparison: Comparison) -> list[Whiskers]:
    """What decides, reward by reward, with intervals."""
    truth = next(iter(comparison.truths))
    found = []
    for title, caption, chosen, in_percent in (
        (
            "Agreement with the truth",
            f"Kendall's tau-b with {truth}, mean over groups: right is better.",
            {r.label: r.truths[truth].kendall for r in comparison.rewards},
            False,
        ),
        (
            "Regret",
            f"{truth.capitalize()} lost by taking each group's best completion by the reward: left is better.",
            {r.label: r.truths[truth].regret for r in comparison.rewards},
            False,
        ),
        (
            "Groups without a signal",
            "Share of groups whose completions all earn the same: left is better.",
            {r.label: r.zero_spread for r in comparison.rewards},
            True,
        ),
    ):
        rows: list[tuple[str, str, str, Interval]] = [
            (_short(label), str((share if in_percent else measure_of)(i)), f"s{(n + 1) % COLOURS}", i)
            for n, (label, i) in enumerate(chosen.items())
            if i is not None
        ]
        if rows:
            found.append(Whiskers(interval_chart(rows, percent=in_percent), title, caption))
    return found


def _short(label: str, limit: int = 24) -> str:
    """A label that leaves room for the numbers beside it; the tables have it whole."""
    return label if len(label) <= limit else f"{label[: limit - 1]}…"


def _charts(comparison: Comparison) -> list[ChartData]:
    """Curves over the training steps; those of fewer than two steps say nothing."""
    curves = comparison.curves
    truth = next(iter(comparison.truths))

    def of_rewards(key: str) -> dict[str, np.ndarray]:
        return {label: values[key] for label, values in curves.rewards.items()}

    def of_pairs(key: str) -> dict[str, np.ndarray]:
        return {name: values[key] for name, values in list(curves.pairs.items())[:MAX_PAIRS]}

    def of_truth(key: str) -> dict[str, np.ndarray]:
        return {label: values[truth][key] for label, values in curves.against.items()}

    beside = {f"({truth})": curves.truths[truth]}
    wanted = [
        ("Reward", "Mean over the completions of a step.", {**of_rewards("mean"), **beside}, False),
        (
            "Groups without a signal",
            "Share of groups whose completions all earn the same.",
            of_rewards("zero_spread"),
            True,
        ),
        (
            "Agreement with the truth",
            f"Kendall's tau-b with {truth} in groups, mean over a step.",
            of_truth("kendall"),
            False,
        ),
        (
            "Regret",
            f"{truth.capitalize()} lost by taking the group's best by the reward.",
            of_truth("regret"),
            False,
        ),
        ("Spread", "Standard deviation in groups, mean over a step.", of_rewards("spread"), False),
        (
            "At the ceiling",
            "Share of completions that earn the greatest reward of the log.",
            of_rewards("at_ceiling"),
            True,
        ),
        (
            "Agreement of two rewards",
            "Kendall's tau-b in groups, mean over a step.",
            of_pairs("kendall"),
            False,
        ),
        ("Same direction", "Cosine between the advantage vectors of a step.", of_pairs("cosine"), False),
        (
            "Another best",
            "Share of groups where no completion is best under both.",
            of_pairs("best_changes"),
            True,
        ),
        (
            "Advantages of other signs",
            "Share of completions that one raises and one lowers.",
            of_pairs("sign_changes"),
            True,
        ),
        (
            "Sensitivity to length",
            "Correlation of reward and characters in groups.",
            of_rewards("length"),
            False,
        ),
        ("Length", "Characters of a completion, mean over a step.", {"characters": curves.length}, False),
    ]
    charts = []
    for title, caption, lines, in_percent in wanted:
        drawn = []
        for label, values in lines.items():
            known = ~np.isnan(values)
            if known.sum() > 1:
                drawn.append(Curve(label, curves.steps[known], values[known]))
        if drawn:
            charts.append(ChartData(title, caption, drawn, in_percent))
    return charts


def _side(found: Disagreement, shown: Shown) -> Side:
    return Side(shown, for_display(align(found.solution, shown.answer), limit=600))
