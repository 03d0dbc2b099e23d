"""`glyphrl eval`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from glyphrl.commands.options import add_command, add_overrides
from glyphrl.output import Results

MORE = """\
Writes predictions.parquet, metrics.json and report.html to --out, and goes on where it stopped. A model of a
run (RUN/grpo/final) is read with the run's own prompt, image sizes and eval section."""


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(commands, "eval", run, "measure what a model reads on held-out samples", more=MORE)
    parser.add_argument("model", metavar="MODEL", help="model folder, adapter folder or hub id")
    parser.add_argument("data", metavar="DATA", help="file or folder in any importable format")
    add_overrides(parser)
    parser.add_argument(
        "--config", metavar="CONFIG", help="take prompt, image sizes and eval settings from this file"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write (default: runs/eval/MODEL/DATA)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="discard other predictions that the folder holds"
    )


def run(args: argparse.Namespace, results: Results) -> int:
    """Evaluates."""
    from glyphrl.config_paths import looks_local
    from glyphrl.errors import UserError
    from glyphrl.pipeline import eval_config, run_eval

    if looks_local(args.model) and not Path(args.model).expanduser().exists():
        raise UserError(f"{args.model}: no such folder; give a model folder, an adapter folder or a hub id")
    config = eval_config(args.model, args.config, args.overrides)
    out = args.out or Path("runs/eval") / name_of(args.model) / name_of(args.data)
    result = run_eval(args.model, args.data, config, out, overwrite=args.overwrite)

    from glyphrl.evaluation.predictions import metric_info
    from glyphrl.evaluation.summary import format_percent

    infos = metric_info(result.metrics)
    shown = {infos[name].label: format_percent(interval) for name, interval in result.metrics.items()}
    width = max(map(len, shown))
    lines = [f"{label:<{width}}  {value}" for label, value in shown.items()]
    lines.append(f"{result.predictions.num_rows:,} samples, in percent, [95 % bootstrap interval]")
    lines.append(str(out / "report.html"))
    results.show("\n".join(lines), {"folder": out, **result.to_dict()})
    return 0


def name_of(path: str) -> str:
    """The last parts of a path as one name: `runs/demo/grpo/final` -> `demo-grpo-final`."""
    parts = [part for part in Path(path).absolute().parts if part not in ("/", "runs")]
    if not Path(path).exists():  # a hub id
        parts = path.split("/")
    return "-".join(parts[-3:])
