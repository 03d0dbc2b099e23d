"""Starting a piece of a run in processes of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glyphrl.config_schema import LaunchConfig
from glyphrl.errors import UserError
from glyphrl.trainers import launch
from glyphrl.trainers.launch import (
    StageError,
    free_port,
    refuse_launcher,
    run_worker,
    worker_command,
    worker_environment,
)

CONFIG = Path("run folder/config.yaml")


def test_one_process():
    for what in ("sft", "grpo", "eval"):
        assert worker_command(what, CONFIG, LaunchConfig(), resume=False) == [
            sys.executable, "-m", "glyphrl.worker", what, str(CONFIG),
        ]  # fmt: skip
    assert worker_command("grpo", CONFIG, LaunchConfig(), resume=True)[-1] == "--resume"


def test_the_worker_is_there():
    """The module that is started can be found by the interpreter that starts it."""
    code = f"import importlib.util as u; assert u.find_spec({launch.WORKER!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_several_ranks():
    command = worker_command("grpo", CONFIG, LaunchConfig(processes=2, port=12345), resume=True)
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert "--nproc_per_node=2" in command
    assert "--nnodes=1" in command
    assert "--master_addr=127.0.0.1" in command
    assert "--master_port=12345" in command
    assert command[-5:] == ["-m", "glyphrl.worker", "grpo", str(CONFIG), "--resume"]


def test_evaluation_needs_one_process():
    command = worker_command("eval", CONFIG, LaunchConfig(processes=2), resume=False)
    assert command == [sys.executable, "-m", "glyphrl.worker", "eval", str(CONFIG)]


def test_a_free_port_is_found():
    command = worker_command("sft", CONFIG, LaunchConfig(processes=2), resume=False)
    (port,) = [part.removeprefix("--master_port=") for part in command if part.startswith("--master_port=")]
    for number in (int(port), free_port()):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", number))


@pytest.fixture
def bare(monkeypatch):
    """No variable that the worker's environment is about."""
    for name in ("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_TELEMETRY", "DS_ACCELERATOR", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin")


def test_environment(bare):
    environment = worker_environment(LaunchConfig())
    assert environment["TOKENIZERS_PARALLELISM"] == "false"
    assert "DS_ACCELERATOR" not in environment
    assert "OMP_NUM_THREADS" not in environment
    assert environment["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
    assert os.environ["PATH"] == "/usr/bin"


def test_ranks_share_the_cores(bare, monkeypatch):
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda process: set(range(8)))
    assert worker_environment(LaunchConfig(processes=2, cpu=True))["OMP_NUM_THREADS"] == "4"
    assert worker_environment(LaunchConfig(processes=3, cpu=True))["OMP_NUM_THREADS"] == "2"
    assert worker_environment(LaunchConfig(processes=16, cpu=True))["OMP_NUM_THREADS"] == "1"
    assert worker_environment(LaunchConfig(cpu=True))["DS_ACCELERATOR"] == "cpu"


def test_what_the_user_has_set_stays(bare, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    environment = worker_environment(LaunchConfig(processes=2, cpu=True))
    assert (environment["OMP_NUM_THREADS"], environment["DS_ACCELERATOR"]) == ("3", "cuda")


def test_a_launcher_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    refuse_launcher()
    monkeypatch.setenv("WORLD_SIZE", "1")
    refuse_launcher()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"found 4 ranks of a launcher.*launch\.processes=4"):
        run_worker("sft", CONFIG, LaunchConfig(), resume=False)


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A module in the worker's place, run by the real interpreter."""

    def make(code):
        (tmp_path / "stand_in_worker.py").write_text(code)
        monkeypatch.setattr(launch, "WORKER", "stand_in_worker")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return make


def test_a_worker_that_succeeds(worker, tmp_path, capfd):
    worker(
        f"import sys, pathlib; pathlib.Path({str(tmp_path / 'seen')!r}).write_text(repr(sys.argv[1:])); print('hi')"
    )
    run_worker("sft", CONFIG, LaunchConfig(), resume=True)
    assert (tmp_path / "seen").read_text() == repr(["sft", str(CONFIG), "--resume"])
    out, err = capfd.readouterr()
    assert (out, err) == ("", "hi\n"), "stdout belongs to the results of the program"


@pytest.mark.parametrize("code", [1, 2, 7])
def test_a_worker_that_fails(worker, code):
    worker(f"import sys; sys.exit({code})")
    with pytest.raises(StageError, match=f"grpo ended with exit code {code}") as failed:
        run_worker("grpo", CONFIG, LaunchConfig(), resume=False)
    assert failed.value.exit_code == code


def test_a_worker_that_is_killed(worker):
    worker("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(StageError) as failed:
        run_worker("grpo", CONFIG, LaunchConfig(), resume=False)
    assert failed.value.exit_code == -signal.SIGKILL


def test_an_interrupt_ends_the_worker(worker, tmp_path, monkeypatch):
    """No orphan goes on to write into the run folder."""
    worker(f"import time, os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    really = subprocess.Popen.wait
    calls = []

    def interrupted(process, timeout=None):
        calls.append(process)
        if len(calls) == 1:
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                time.sleep(0.01)
            raise KeyboardInterrupt
        return really(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_worker("grpo", CONFIG, LaunchConfig(), resume=False)
    assert calls[0].returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
