"""Results on stdout, everything else on stderr.

Libraries print on stdout as they like (vLLM, the Trainer, worker processes). While a command runs, file
descriptor 1 therefore leads to stderr, and results go to a copy of the original stdout:
`glyphrl ... --json | jq` always works.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO


@dataclasses.dataclass(frozen=True)
class Results:
    """Where a command puts its results."""

    stream: TextIO
    as_json: bool = False

    def show(self, text: str, data: Any) -> None:
        """Prints `text`, or `data` as JSON where the user asked for that."""
        if self.as_json:
            text = json.dumps(plain(data), ensure_ascii=False, indent=2, allow_nan=False)
        print(text.rstrip("\n"), file=self.stream, flush=True)


def plain(value: Any) -> Any:
    """`value` as what JSON knows: NaN and infinities become null, dataclasses objects, other things text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


@contextmanager
def stdout_for_results(as_json: bool = False) -> Iterator[Results]:
    """Sends what is printed meanwhile to stderr, subprocesses included; yields the original stdout."""
    original = sys.stdout
    original.flush()
    try:
        descriptor, diagnostics = original.fileno(), sys.stderr.fileno()
    except (OSError, ValueError):  # not a file: a notebook, or a test that captures output
        with redirect_stdout(sys.stderr):
            yield Results(original, as_json)
        return
    kept = os.dup(descriptor)
    os.dup2(diagnostics, descriptor)
    try:
        with open(kept, "w", encoding=original.encoding, errors="backslashreplace", closefd=False) as stream:
            yield Results(stream, as_json)
    finally:
        original.flush()  # what was printed meanwhile, still to stderr
        os.dup2(kept, descriptor)
        os.close(kept)
