"""Checkpoints give back every weight."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from trl import SFTConfig

from glyphrl.data.table import SampleTable
from glyphrl.trainers.checkpoints import load_weights
from glyphrl.trainers.sft import AnswerCollator
from glyphrl.trainers.sft_trainer import AnswerTrainer

pytestmark = pytest.mark.slow  # trains


def trainer_of(tiny, samples, model, folder):
    """Two steps at a high rate, a checkpoint after each."""
    collator = AnswerCollator(
        tiny.processor,
        {"sft": SampleTable.from_samples(samples)},
        system=None,
        sizing=tiny.sizing,
        template="{solution}",
        max_length=None,
    )
    args = SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        max_steps=2,
        save_steps=1,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    table = Dataset.from_dict({"index": range(len(samples)), "split": ["sft"] * len(samples)})
    return AnswerTrainer(
        model=model, args=args, train_dataset=table, processing_class=tiny.processor, data_collator=collator
    )


def adapted(model):
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))


def copied(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(model, expected):
    state = model.state_dict()
    assert set(state) == set(expected)
    assert [name for name, value in expected.items() if not torch.equal(state[name], value)] == []


def moved(model, start):
    return [name for name, value in model.state_dict().items() if not torch.equal(value, start[name])]


def test_transformers_saves_other_names_than_the_trainer_reads(tiny):
    """The reason for `WholeCheckpoints`: when this fails, transformers has mended it and it can go."""
    model = tiny.model()
    saved = load_file(tiny.folder / "model.safetensors")
    assert not set(saved) & set(model.state_dict())


@pytest.mark.parametrize("lora", [False, True])
def test_going_on_and_the_best_model(tiny, samples, tmp_path, lora):
    """After the first step's checkpoint: what a resumed run starts from, and what the best model at the end is."""
    make = adapted if lora else lambda model: model
    trainer = trainer_of(tiny, samples, make(tiny.model()), tmp_path)
    start = copied(trainer.model)
    trainer.train()
    last = copied(trainer.model)
    assert moved(trainer.model, start)
    again = trainer_of(tiny, samples, make(tiny.model()), tmp_path)
    assert_same(again.model, start)
    again._load_from_checkpoint(str(tmp_path / "checkpoint-2"))
    assert_same(again.model, last)
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert {
        name for name, parameter in again.model.named_parameters() if parameter.requires_grad
    } == trainable
    again._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    first = copied(again.model)
    assert moved(again.model, start)
    assert moved(again.model, last)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    trainer._load_best_model()
    assert_same(trainer.model, first)


def test_an_adapter_with_a_reference_beside_it(tiny25, samples, tmp_path):
    """TRL keeps one where a KL term is used; transformers alone would load the reference and leave the policy."""
    model = adapted(tiny25.model())
    model.add_adapter("ref", model.peft_config["default"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.5 if ".ref." in name else 0.25)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "ref" / "adapter_config.json").exists()
    expected = copied(model)
    fresh = adapted(tiny25.model())
    fresh.add_adapter("ref", fresh.peft_config["default"])
    trainer = trainer_of(tiny25, samples, fresh, tmp_path / "trainer")
    trainer._load_from_checkpoint(str(tmp_path))
    assert_same(trainer.model, expected)
    assert trainer.model.active_adapters == ["default"]


def test_another_shape_is_an_error(tinies):
    with pytest.raises(RuntimeError):
        load_weights(tinies["qwen2_5_vl"].model(), tinies["qwen2_vl"].folder)
