"""The guard in a training run: its files, what a resumed run does with them, and the result of a run that it ends."""

import json
import shutil
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, TrainerControl, TrainerState
from trl_twin import arguments, group_trainer, register_similarity, rollout

from glyphrl.config_schema import GuardConfig, ModelConfig, RewardsConfig, RewardSpec
from glyphrl.rewards import register_reward
from glyphrl.rewards.compose import build_composer
from glyphrl.trainers.alarms import ALARMS, Alarm, read_alarms, read_stopped
from glyphrl.trainers.guard_callback import GuardCallback, good_checkpoint, save_good
from glyphrl.trainers.models import is_adapter, load_for_inference

pytestmark = pytest.mark.slow  # trains

HONEST = 5
"""Steps before the gaming begins."""
SETTINGS = GuardConfig(action="stop", window=6, length_growth=None)


@dataclass
class Gamer:
    """A model that reads well, and after `HONEST` steps writes more and more of what only the reward likes."""

    tiny: object
    step: int = 0

    def sync(self, model):
        self.step += 1

    def sample(self, prompts, n, sampling):
        extra = max(0, self.step - HONEST)
        endings = ["!" * extra, "!" * (extra + 1), "!" * (2 * extra)]
        return [
            [rollout(self.tiny, f"{prompt.sample.solution}{ending}") for ending in endings]
            for prompt in prompts
        ]


@pytest.fixture(scope="module", autouse=True)
def likes_exclamations():
    """A reward that is gamed by construction."""
    register_similarity()

    @register_reward("guard_test_loud", override=True)
    def guard_test_loud(completions, solution, **columns):
        return [text.count("!") / 10 for text in completions]


def gaming_trainer(tiny, samples, folder, settings, *, lora=False, **changes):
    """A trainer whose policy games its reward, with a guard; a checkpoint after every second step."""
    args = arguments(
        folder / "grpo",
        **{"save_steps": 2, "logging_steps": 1, "max_steps": 10, "learning_rate": 1e-3, **changes},
        gradient_accumulation_steps=1,
        per_device_train_batch_size=6,
        shuffle_dataset=False,
    )
    trainer = group_trainer(tiny, samples, folder, args, lora=lora)
    composer = build_composer(RewardsConfig(functions=[RewardSpec("guard_test_loud", isolate=False)]))
    trainer.composer = trainer.sampler.composer = composer
    trainer.sampler.backend = Gamer(tiny)
    guard = GuardCallback(settings, folder)
    trainer.add_callback(guard)
    return trainer, guard


