"""Runs mypy over the installed package: the type-checking half of `make lint`.

The top folders are parts of one package (`rewards/` is `glyphrl.rewards`), which setuptools maps when it
installs. An editable install does that by an import hook, and mypy follows no hooks: it would take
`rewards/` for a package of its own and every import of `glyphrl.rewards` for unknown. So the installed
shape is laid out as links under build/, and mypy reads that.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKS = ROOT / "build" / "typecheck"


def main() -> int:
    """Lays out the links and runs mypy; further arguments go to mypy."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = settings["tool"]["setuptools"]["package-dir"]
    link_packages(folders)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "glyphrl"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), *sys.argv[1:]]
    done = subprocess.run(command, cwd=LINKS, capture_output=True, text=True, check=False)
    print(real_paths(done.stdout, folders), end="")
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


def link_packages(folders: dict[str, str]) -> None:
    """Makes `build/typecheck/glyphrl` hold the files of `glyphrl/` and the folders of the other packages."""
    shutil.rmtree(LINKS, ignore_errors=True)
    top = LINKS / "glyphrl"
    top.mkdir(parents=True)
    for entry in (ROOT / folders["glyphrl"]).iterdir():
        if entry.name != "__pycache__":
            (top / entry.name).symlink_to(entry)
    for package, folder in folders.items():
        if package != "glyphrl":
            (top / package.removeprefix("glyphrl.")).symlink_to(ROOT / folder)


def real_paths(report: str, folders: dict[str, str]) -> str:
    """Mypy's lines with the files' own paths: `rewards/ned.py` in place of `glyphrl/rewards/ned.py`."""
    lines = []
    for line in report.splitlines(keepends=True):
        for package, folder in sorted(folders.items(), reverse=True):  # `glyphrl.rewards` before `glyphrl`
            link = package.replace(".", "/") + "/"
            if line.startswith(link):
                line = f"{folder}/{line.removeprefix(link)}"
                break
        lines.append(line)
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
