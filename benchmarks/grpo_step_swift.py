"""ms-swift's GRPO on the case of `grpo_step.py`, run by the interpreter of an environment of its own.

    uv venv /somewhere && uv pip install --python /somewhere/bin/python "ms-swift==4.6.*" msgspec torchvision
    python benchmarks/grpo_step.py --swift-python /somewhere/bin/python

It is given a plugin with the reward, and with the ids of this tokenizer's image tokens, which ms-swift 4.6 holds as
constants of the published models. It reports whole steps, not their phases, and samples until a completion ends by
itself, which completions of random weights do now and then.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

PLUGIN = """
import json
from pathlib import Path

from swift.rewards import ORM, orms
from swift.template.templates import qwen


class DifferentLetters(ORM):
    def __call__(self, completions, **columns):
        return [len(set(text)) / (len(text) + 1) + 1e-3 * (index % 7) for index, text in enumerate(completions)]


orms["different_letters"] = DifferentLetters
config = json.loads((Path({model!r}) / "config.json").read_text())
for template in (qwen.Qwen2VLTemplate, qwen.Qwen2_5VLTemplate):
    template.image_token_id = config["image_token_id"]
    template.video_token_id = config["video_token_id"]
"""


def run_swift(case: dict[str, Any], images: list[str], out: Path, python: str) -> dict[str, Any]:
    """Median seconds of a step and the peak of memory.

    Args:
        case: The fields of `Case`.
        images: Images of all steps.
        out: Empty folder to work in.
        python: Interpreter that has ms-swift.

    Raises:
        RuntimeError: ms-swift failed; the end of what it printed is in the message.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "plugin.py").write_text(PLUGIN.format(model=case["model"]))
    rows = [{"messages": [{"role": "user", "content": "<image>Read."}], "images": [path]} for path in images]
    (out / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "rlhf_type": "grpo",
        "model": case["model"],
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "dataset": out / "data.jsonl",
        "external_plugins": out / "plugin.py",
        "reward_funcs": "different_letters",
        "tuner_type": "full",
        "torch_dtype": case["dtype"],
        "use_vllm": "false",
        "num_generations": case["group_size"],
        "per_device_train_batch_size": case["groups"] * case["group_size"],
        "gradient_accumulation_steps": 1,
        "max_completion_length": case["completion_tokens"],
        "max_steps": case["steps"] + 1,
        "logging_steps": 1,
        "beta": 0,
        "learning_rate": 1e-6,
        "output_dir": out / "run",
        "save_strategy": "no",
        "gradient_checkpointing": "false",
        "freeze_vit": "false",
        "freeze_aligner": "false",
        "report_to": "none",
        "split_dataset_ratio": 0,
        "load_from_cache_file": "false",
    }
    command = [str(Path(python).with_name("swift")), "rlhf"]
    command += [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "MAX_PIXELS": str(784 * 4096),
    }
    with (out / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)  # its memory and that of the processes it started
        process.returncode = os.waitstatus_to_exitcode(status)
    logs = sorted((out / "run").glob("*/logging.jsonl"))
    if process.returncode or not logs:
        raise RuntimeError(
            f"ms-swift: exit code {process.returncode}\n{(out / 'log.txt').read_text()[-3000:]}"
        )
    lines = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    steps = [line["step_time"] for line in lines if "step_time" in line][1:]
    step = statistics.median(steps)
    return {"step_s": step, "samples_per_s": case["groups"] / step, "peak_mb": usage.ru_maxrss / 1024}
