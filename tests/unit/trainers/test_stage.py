"""Folders of a run: whole or absent, and the right model to start from."""

import inspect
import os
import shutil
from pathlib import Path

import pytest
from transformers import AutoProcessor, PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from glyphrl.config_schema import GrpoStageConfig, StageConfig, TinyModelConfig
from glyphrl.errors import UserError
from glyphrl.trainers import stage
from glyphrl.trainers.metrics_log import ProgressBar
from glyphrl.trainers.models import load_base_model
from glyphrl.trainers.prompts import ImageSizing
from glyphrl.trainers.stage import (
    base_model_path,
    last_checkpoint,
    publish,
    quieten,
    run_folder,
    sizing_of,
    start_model,
    trainer_arguments,
    use_cpu,
)


def folder_with(path, **files):
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_text(content)
    return path


def content(path):
    return {file.name: file.read_text() for file in path.iterdir()}


def checkpoint(folder, step, state='{"global_step": 1}'):
    path = folder_with(folder / f"checkpoint-{step}", model="weights")
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


def test_the_newest_checkpoint_counts_by_its_number(tmp_path):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize("state", [None, "", '{"global_step": 1', '{"log_history": [{"loss": 0.'])
def test_a_checkpoint_that_was_cut_short_is_removed(tmp_path, state):
    """Without the file that the Trainer writes last, or with half of it."""
    kept = checkpoint(tmp_path, 2)
    broken = checkpoint(tmp_path, 4, state)
    assert last_checkpoint(tmp_path) == str(kept)
    assert not broken.exists()
    assert content(kept) == {"model": "weights", "trainer_state.json": '{"global_step": 1}'}


def test_no_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    checkpoint(tmp_path, 4, None)
    assert last_checkpoint(tmp_path) is None


def test_another_rank_removes_the_same_checkpoint(tmp_path, monkeypatch):
    checkpoint(tmp_path, 4, None)
    really = shutil.rmtree

    def twice(path, **options):
        really(path)
        really(path, **options)

    monkeypatch.setattr(stage.shutil, "rmtree", twice)
    assert last_checkpoint(tmp_path) is None


def test_publishing(tmp_path):
    building, final = folder_with(tmp_path / ".final", model="new"), tmp_path / "sft" / "final"
    publish(building, final)
    assert content(final) == {"model": "new"}
    publish(folder_with(tmp_path / ".final", other="newer"), final)
    assert content(final) == {"other": "newer"}
    assert os.listdir(tmp_path) == ["sft"]
    assert os.listdir(tmp_path / "sft") == ["final"]


@pytest.mark.parametrize("broken", ["rmtree", "replace"])
def test_a_kill_while_publishing(tmp_path, monkeypatch, broken):
    """At any moment the final name holds the old result, the new one, or nothing; then publishing works again."""
    final = folder_with(tmp_path / "final", model="old", more="old")
    building = folder_with(tmp_path / ".final", model="new")

    def killed(path, *rest, **options):
        path = Path(path)
        if broken == "rmtree" and not path.exists():
            return
        if broken == "rmtree":
            (path / "more").unlink()  # half of it is gone
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stage.shutil if broken == "rmtree" else stage.os, broken, killed)
        with pytest.raises(KeyboardInterrupt):
            publish(building, final)
    found = content(final) if final.exists() else None
    assert found in ({"model": "old", "more": "old"}, {"model": "new"}, None)
    if not building.exists():
        building = folder_with(tmp_path / ".final", model="new")
    publish(building, final)
    assert content(final) == {"model": "new"}
    assert os.listdir(tmp_path) == ["final"]


def test_where_a_stage_starts(run_config, tiny25):
    """GRPO goes on from what SFT has finished, and from the base model where there is no such thing."""
    run_config.sft, run_config.grpo = StageConfig(), GrpoStageConfig()
    folder = run_folder(run_config)
    assert start_model(run_config, "sft") == start_model(run_config, "grpo") == str(tiny25.folder)
    folder_with(folder.stage("sft") / "checkpoint-4", model="half")
    assert start_model(run_config, "grpo") == str(tiny25.folder)
    folder_with(folder.final("sft"), model="whole")
    folder_with(folder.final("grpo"), model="whole")
    assert start_model(run_config, "grpo") == str(folder.final("sft"))
    assert start_model(run_config, "sft") == str(tiny25.folder)
    run_config.sft.enabled = False
    assert start_model(run_config, "grpo") == str(tiny25.folder)
    run_config.sft = None
    assert start_model(run_config, "grpo") == str(tiny25.folder)


