"""Running one piece of a run in processes of its own, so that all of its memory is free again when it ends.

Several ranks are started by torchrun.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from glyphrl.config_schema import LaunchConfig
from glyphrl.errors import UserError

WORKER = "glyphrl.worker"


class StageError(RuntimeError):
    """A piece of a run has ended with an error, which it has printed itself."""

    def __init__(self, what: str, exit_code: int) -> None:
        """Names the piece and its exit code."""
        super().__init__(f"{what} ended with exit code {exit_code}")
        self.exit_code = exit_code


def refuse_launcher() -> None:
    """Makes sure that no launcher has started several of this process.

    Raises:
        UserError: There are several ranks already.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        raise UserError(
            f"found {ranks} ranks of a launcher (torchrun, accelerate or deepspeed); expected none, since glyphrl "
            f"starts the ranks itself: run `glyphrl train` without it and set launch.processes={ranks}"
        )


def worker_command(what: str, config: Path, launch: LaunchConfig, *, resume: bool) -> list[str]:
    """The command that runs a stage (`sft`, `grpo`) or `eval` with a resolved configuration."""
    worker = ["-m", WORKER, what, str(config), *(["--resume"] if resume else [])]
    if launch.processes == 1 or what == "eval":
        return [sys.executable, *worker]
    port = launch.port or free_port()
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={launch.processes}",
        "--nnodes=1",
        "--master_addr=127.0.0.1",
        f"--master_port={port}",
        *worker,
    ]


def worker_environment(launch: LaunchConfig) -> dict[str, str]:
    """The environment of a worker: what the libraries below read from it, unless the user has set it."""
    environment = dict(os.environ)
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if launch.cpu:
        environment.setdefault("DS_ACCELERATOR", "cpu")
    if launch.processes > 1:
        cores = len(os.sched_getaffinity(0))
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // launch.processes)))
    # DeepSpeed calls `ninja` by its name to compile, and it may be installed beside the interpreter only
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    return environment


def free_port() -> int:
    """A TCP port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_worker(what: str, config: Path, launch: LaunchConfig, *, resume: bool) -> None:
    """Runs a piece of a run and waits for its end.

    Args:
        what: `sft`, `grpo` or `eval`.
        config: File with the resolved configuration.
        launch: The `launch` section.
        resume: Go on where it was stopped.

    Raises:
        StageError: It ended with an error.
        UserError: This process is itself one of several ranks.
    """
    refuse_launcher()
    command = worker_command(what, config, launch, resume=resume)
    # the child prints diagnostics; stdout belongs to the results of this program
    process = subprocess.Popen(command, env=worker_environment(launch), stdout=sys.stderr)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        raise StageError(what, code)
