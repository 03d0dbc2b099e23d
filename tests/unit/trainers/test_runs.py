"""Both stages for a few steps, through their `run`: what they leave behind, and a kill that changes nothing."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from glyphrl.config_schema import LoraSettings, RewardSpec, StageConfig
from glyphrl.rewards import register_reward
from glyphrl.trainers import grpo, sft
from glyphrl.trainers.completions_log import read_completions
from glyphrl.trainers.models import is_adapter
from glyphrl.trainers.stage import run_folder

STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def variety():
    """A reward that completions of a model that has learned nothing earn to different degrees."""

    @register_reward("trainer_test_variety", override=True)
    def trainer_test_variety(completions, solution, **columns):
        return [len(set(text)) / (len(text) + 1) for text in completions]


@pytest.fixture
def config(run_config, tmp_path, images):
    """Eight lines for training, two held out; four steps, a checkpoint after every second."""
    folder = tmp_path / "lines"
    folder.mkdir()
    labels = []
    for number in range(10):
        shutil.copy(images(2 + number % 3), folder / f"{number}.png")
        labels.append(f"{number}.png\t{number * 37}.0\n")
    (folder / "labels.tsv").write_text("".join(labels))
    run_config.data.train = str(folder)
    run_config.data.split.eval_fraction = 0.2
    shared = {
        "max_steps": STEPS,
        "save_steps": 2,
        "learning_rate": 1e-3,
        "report_to": [],
        "per_device_train_batch_size": 4,
        "disable_tqdm": True,
    }
    run_config.sft = StageConfig(args={**shared, "eval_strategy": "steps", "eval_steps": 2})
    run_config.grpo = StageConfig(
        args={**shared, "num_generations": 2, "max_completion_length": 5, "gradient_accumulation_steps": 2}
    )
    run_config.rewards.functions = [RewardSpec("trainer_test_variety", isolate=False)]
    run_config.rollout.backend = "transformers"
    return run_config


def metrics(config, stage):
    rows = [json.loads(line) for line in (run_folder(config).root / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage]


def stable(rows):
    """Without what a clock decides."""
    return [{n: v for n, v in row.items() if "time" not in n and "second" not in n} for row in rows]


def stop_after(config, stage, step):
    """As a kill leaves it: checkpoints up to `step`, half of the next one, a cut line, a file half written."""
    folder = run_folder(config)
    shutil.rmtree(folder.final(stage))
    for number in range(step + 1, STEPS + 1):
        shutil.rmtree(folder.stage(stage) / f"checkpoint-{number}", ignore_errors=True)
    (folder.stage(stage) / f"checkpoint-{step + 1}").mkdir()
    (folder.stage(stage) / f"checkpoint-{step + 1}" / "model.safetensors").write_bytes(b"half")
    with (folder.root / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "' + stage + '", "st')
    if stage == "grpo":
        (folder.root / "completions" / ".step-00000009-rank-0000-000.parquet.x.tmp").write_bytes(b"PAR1")


def weights(config, stage):
    return load_file(run_folder(config).final(stage) / "model.safetensors")


def assert_same(got, expected):
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_sft_and_a_kill(config, tiny25):
    """The stage that was killed after step 3 ends with the weights and the log of one that was not."""
    final = sft.run(config)
    assert final == run_folder(config).final("sft")
    assert (final / "preprocessor_config.json").exists() or (final / "processor_config.json").exists()
    whole, log = weights(config, "sft"), metrics(config, "sft")
    base = load_file(tiny25.folder / "model.safetensors")
    assert not torch.equal(
        whole["model.language_model.norm.weight"], base["model.language_model.norm.weight"]
    )
    vision = [name for name in base if name.startswith("model.visual.")]
    assert_same({name: whole[name] for name in vision}, {name: base[name] for name in vision})
    assert [row["step"] for row in log if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in log if "eval_loss" in row] == [2, 4]
    stop_after(config, "sft", 2)
    sft.run(config, resume=True)
    assert_same(weights(config, "sft"), whole)
    assert stable(metrics(config, "sft")) == stable(log)


def test_grpo_and_a_kill(config, tiny25):
    """Likewise, with every completion in the log once."""
    config.sft = None
    final = grpo.run(config)
    assert final == run_folder(config).final("grpo")
    whole, log = weights(config, "grpo"), metrics(config, "grpo")
    rows = stable(read_completions(config.output_dir).to_pylist())
    assert not torch.equal(
        whole["model.language_model.norm.weight"],
        load_file(tiny25.folder / "model.safetensors")["model.language_model.norm.weight"],
    )
    assert [row["step"] for row in log if "loss" in row] == [1, 2, 3, 4]
    assert all(
        {"reward", "entropy", "format_rate", "time/rollout"} <= set(row) for row in log if "loss" in row
    )
    assert [row["step"] for row in rows] == [step for step in range(STEPS) for _ in range(8)]
    assert len({(row["group_id"], row["completion_index"]) for row in rows}) == len(rows)
    stop_after(config, "grpo", 2)
    grpo.run(config, resume=True)
    assert_same(weights(config, "grpo"), whole)
    assert stable(metrics(config, "grpo")) == stable(log)
    assert stable(read_completions(config.output_dir).to_pylist()) == rows


def test_adapters_through_both_stages(config, tiny25):
    """GRPO goes on with the adapter that SFT has trained; the base model's own weights are never written."""
    before = (tiny25.folder / "model.safetensors").read_bytes()
    config.model.lora = LoraSettings(r=2)
    config.sft.args["max_steps"] = config.grpo.args["max_steps"] = 1
    first, second = sft.run(config), grpo.run(config)
    assert is_adapter(first)
    assert is_adapter(second)
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert set(one) == set(other)
    assert any(value.any() for name, value in one.items() if "lora_B" in name), "SFT has learned something"
    moved = [name for name, value in one.items() if not torch.equal(value, other[name])]
    assert moved, "and GRPO more"
    config_of = json.loads((second / "adapter_config.json").read_text())
    assert config_of["base_model_name_or_path"] == str(tiny25.folder)
    assert (tiny25.folder / "model.safetensors").read_bytes() == before
