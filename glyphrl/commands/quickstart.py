"""`glyphrl quickstart`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from glyphrl.commands.options import add_command, add_overrides
from glyphrl.output import Results

MORE = """\
Draws strips of real handwritten digits, builds a tiny Qwen2.5-VL from scratch, and runs everything that
`glyphrl train` runs: SFT, GRPO, evaluation, report. A CPU is enough; nothing is downloaded."""


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "quickstart", run, "see the whole pipeline work on a tiny model in minutes", more=MORE
    )
    parser.add_argument("--output", default="runs/quickstart", help="run folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, model and training (default: 0)")
    add_overrides(parser)


def run(args: argparse.Namespace, results: Results) -> int:
    """Runs the quickstart."""
    from glyphrl.commands.train import show_run
    from glyphrl.quickstart import run as run_quickstart

    config, summary = run_quickstart(Path(args.output), seed=args.seed, overrides=args.overrides)
    return show_run(config, summary, results)
