"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from glyphrl.output import Results

Run = Callable[[argparse.Namespace, Results], int]


def add_command(
    commands: Any, name: str, run: Run, summary: str, *, more: str | Callable[[], str] = ""
) -> argparse.ArgumentParser:
    """A command with `--json`.

    Args:
        commands: What `add_subparsers` returned.
        name: Name of the command.
        run: Carries it out and returns the exit code.
        summary: One line for the list of commands.
        more: Further text of its `--help`, or what makes it when somebody asks.
    """
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.more = more
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_group(commands: Any, name: str, summary: str) -> Any:
    """A command that only has commands of its own, such as `glyphrl data`."""
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.set_defaults(parser=parser)
    return parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)


def add_config(parser: argparse.ArgumentParser) -> None:
    """`CONFIG [a.b=c ...]`."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file of the run, see docs/configuration.md")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """`[a.b=c ...]`."""
    parser.add_argument(
        "overrides",
        metavar="a.b=c",
        nargs="*",
        default=[],
        help="sets a key of the configuration: grpo.learning_rate=1e-6",
    )
