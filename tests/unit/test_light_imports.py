"""What importing a part of the package may load, seen in a fresh interpreter; test_packaging.py reads the sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_LIBRARIES = {"torch", "torchvision", "transformers", "trl", "peft", "accelerate", "deepspeed", "vllm"}
ARRAYS = {"numpy", "pyarrow", "pandas", "datasets"}
SLOW = MODEL_LIBRARIES | ARRAYS | {"numba", "scipy", "sklearn", "PIL"}
HELP = """
import contextlib, io
from glyphrl.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
"""
CONFIGURATION = f"""
from glyphrl.config import load_config
load_config({str(REPOSITORY / "configs" / "grpo.yaml")!r}, ["grpo.beta=0.1"])
"""
ALL_REWARDS = """
from glyphrl.rewards import build_reward, list_rewards, registry
for name in list_rewards():
    registry.find_reward(name)
for name in ("weighted_cer", "lines"):
    build_reward(name)(["1"], ["2"])
"""


def importing_all_of(folder: str, pattern: str = "**/*.py") -> str:
    """A program that imports every module of a part."""
    root = REPOSITORY / folder
    files = [path for path in sorted(root.glob(pattern)) if path.name != "__init__.py"]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in files]
    assert len(names) > 8
    return "\n".join(f"import glyphrl.{folder}.{name}" for name in names)


def loaded_by(code: str) -> set[str]:
    """Names of all modules that a fresh interpreter has after `code`, which must not print."""
    program = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        pytest.param(HELP, SLOW, id="help"),
        pytest.param(CONFIGURATION, SLOW, id="a configuration"),
        pytest.param("import glyphrl.rewards", SLOW, id="rewards"),
        pytest.param("import glyphrl.evaluation", SLOW, id="evaluation"),
        pytest.param(
            importing_all_of("rewards") + ALL_REWARDS,
            MODEL_LIBRARIES | {"datasets", "sympy"},
            id="all of rewards",
        ),
        pytest.param(
            importing_all_of("data"),
            MODEL_LIBRARIES | {"datasets", "glyphrl.rewards", "glyphrl.trainers", "glyphrl.evaluation"},
            id="all of data",
        ),
        pytest.param(
            importing_all_of("evaluation", "*.py"),
            MODEL_LIBRARIES | {"datasets", "scipy.stats", "matplotlib", "jinja2", "numba"},
            id="all of evaluation",
        ),
    ],
)
def test_nothing_unwanted_is_loaded(code: str, unwanted: set[str]) -> None:
    assert not loaded_by(code) & unwanted


def test_the_check_sees_what_is_loaded() -> None:
    assert {"jinja2", "jinja2.sandbox"} <= loaded_by("import jinja2.sandbox")
