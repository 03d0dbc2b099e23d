"""Configuration and command line answer before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "trl", "transformers", "vllm", "datasets", "peft", "numpy", "pyarrow", "PIL", "numba"}


def imported_by(code: str, folder: Path) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has after running `code` in `folder`."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_loading_a_configuration_imports_nothing_heavy(repository: Path) -> None:
    code = "from glyphrl.config import load_config\nload_config('configs/grpo.yaml', ['grpo.beta=0.1'])"
    assert not imported_by(code, repository) & HEAVY
