"""What a finished run prints, and with which exit code it ends."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from glyphrl.commands.train import show_run
from glyphrl.config_schema import RunConfig
from glyphrl.output import Results
from glyphrl.trainers.alarms import Alarm, Stopped, write_stopped


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_that_its_guard_has_stopped_says_so(tmp_path: Path, as_json: bool, stopped: bool) -> None:
    final = tmp_path / "grpo" / "final"
    final.mkdir(parents=True)
    if stopped:
        alarm = Alarm("gaming", 40, 21, "the reward rose")
        write_stopped(final, Stopped(alarm, "checkpoint-20", "GRPO was stopped by the guard"))
    stream = io.StringIO()
    code = show_run(RunConfig(output_dir=str(tmp_path)), None, Results(stream, as_json))
    assert code == (3 if stopped else 0)
    if as_json:
        printed = json.loads(stream.getvalue())
        assert ("stopped" in printed) is stopped
        assert not stopped or printed["stopped"]["alarm"]["kind"] == "gaming"
    else:
        assert ("GRPO was stopped by the guard" in stream.getvalue()) is stopped
