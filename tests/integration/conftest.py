"""What the integration tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helper modules beside the tests

if TYPE_CHECKING:
    from rollout_bench import Bench


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen2_vl"])
def shared_bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A running engine of each family; it costs some seconds, so it serves all tests, which sync their weights."""
    from rollout_bench import start_bench

    made = start_bench(request.param, tmp_path_factory.mktemp(request.param))
    yield made
    made.backend.llm.llm_engine.engine_core.shutdown()


@pytest.fixture
def bench(shared_bench: Bench) -> Iterator[Bench]:
    """The engine, idle: an exception in the middle of a rollout leaves requests that would block the next test."""
    yield shared_bench
    shared_bench.abandon()
