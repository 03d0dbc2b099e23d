"""Does GRPO read better than its SFT start? The quickstart over several seeds, with a control.

    python benchmarks/learning.py --seeds 0 1 2 [--out runs/learning] [--json FILE]

The control continues SFT from the same start, on the very strips that GRPO samples from, for as many seconds as GRPO
trained (it sees their references directly, which GRPO only hears of through the reward). All models read the same 1,000
held-out strips greedily; differences are paired. A seed that is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from glyphrl import quickstart
from glyphrl.config import load_config
from glyphrl.evaluation.summary import Summary, summarize
from glyphrl.files import atomic_write_text
from glyphrl.pipeline import run_train
from glyphrl.pipeline_record import CONFIG_FILE

CONTROL_LEARNING_RATE = 5e-4
METRICS = ("text_acc", "cer", "exact_match")


def stage_seconds(run: Path, stage: str) -> tuple[float, int]:
    """Seconds that a stage trained, and its steps."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if line["stage"] == stage and "train_runtime" in line][-1]
    return last["train_runtime"], last["step"]


def run_control(run: Path, control: Path) -> int:
    """Continues SFT on GRPO's strips for GRPO's time.

    Returns:
        Steps of the control.
    """
    sft_seconds, sft_steps = stage_seconds(run, "sft")
    steps = round(stage_seconds(run, "grpo")[0] * sft_steps / sft_seconds)
    started = load_config(run / CONFIG_FILE)
    overrides = [
        f"output_dir={control}",
        "model.tiny=null",
        f"model.path={run}/sft/final",
        f"data.sft={started.data.grpo}",
        "grpo.enabled=false",
        f"sft.max_steps={steps}",
        f"sft.learning_rate={CONTROL_LEARNING_RATE}",
    ]
    run_train(load_config(run / CONFIG_FILE, overrides), resume=True)
    return steps


def run_seed(out: Path, seed: int) -> dict[str, Any]:
    """Runs quickstart and control of one seed."""
    run, control = out / f"seed-{seed}", out / f"seed-{seed}-control"
    quickstart.run(run, seed=seed)
    steps = run_control(run, control)
    compared = {
        "sft": run / "eval" / "sft",
        "grpo": run / "eval" / "grpo",
        "control": control / "eval" / "sft",
    }
    summary = summarize(out / f"seed-{seed}-compared", compared)
    seconds = {stage: stage_seconds(run, stage)[0] for stage in ("sft", "grpo")}
    return {"seed": seed, "control_steps": steps, "seconds": seconds, **shown_part(summary)}


def shown_part(summary: Summary) -> dict[str, Any]:
    """The part of a summary that the table and the JSON show."""
    data = summary.to_dict()
    models = {name: {m: metrics[m] for m in METRICS} for name, metrics in data["models"].items()}
    differences = {pair: {m: metrics[m] for m in METRICS} for pair, metrics in data["differences"].items()}
    return {"models": models, "differences": differences}


def table(results: list[dict[str, Any]]) -> str:
    """Text accuracy in percent, differences in points, [95 % interval]."""

    def cell(interval: dict[str, float]) -> str:
        return f"{100 * interval['value']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"

    head = ["seed", "after SFT", "after GRPO", "control", "GRPO - SFT", "control - SFT", "GRPO s"]
    rows = [head]
    for result in results:
        acc = {name: cell(metrics["text_acc"]) for name, metrics in result["models"].items()}
        gain = {pair: cell(metrics["text_acc"]) for pair, metrics in result["differences"].items()}
        rows.append(
            [
                str(result["seed"]),
                *(acc[name] for name in ("sft", "grpo", "control")),
                gain["grpo - sft"],
                gain["control - sft"],
                f"{result['seconds']['grpo']:.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows
    )


def main() -> None:
    """Runs all seeds and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    results = []
    for seed in args.seeds:
        results.append(run_seed(args.out.resolve(), seed))
        print(table(results), file=sys.stderr)
    print(table(results))
    if args.json:
        atomic_write_text(args.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
