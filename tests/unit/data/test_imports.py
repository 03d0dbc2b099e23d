"""What importing `glyphrl.data` may load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MODULES = sorted(
    "glyphrl.data." + ".".join(path.relative_to(root).with_suffix("").parts)
    for root in [Path(__file__).parents[3] / "data"]
    for path in root.rglob("*.py")
    if path.name != "__init__.py"
)


HEAVY = [
    "torch",
    "transformers",
    "vllm",
    "datasets",
    "glyphrl.rewards",
    "glyphrl.trainers",
    "glyphrl.evaluation",
]


def test_no_module_of_the_data_part_loads_what_it_must_not():
    assert "glyphrl.data.importers.sharegpt" in MODULES
    program = f"import sys, {', '.join(MODULES)}; print(*(name for name in {HEAVY} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
