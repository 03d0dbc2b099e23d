"""`glyphrl export merge`."""

from __future__ import annotations

import argparse
from typing import Any

from glyphrl.commands.options import add_command, add_group
from glyphrl.output import Results


def add_commands(commands: Any) -> None:
    """Adds the group."""
    group = add_group(commands, "export", "turn a result into what other programs load")
    parser = add_command(
        group, "merge", run_merge, "merge an adapter into its base model, as an ordinary model folder"
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="adapter folder, e.g. runs/NAME/grpo/final")
    parser.add_argument("out", metavar="OUT", help="folder to write; it must not exist")
    parser.add_argument(
        "--base", metavar="MODEL", help="base model (default: the one that the adapter names)"
    )


def run_merge(args: argparse.Namespace, results: Results) -> int:
    """Merges."""
    from glyphrl.trainers.export import merge_adapter

    folder = merge_adapter(args.adapter, args.out, base=args.base)
    results.show(str(folder), {"model": folder})
    return 0
