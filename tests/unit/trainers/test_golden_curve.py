"""Twenty steps of GRPO against the curve that TRL 1.16's own GRPOTrainer drew on the same completions.

`GLYPHRL_DRAW_GOLDEN=1 pytest tests/unit/trainers/test_golden_curve.py` draws it again, with the TRL that is installed.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from trl_twin import TEACHING, arguments, group_trainer, register_similarity, trl_rows, trl_trainer

from glyphrl.config_schema import GrpoStageConfig
from glyphrl.trainers import grpo_trainer

pytestmark = pytest.mark.slow  # trains

GOLDEN = Path(__file__).parents[2] / "golden" / "grpo_curve.json"
NAMES = ("loss", "grad_norm", "kl", "entropy")
STEPS = 20


class Curve(TrainerCallback):
    """What is logged of each step."""

    def __init__(self):
        self.rows = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.rows.append({name: float(logs[name]) for name in NAMES})


def settings(folder):
    """Two steps on each generation, so that there is something to clip, and a KL term: a loss that is not 0."""
    return arguments(
        folder,
        max_steps=STEPS,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        per_device_train_batch_size=12,
        gradient_accumulation_steps=1,
        num_iterations=2,
        beta=0.05,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )


@pytest.fixture
def alike(samples, monkeypatch):
    """Samples, with all images in front, and a distribution over all tokens: as TRL has them."""
    monkeypatch.setattr(grpo_trainer, "banned_token_ids", lambda tokenizer: [])
    register_similarity()
    return [replace(sample, prompt=sample.prompt.replace("<image>", "")) for sample in samples]


def our_curve(tiny, samples, folder, budget=None):
    torch.manual_seed(0)
    options = GrpoStageConfig(max_tokens_per_micro_batch=budget)
    trainer = group_trainer(tiny, samples, folder, settings(folder), texts_of=TEACHING, options=options)
    curve = Curve()
    trainer.add_callback(curve)
    trainer.train()
    return curve.rows


def curve_of_trl(tiny, samples, folder):
    torch.manual_seed(0)
    trainer = trl_trainer(tiny, samples, settings(folder))
    ours = group_trainer(tiny, samples, folder, settings(folder), texts_of=TEACHING)
    trainer.drawn = [drawn for sample in samples for drawn in ours.sampler.backend.rollouts[sample.id]]
    generate = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda batch: generate(trl_rows(samples))
    curve = Curve()
    trainer.add_callback(curve)
    trainer.train_dataset = ours.train_dataset
    trainer.train()
    return curve.rows


def assert_on_the_curve(rows):
    golden = json.loads(GOLDEN.read_text())
    assert len(rows) == len(golden) == STEPS
    for step, (row, expected) in enumerate(zip(rows, golden, strict=True)):
        assert row == pytest.approx(expected, rel=2e-3, abs=2e-5), f"step {step}"


@pytest.mark.parametrize("budget", [None, 70])
def test_twenty_steps(tiny25, alike, tmp_path, budget):
    assert_on_the_curve(our_curve(tiny25, alike, tmp_path, budget))


def test_trl_still_draws_it(tiny25, alike, tmp_path):
    rows = curve_of_trl(tiny25, alike, tmp_path)
    if os.environ.get("GLYPHRL_DRAW_GOLDEN"):
        GOLDEN.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    assert_on_the_curve(rows)


def test_the_curve_is_one_worth_following():
    """The loss moves, tokens are clipped away from, and the policy leaves its reference."""
    golden = json.loads(GOLDEN.read_text())
    assert golden[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert golden[-1]["kl"] > 0.05
    assert max(abs(row["loss"]) for row in golden) > 0.01
