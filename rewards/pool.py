"""Worker processes that can be killed: time limits that hold, and crashes that the run survives."""

from __future__ import annotations

import atexit
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any, Literal

from glyphrl.rewards.errors import RewardError

_START_LIMIT = 300.0
"""Seconds a worker may take to start; user code may import large libraries."""


@dataclass(frozen=True)
class Outcome:
    """How one call went."""

    kind: Literal["ok", "error", "timeout", "crash"]
    """`error`: the callable raised; `crash`: the process died."""
    value: Any = None
    """What was returned, where `kind` is `ok`."""
    message: str = ""
    """What went wrong, else."""


class Worker:
    """One process that holds one callable. Started by the first call, and again after it was killed."""

    def __init__(self, factory: str, kwargs: dict[str, Any], memory_limit: int | None = None) -> None:
        self.factory = factory
        self.kwargs = kwargs
        self.memory_limit = memory_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Any = None

    def _start(self) -> None:
        parent_end, child_end = Pipe()
        command = [sys.executable, "-m", "glyphrl.rewards.worker", str(child_end.fileno())]
        # BLAS threads of several workers would fight for the cores with training.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        self._process = subprocess.Popen(
            command, pass_fds=[child_end.fileno()], stdin=subprocess.DEVNULL, env=environment
        )
        child_end.close()
        self._connection = parent_end
        setup = {
            "factory": self.factory,
            "kwargs": self.kwargs,
            "sys_path": list(sys.path),
            "memory_limit": self.memory_limit,
        }
        self._connection.send(setup)
        outcome = self._receive(_START_LIMIT)
        if outcome.kind != "ok":
            self.close()
            raise RewardError(f"a reward worker did not start: {outcome.message}")

    def _receive(self, limit: float | None) -> Outcome:
        try:
            if not self._connection.poll(limit):
                self.close()
                return Outcome("timeout", message=f"no result within {limit:g} s")
            kind, payload = self._connection.recv()
        except (EOFError, OSError):
            code = self._process.wait() if self._process else None
            self.close()
            return Outcome("crash", message=f"the process died with exit code {code}")
        return Outcome("ok", payload) if kind == "ok" else Outcome("error", message=payload)

    def call(self, arguments: tuple[Any, ...], limit: float | None) -> Outcome:
        """Calls the worker's callable.

        Args:
            arguments: Positional arguments; they are pickled.
            limit: Seconds after which the process is killed. None: no limit.

        Raises:
            RewardError: The worker did not start, or the arguments cannot be sent.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            self._connection.send(arguments)
        except OSError:
            return self._receive(0.0)
        except (TypeError, AttributeError, ValueError) as error:
            raise RewardError(f"the columns cannot be sent to a reward worker: {error}") from error
        return self._receive(limit)

    def kill(self) -> None:
        """Kills the process, from any thread; a call that waits for it ends with the outcome `crash`."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Kills the process, if there is one, while no call is under way."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._connection.close()


class WorkerPool:
    """Several workers with the same callable, for calls that do not depend on one another.

    Nothing is started before the first call. Safe to use from several threads.
    """

    def __init__(
        self,
        factory: str,
        kwargs: dict[str, Any] | None = None,
        processes: int = 1,
        memory_limit: int | None = None,
    ) -> None:
        """Prepares a pool.

        Args:
            factory: `module:function`; called with `kwargs` in each worker, it returns the callable.
            kwargs: Picklable keyword arguments of the factory.
            processes: Number of workers.
            memory_limit: Address space of each worker in bytes. None: no limit.
        """
        self._workers = [Worker(factory, kwargs or {}, memory_limit) for _ in range(processes)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        _POOLS.add(self)

    def call(self, arguments: tuple[Any, ...], limit: float | None = None) -> Outcome:
        """Makes one call on the next idle worker; see `Worker.call`."""
        worker = self._idle.get()
        try:
            return worker.call(arguments, limit)
        finally:
            self._idle.put(worker)

    def map(self, calls: Iterable[tuple[Any, ...]], limit: float | None = None) -> list[Outcome]:
        """Makes many calls on all workers; the outcomes stand in the order of the calls."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(len(self._workers), "reward-pool")
        return list(self._threads.map(lambda arguments: self.call(arguments, limit), calls))

    def kill(self) -> None:
        """Kills the workers, from any thread; calls that wait for them end with the outcome `crash`."""
        for worker in self._workers:
            worker.kill()

    def close(self) -> None:
        """Kills the workers while no call is under way; a later call starts them again."""
        for worker in self._workers:
            worker.close()


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """Kills every worker of this process."""
    for pool in list(_POOLS):
        pool.kill()
