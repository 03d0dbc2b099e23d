"""Importing the evaluation costs little and pulls in no model library."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "vllm", "transformers", "trl", "datasets", "scipy.stats", "matplotlib", "jinja2", "numba")
MODULES = (
    "metrics",
    "bootstrap",
    "predictions",
    "evaluate",
    "summary",
    "report",
    "charts",
    "cases",
    "chardiff",
)


def imported_with(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_module_imports_anything_heavy():
    assert imported_with("import " + ", ".join(f"glyphrl.evaluation.{name}" for name in MODULES)) == set()


def test_the_check_sees_a_heavy_import():
    assert imported_with("import jinja2") == {"jinja2"}


def test_the_package_itself_imports_nothing():
    code = "import sys, glyphrl.evaluation; print('numpy' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
