"""Seconds of a GRPO step: this trainer beside TRL's GRPOTrainer, and beside ms-swift where it is installed.

    python benchmarks/grpo_step.py [--shape word line halfpage page] [--group 8] [--steps 3] [--json]
                                   [--system glyphrl trl ...] [--swift-python PYTHON]

All systems get the same model (10 million parameters, random weights, everything trained), images, group size and
lengths of completions, and the same optimizer, each in a process of its own, one after the other. Every completion is
sampled to the full length. `glyphrl` samples with vLLM, `trl` as its path for images is supported: with transformers;
`glyphrl-transformers` does the latter too. A step is timed after one that is not. With --json, one object a line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from grpo_step_swift import run_swift
from grpo_step_systems import PHASES, SYSTEMS, Case

# prompt tokens, completion tokens, groups of a step
SHAPES = {"word": (60, 10, 16), "line": (120, 40, 8), "halfpage": (640, 128, 2), "page": (1300, 400, 1)}


def build_model(folder: Path) -> None:
    """A Qwen2.5-VL of about 10 million parameters."""
    from glyphrl.trainers.tiny_model import build_tiny_model

    build_tiny_model(
        "qwen2_5_vl",
        folder,
        hidden_size=256,
        num_layers=6,
        vision_hidden_size=192,
        vision_layers=6,
        max_pixels=28 * 28 * 4096,
        max_position_embeddings=4096,
    )


def draw_images(folder: Path, tokens: int, count: int) -> list[str]:
    """Images of noise that take about so many tokens."""
    import numpy as np
    from PIL import Image

    high = max(1, int(tokens**0.5))
    wide = tokens // high
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = folder / f"{wide}x{high}-{number}.png"
        Image.fromarray(random.integers(0, 256, (28 * high, 28 * wide, 3), np.uint8)).save(path)
        paths.append(str(path))
    return paths


def text_tokens(model: Path) -> int:
    """Tokens of a prompt besides its image's."""
    from glyphrl.data.sample import Sample
    from glyphrl.trainers.models import load_processor
    from glyphrl.trainers.prompts import ImageSizing, encode_prompts

    sizing = ImageSizing(28 * 28, 28 * 28 * 4096)
    (prompt,) = encode_prompts(
        load_processor(str(model), sizing), [Sample("a", (), "Read.", "1")], system=None, sizing=sizing
    )
    return len(prompt.ids) + 2  # the image stands between two tokens of its own


def measure(case: Case, out: Path) -> dict[str, Any]:
    """Runs one system in a process of its own.

    Raises:
        RuntimeError: It failed; the end of what it printed is in the message.
    """
    program = [sys.executable, str(Path(__file__).with_name("grpo_step_systems.py"))]
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    done = subprocess.run(
        [*program, json.dumps(asdict(case)), str(out)], capture_output=True, text=True, env=environment
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(
            f"{case.system} on {case.shape}: exit code {done.returncode}\n{done.stderr[-3000:]}"
        )
    return json.loads(lines[0].removeprefix("RESULT "))


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, with ratios of TRL to each system; empty where a system does not say."""
    head = [
        "shape",
        "G",
        "system",
        "step",
        "train",
        *PHASES,
        "samples/s",
        "peak MB",
        "step vs TRL",
        "train vs TRL",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    seconds = ["step_s", "train_s", *(f"{name}_s" for name in PHASES)]
    trl = {(r["shape"], r["group_size"]): r for r in results if r["system"] == "trl"}
    for result in results:
        peer = trl.get((result["shape"], result["group_size"]), {})
        cells = [
            result["shape"],
            result["group_size"],
            result["system"],
            *(f"{result[name]:.2f}" if name in result else "" for name in seconds),
            f"{result['samples_per_s']:.2f}",
            f"{result['peak_mb']:.0f}",
            *(
                f"{peer[name] / result[name]:.1f}x" if name in peer and name in result else ""
                for name in ("step_s", "train_s")
            ),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--group", nargs="+", type=int, default=[8], help="completions of a group")
    parser.add_argument("--groups", type=int, help="groups of a step (default: by shape)")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed")
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument(
        "--swift-python", help="interpreter of an environment with ms-swift, see grpo_step_swift.py"
    )
    parser.add_argument("--budget", type=int, help="max_tokens_per_micro_batch of this trainer")
    parser.add_argument("--model", help="model folder (default: 10 million random parameters)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--lora", action="store_true", help="adapters of rank 16 instead of all weights")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    if shutil.which("nvidia-smi") is None:
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # else DeepSpeed says on stdout that it has found no GPU
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = Path(options.model or folder / "model")
        if options.model is None:
            build_model(model)
        overhead = text_tokens(model)
        for shape in options.shape:
            prompt, completion, groups = SHAPES[shape]
            groups = options.groups or groups
            images = draw_images(folder, prompt - overhead, groups * (options.steps + 1))
            for group_size in options.group:
                for system in [*options.system, *(["ms-swift"] if options.swift_python else [])]:
                    case = Case(
                        shape,
                        system,
                        prompt,
                        completion,
                        group_size,
                        groups,
                        options.steps,
                        str(model),
                        images,
                        options.budget,
                        options.dtype,
                        options.lora,
                    )
                    if system == "ms-swift":
                        fields = asdict(case)
                        measured = run_swift(
                            fields, images, folder / f"swift-{len(results)}", options.swift_python
                        )
                        kept = {n: v for n, v in fields.items() if n not in ("model", "images")}
                        result = {**kept, **measured}
                    else:
                        result = measure(case, folder / "run")
                    results.append(result)
                    if options.json:
                        print(json.dumps(result), flush=True)
                    else:
                        print(f"{shape} G={group_size} {system}: {result['step_s']:.2f} s", file=sys.stderr)
    if not options.json:
        print(table(results))


if __name__ == "__main__":
    main()
