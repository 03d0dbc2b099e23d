"""`glyphrl rewards compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from glyphrl.commands.options import add_command
from glyphrl.output import Results

MORE = """\
RUN is a run folder, a completions folder, or a Parquet file of a log. SPEC is NAME[:KEY=VALUE,...] as in
`glyphrl rewards list`, FILE.py:FUNCTION, MODULE:FUNCTION, `logged` (the reward that the run used) or
`logged:NAME` (a part of it). No model and no GPU is needed. With --out the scores are kept, so that a second
call goes on where the first one was, and DIR gets compare.json and compare.html. See docs/compare.md.

  glyphrl rewards compare runs/demo --reward logged --reward ned --reward weighted_cer:important_weight=3 \\
      --where "step >= 100 AND format_fault IS NULL" --out runs/demo/compare"""


def add_to(group: Any) -> None:
    """Adds the command to the group `rewards`."""
    parser = add_command(
        group, "compare", run, "say how rewards differ on logged completions, and which to trust", more=MORE
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or of its completions log")
    parser.add_argument(
        "--reward",
        action="append",
        required=True,
        metavar="SPEC",
        help="a reward to compare; give it once for each",
    )
    parser.add_argument("--where", metavar="SQL", help="condition over the log's columns: only these rows")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for scores, compare.json, compare.html"
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="Python file that registers rewards"
    )
    parser.add_argument(
        "--answer",
        choices=("lenient", "strict"),
        default="lenient",
        help="strict: a completion without an answer block scores 0 (default: lenient)",
    )
    parser.add_argument(
        "--workers", type=whole_number, metavar="N", help="processes that score (default: one per core)"
    )
    parser.add_argument(
        "--resamples",
        type=positive_number,
        default=1000,
        metavar="N",
        help="of the bootstrap (default: 1000)",
    )
    parser.add_argument(
        "--examples",
        type=whole_number,
        default=4,
        metavar="N",
        help="samples shown for each pair of rewards (default: 4)",
    )
    parser.add_argument(
        "--seed", type=whole_number, default=0, metavar="N", help="of the bootstrap (default: 0)"
    )


def whole_number(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative; expected 0 or more")
    return value


def positive_number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too few; expected 1 or more")
    return value


def run(args: argparse.Namespace, results: Results) -> int:
    """Compares."""
    from tqdm import tqdm

    from glyphrl.evaluation.compare.compare import compare_rewards
    from glyphrl.evaluation.compare.text import render_text

    with tqdm(desc="scoring", unit=" completions", unit_scale=True, disable=None, delay=1.0) as bar:

        def begin(rows: int) -> Any:
            bar.reset(total=rows)
            return bar.update

        comparison = compare_rewards(
            args.runs,
            args.reward,
            where=args.where,
            out=args.out,
            plugins=args.plugin,
            answer=args.answer,
            workers=args.workers,
            resamples=args.resamples,
            examples=args.examples,
            seed=args.seed,
            progress=begin,
        )
    text = render_text(comparison)
    if args.out is not None:
        text += f"\n{args.out / 'compare.html'}"
    results.show(text, comparison)
    return 0
