"""`glyphrl view` on the command line: what it refuses, and that it serves, says where, and ends cleanly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from glyphrl.cli import main


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that is refused says."""
    assert main(["view", *words]) == 2
    return capsys.readouterr().err


def test_wrong_use_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    run = str(tmp_path)
    assert "nowhere: expected a run folder, found nothing" in refused(capsys, f"{tmp_path}/nowhere")
    assert "give a token with it" in refused(capsys, run, "--host", "0.0.0.0")
    assert "token is not fit" in refused(capsys, run, "--host", "0.0.0.0", "--token", "secret")
    assert "expected 0 to 65535" in refused(capsys, run, "--port", "70000")
    assert "expected a folder, found none" in refused(capsys, run, "--images", f"{tmp_path}/none")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_serves_until_it_is_ended(tmp_path: Path, number: int, code: int) -> None:
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    for folder in (run, scratch):
        folder.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
    command = [sys.executable, "-m", "glyphrl", "view", str(run), "--port", "0", "--json"]
    environment = {"TMPDIR": str(scratch), "PATH": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        said = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        assert said["runs"] == {"run": str(run)}
        with urllib.request.urlopen(said["address"] + "api/state") as answer:
            assert json.load(answer)["runs"][0]["name"] == "run"
        assert list(scratch.iterdir())
        server.send_signal(number)
        _, errors = server.communicate(timeout=60)
    assert server.returncode == code
    assert "Traceback" not in errors
    assert not list(scratch.iterdir())  # the index is gone
    assert [path.name for path in run.iterdir()] == ["config.yaml"]  # and the run is as it was