def weights(folder):
    name = "adapter_model.safetensors" if is_adapter(folder) else "model.safetensors"
    return load_file(folder / name)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_gamed_run_ends_with_the_weights_from_before(tiny25, samples, tmp_path, lora, caplog):
    """Honest to step 5, clear at step 8: its window begins with step 3, so checkpoint-2 is the last good one."""
    trainer, guard = gaming_trainer(tiny25, samples, tmp_path, SETTINGS, lora=lora)
    trainer.train()
    assert trainer.state.global_step == 8
    (alarm,) = read_alarms(tmp_path)
    assert guard.stopped_by == alarm
    assert (alarm.kind, alarm.step, alarm.first_step) == ("gaming", 8, 3)
    assert alarm.sentence in caplog.text
    final = tmp_path / "grpo" / "final"
    stopped = save_good(
        trainer.accelerator, tiny25.processor, alarm, final, str(tiny25.folder), ModelConfig()
    )
    assert stopped.result == "checkpoint-2"
    assert read_stopped(final) == stopped
    assert "its result is checkpoint-2" in stopped.sentence
    assert alarm.sentence in stopped.sentence
    kept, good, last = (
        weights(tmp_path / "grpo" / name) for name in ("final", "checkpoint-2", "checkpoint-8")
    )
    assert kept.keys() == good.keys()
    assert all(torch.equal(value, good[name]) for name, value in kept.items())
    assert not all(torch.equal(value, last[name]) for name, value in kept.items())
    names = {path.name for path in final.iterdir()}
    assert not names & {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
    assert "tokenizer.json" in names
    if not lora:
        load_for_inference(str(final), ModelConfig(), cpu=True)


def test_a_resumed_run_gives_an_alarm_once(tiny25, samples, tmp_path):
    """The run goes on at step 6, before the alarm: its line goes, and stands there again when step 8 is done."""
    settings = GuardConfig(action="warn", window=6, length_growth=None)
    trainer, guard = gaming_trainer(tiny25, samples, tmp_path, settings, max_steps=8)
    trainer.train()
    first = read_alarms(tmp_path)
    assert [alarm.step for alarm in first] == [8]
    assert guard.stopped_by is None
    assert guard.note() == "gaming"
    again, guard = gaming_trainer(tiny25, samples, tmp_path, settings, max_steps=8)
    again.sampler.backend.step = 6
    again.train(resume_from_checkpoint=str(tmp_path / "grpo" / "checkpoint-6"))
    assert read_alarms(tmp_path) == first, "the steps before the resume were looked at too"


def state_after(values, **more):
    history = [{"step": step, "reward": 0.5, "frac_reward_zero_std": v} for step, v in enumerate(values, 1)]
    return TrainerState(global_step=len(values), log_history=history, **more)


def test_a_run_killed_between_alarm_and_end_stops_at_once(tmp_path):
    """The checkpoint of the alarm's own step is resumed: the alarm holds, is not written twice, and ends the run."""
    (tmp_path / ALARMS).write_text(
        json.dumps({"stage": "grpo", "step": 6, "kind": "no_signal", "first_step": 1, "sentence": "so"})
        + "\n"
        + json.dumps({"stage": "grpo", "step": 7, "kind": "length", "first_step": 2, "sentence": "so"})
        + '\n{"stage": "gr'
    )
    guard, control = GuardCallback(SETTINGS, tmp_path), TrainerControl()
    guard.on_train_begin(None, state_after([1.0] * 6), control)
    assert control.should_training_stop
    assert guard.stopped_by.kind == "no_signal"
    assert [alarm.step for alarm in read_alarms(tmp_path)] == [6]


@pytest.mark.parametrize(("action", "lines"), [("warn", 1), ("off", 0)])
def test_what_does_not_stop(tmp_path, action, lines):
    guard = GuardCallback(GuardConfig(action=action, window=6), tmp_path)
    control = TrainerControl()
    guard.on_train_begin(None, state_after([1.0] * 5), control)
    guard.on_log(
        None, TrainerState(global_step=6), control, logs={"reward": 0.5, "frac_reward_zero_std": 1.0}
    )
    assert not control.should_training_stop
    assert len(read_alarms(tmp_path)) == lines


def test_every_rank_stops_and_one_writes(tmp_path):
    guard, control = GuardCallback(SETTINGS, tmp_path), TrainerControl()
    state = state_after([1.0] * 5, is_world_process_zero=False)
    guard.on_train_begin(None, state, control)
    assert not control.should_training_stop
    state.global_step = 6
    guard.on_log(None, state, control, logs={"reward": 0.5, "frac_reward_zero_std": 1.0})
    assert control.should_training_stop
    assert not (tmp_path / ALARMS).exists()


def test_standardised_rewards_are_watched_by_their_parts(tmp_path):
    """The mean of the reward stays 0; 1.0 * loud - 0.5 * long rises from 0.5 by 0.05 a step."""
    guard = GuardCallback(SETTINGS, tmp_path, weights={"loud": 1.0, "long": -0.5, "rare": 1.0})
    for step in range(6):
        logs = {"reward": 0.0, "rewards/loud/mean": 1 + 0.1 * step, "rewards/long/mean": 1 + 0.1 * step}
        logs |= {"rewards/rare/mean": None, "edit_similarity": 0.6 - 0.02 * step}
        guard.on_log(None, TrainerState(global_step=step + 1), TrainerControl(), logs=logs)
    assert guard.stopped_by.kind == "gaming"
    assert "rose from 0.500 to 0.750" in guard.stopped_by.sentence


def test_the_last_good_checkpoint(tmp_path):
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-6").mkdir()  # cut short
    assert good_checkpoint(tmp_path, 5).name == "checkpoint-4"
    assert good_checkpoint(tmp_path, 8).name == "checkpoint-4"
    assert good_checkpoint(tmp_path, 4).name == "checkpoint-2", "checkpoint-4 has done step 4 already"
    assert good_checkpoint(tmp_path, 2) is None


def test_without_a_good_checkpoint_the_result_is_where_the_stage_started(tiny25, tmp_path):
    class OneRank:
        is_main_process = True

        def wait_for_everyone(self):
            """Nobody else is there."""

    start = tmp_path / "sft" / "final"
    shutil.copytree(tiny25.folder, start)
    alarm = Alarm("length", 9, 1, "too long")
    stopped = save_good(
        OneRank(), tiny25.processor, alarm, tmp_path / "grpo" / "final", str(start), ModelConfig()
    )
    assert stopped.result == str(start)
    assert (
        "no checkpoint was saved before that began, so its result is the model it started from"
        in stopped.sentence
    )
    made = AutoModelForImageTextToText.from_pretrained(tmp_path / "grpo" / "final", dtype=torch.float32)
    for name, value in tiny25.model().state_dict().items():
        assert torch.equal(value, made.state_dict()[name]), name
