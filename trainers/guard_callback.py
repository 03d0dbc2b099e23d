"""The guard within a training run: alarms in the log and in `alarms.jsonl`, and the end of a run that one ends."""

from __future__ import annotations

import fnmatch
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from glyphrl.config_schema import GuardConfig, ModelConfig
from glyphrl.trainers.alarms import ALARMS, Alarm, Stopped, append_alarm, write_stopped
from glyphrl.trainers.guard import REWARD, Guard, is_finite
from glyphrl.trainers.metrics_log import keep_lines_before
from glyphrl.trainers.models import load_for_inference
from glyphrl.trainers.stage import is_whole, publish

logger = logging.getLogger(__name__)

TRAINER_FILES = (
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    "trainer_state.json",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
)
"""What a checkpoint holds besides the model."""


class GuardCallback(TrainerCallback):
    """Hands what the Trainer logs to a `Guard`.

    Every rank has a guard of its own. They agree because what they look at is gathered from all ranks, so that all of
    them stop after the same step.
    """

    def __init__(
        self,
        settings: GuardConfig,
        run_dir: str | Path,
        *,
        weights: Mapping[str, float] | None = None,
        stage: str = "grpo",
    ) -> None:
        """Watches one stage.

        Args:
            settings: The `guard` section.
            run_dir: `alarms.jsonl` is written here.
            weights: Of the reward functions, where the reward is standardised within each group: its mean is 0 then,
                whatever the model does, and the weighted sum of the functions' own means is looked at instead.
            stage: Name of the stage in `alarms.jsonl`.
        """
        self.settings = settings
        self.run_dir = Path(run_dir)
        self.weights = weights
        self.stage = stage
        self.guard = Guard(settings)
        self.stopped_by: Alarm | None = None
        """The alarm that has ended the run."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes back alarms of steps that are done again, and catches up on the steps that are done."""
        if state.is_world_process_zero:
            keep_lines_before(self.run_dir / ALARMS, self.stage, state.global_step)
        if self.settings.action == "off":
            return
        self.guard = Guard(self.settings)
        for row in state.log_history:
            self.guard.observe(row["step"], self._numbers(row))
        self._stop_if_asked(list(self.guard.active.values()), control)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Looks at the newest numbers."""
        if self.settings.action == "off" or not logs or self.stopped_by is not None:
            return
        alarms = self.guard.observe(state.global_step, self._numbers(logs))
        if state.is_world_process_zero:
            for alarm in alarms:
                logger.warning("alarm at step %d (%s): %s", alarm.step, alarm.kind, alarm.sentence)
                append_alarm(self.run_dir, self.stage, alarm, self.settings.action)
        self._stop_if_asked(alarms, control)

    def _numbers(self, logs: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the guard looks at."""
        if self.weights is None:
            return logs
        means: dict[str, Any] = {name: logs.get(f"rewards/{name}/mean") for name in self.weights}
        known = {name: float(mean) for name, mean in means.items() if is_finite(mean)}
        if not known:
            return {}
        return {**logs, REWARD: sum(self.weights[name] * mean for name, mean in known.items())}

    def _stop_if_asked(self, alarms: list[Alarm], control: Any) -> None:
        if alarms and self.settings.action == "stop":
            # of several, the one whose window reaches back furthest
            self.stopped_by = min(alarms, key=lambda alarm: alarm.first_step)
            control.should_training_stop = True

    def note(self) -> str:
        """The alarms that hold, for the progress bar: `gaming, length`."""
        return ", ".join(self.guard.active)


def good_checkpoint(folder: Path, before: int) -> Path | None:
    """The newest whole checkpoint that was saved before step `before` was done; None where there is none."""
    numbered = [
        (int(path.name.split("-")[1]), path) for path in folder.glob("checkpoint-*") if is_whole(path)
    ]
    return max(((step, path) for step, path in numbered if step < before), default=(0, None))[1]


def stop_record(alarm: Alarm, checkpoint: Path | None, start: str) -> Stopped:
    """What is said of a run that an alarm has ended."""
    if checkpoint is not None:
        result, kept = checkpoint.name, f"its result is {checkpoint.name}, saved before that began"
    else:
        result = start
        kept = (
            f"no checkpoint was saved before that began, so its result is the model it started from ({start})"
        )
    sentence = f"GRPO was stopped by the guard after step {alarm.step}: {alarm.sentence}; {kept}"
    return Stopped(alarm, result, sentence)


def save_good(
    accelerator: Any, processor: Any, alarm: Alarm, final: Path, start: str, model: ModelConfig
) -> Stopped:
    """Makes the last good model the result of the stage, with a record of why.

    Args:
        accelerator: Of the trainer; the first rank copies, the others wait.
        processor: Saved beside the model.
        alarm: What has ended the run.
        final: The folder to make, beside the stage's checkpoints.
        start: The model that the stage started from: a folder or a hub id.
        model: The `model` section, to load `start` with where it is no folder.
    """
    checkpoint = good_checkpoint(final.parent, alarm.first_step)
    stopped = stop_record(alarm, checkpoint, start)
    if accelerator.is_main_process:
        logger.warning("%s", stopped.sentence)
        building = final.with_name(".final")
        shutil.rmtree(building, ignore_errors=True)
        source = checkpoint if checkpoint is not None else Path(start)
        if source.is_dir():
            shutil.copytree(source, building, ignore=_trainer_files)
        else:
            load_for_inference(start, model, cpu=False).save_pretrained(building)
        processor.save_pretrained(building)
        write_stopped(building, stopped)
        publish(building, final)
    accelerator.wait_for_everyone()
    return stopped


def _trainer_files(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in TRAINER_FILES)}