def test_folders(run_config):
    folder = run_folder(run_config)
    root = Path(run_config.output_dir)
    assert (folder.root, folder.base) == (root, root / "base")
    assert folder.final("grpo") == root / "grpo" / "final"
    assert folder.evaluation("sft") == root / "eval" / "sft"
    assert sizing_of(run_config) == ImageSizing(28 * 28, 28 * 28 * 8)
    assert use_cpu(run_config)


def test_a_tiny_base_model_is_built_once(run_config):
    run_config.model.path = None
    run_config.model.tiny = TinyModelConfig("qwen2_vl", 32, 1, 16, 1)
    run_config.data.min_pixels, run_config.data.max_pixels = 784 * 2, 784 * 6
    path = Path(base_model_path(run_config))
    assert path == run_folder(run_config).base
    model = load_base_model(str(path), run_config.model, cpu=True)
    assert model.config.model_type == "qwen2_vl"
    assert model.config.text_config.hidden_size == 32
    size = AutoProcessor.from_pretrained(path).image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (784 * 2, 784 * 6)
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert base_model_path(run_config) == str(path)
    assert (path / "model.safetensors").stat().st_mtime_ns == before


def test_the_seed_decides_the_tiny_model(run_config):
    run_config.model.path, run_config.model.tiny = None, TinyModelConfig("qwen2_5_vl", 32, 1, 16, 1)
    weights = []
    for number, seed in enumerate((0, 0, 1)):
        run_config.output_dir, run_config.seed = f"{run_config.output_dir}{number}", seed
        weights.append((Path(base_model_path(run_config)) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_no_model_at_all(run_config):
    run_config.model.path = None
    with pytest.raises(UserError, match="neither path nor tiny"):
        base_model_path(run_config)


def test_arguments_of_the_trainer(run_config, monkeypatch):
    """What the YAML says beats the stage's defaults, and both beat ours; folder and seed are the run's."""
    run_config.seed = 7
    run_config.sft = StageConfig(args={"learning_rate": 1e-3, "max_length": 50, "report_to": []})
    got = trainer_arguments(run_config, "sft", {"max_length": None, "packing": False})
    assert got["learning_rate"] == 1e-3
    assert (got["max_length"], got["packing"]) == (50, False)
    assert (got["report_to"], got["logging_steps"]) == ([], 1)
    assert (got["seed"], got["use_cpu"], got["bf16"]) == (7, True, False)
    assert got["output_dir"] == str(run_folder(run_config).stage("sft"))
    assert "deepspeed" not in got
    run_config.launch.deepspeed = "zero2.json"
    assert trainer_arguments(run_config, "sft", {})["deepspeed"] == "zero2.json"


def test_one_progress_bar_at_most():
    class Callbacks:
        """What `quieten` needs of a Trainer."""

        def __init__(self):
            self.found = [PrinterCallback, ProgressCallback]

        def remove_callback(self, kind):
            self.found.remove(kind)

        def add_callback(self, callback):
            self.found.append(type(callback))

    for disabled, expected in ((False, [ProgressBar]), (True, [])):
        trainer = Callbacks()
        quieten(trainer, disabled, lambda: ProgressBar("SFT"))
        assert trainer.found == expected
    assert issubclass(ProgressBar, TrainerCallback)


def test_the_state_that_marks_a_whole_checkpoint_is_written_last():
    """The rule of `last_checkpoint` rests on transformers' order of writing."""
    source = inspect.getsource(Trainer._save_checkpoint)
    order = [
        source.index(part) for part in ("save_model(", "_save_optimizer_and_scheduler(", "_save_rng_state(")
    ]
    assert order == sorted(order)
    assert source.index("save_to_json(") > order[-1]
