"""Whether numba can keep compiled code on this machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cacheable() -> bool:
    """Whether there is a place for compiled code: beside the package, `NUMBA_CACHE_DIR` or the user's cache.

    Without one numba refuses `cache=True`; the kernel is then compiled once per process.
    """
    candidates = [Path(__file__).parent / "__pycache__", Path(__file__).parent, Path.home() / ".cache"]
    if os.environ.get("NUMBA_CACHE_DIR"):
        candidates.insert(0, Path(os.environ["NUMBA_CACHE_DIR"]))
    return any(_writable(folder) for folder in candidates)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
