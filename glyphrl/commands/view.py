"""`glyphrl view`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from glyphrl.commands.options import add_command
from glyphrl.output import Results

TOKEN_VARIABLE = "GLYPHRL_VIEW_TOKEN"

MORE = f"""\
Serves a page on this machine alone, until it is interrupted: curves of the runs overlaid, the groups of
every step, completions by filter, samples through training, predictions beside those of another model,
confused characters.
Live runs are followed. Nothing in a run folder is changed.

  glyphrl view runs/quickstart
  glyphrl view runs/a runs/b --port 0
  {TOKEN_VARIABLE}=$(openssl rand -hex 16) glyphrl view runs/a --host 0.0.0.0"""


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "view", run, "look at runs in a browser: live, finished, side by side", more=MORE
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder, or a folder that `glyphrl eval` wrote"
    )
    parser.add_argument("--port", type=int, default=8765, help="port (default: 8765; 0: any free one)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; others than this machine's own need a token",
    )
    parser.add_argument(
        "--token",
        help=f"what a browser must know, at least 16 letters, digits, - or _ (default: ${TOKEN_VARIABLE}, "
        "which other users of this machine cannot read)",
    )
    parser.add_argument(
        "--images",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="show images below DIR too, beside those in the run folder and in the data that its configuration "
        "names; may be given several times",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the default browser")


def run(args: argparse.Namespace, results: Results) -> int:
    """Serves."""
    from glyphrl.errors import UserError
    from glyphrl.evaluation.viewer.runs import Run
    from glyphrl.evaluation.viewer.security import Access
    from glyphrl.evaluation.viewer.server import serve

    if not 0 <= args.port <= 65535:
        raise UserError(f"--port is {args.port}; expected 0 to 65535")
    for folder in args.images:
        if not folder.is_dir():
            raise UserError(f"--images {folder}: expected a folder, found none")
    access = Access(args.host, args.token or os.environ.get(TOKEN_VARIABLE, ""))
    check_access(access.host, access.token)

    def announce(address: str, runs: list[Run]) -> None:
        data = {"address": address, "runs": {one.name: one.path for one in runs}}
        results.show(f"{address}  ({', '.join(one.name for one in runs)}; Ctrl-C ends)", data)
        if args.open:
            import webbrowser

            webbrowser.open(address)

    try:
        serve(args.runs, access, args.port, args.images, announce)
    except KeyboardInterrupt:  # the way to end it
        print("glyphrl: the page is closed", file=sys.stderr)
    return 0


def check_access(host: str, token: str) -> None:
    """Passes where the server may listen on `host`.

    Raises:
        UserError: Others could reach it without a token, or the token is too easy.
    """
    from glyphrl.errors import UserError
    from glyphrl.evaluation.viewer.security import is_loopback

    if not token and not is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines read these runs: give a token with it, "
            f'--token "$(openssl rand -hex 16)", or in the variable {TOKEN_VARIABLE}'
        )
    if token and not re.fullmatch(r"[A-Za-z0-9_-]{16,}", token):
        raise UserError("the token is not fit: expected at least 16 letters, digits, - or _")
