"""The quickstart: draws strips of handwritten amounts, then runs the whole pipeline on them with a tiny model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glyphrl.config import RunConfig, load_config
from glyphrl.errors import UserError

if TYPE_CHECKING:
    from glyphrl.evaluation.summary import Summary

CONFIG_NAME = "quickstart.yaml"
HELD_OUT_SEED = 1_000_003  # the held-out strips are the same for every seed of a run


def run(
    output_dir: Path, *, seed: int = 0, overrides: Sequence[str] = ()
) -> tuple[RunConfig, Summary | None]:
    """Makes the data and trains; a run that was interrupted goes on where it stopped.

    Args:
        output_dir: Run folder.
        seed: Seed of data, model and training.
        overrides: Dotted overrides of the shipped configuration.

    Returns:
        The configuration and the comparison of the models.
    """
    from glyphrl.pipeline import run_train

    config = load_config(config_file(), [*data_overrides(output_dir), f"seed={seed}", *overrides])
    print("drawing strips of handwritten amounts ...", file=sys.stderr)
    draw_data(output_dir / "data", seed)
    return config, run_train(config, resume=True, config_path=config_file())


def config_file() -> Path:
    """The shipped configuration.

    Raises:
        UserError: This installation does not hold it.
    """
    from importlib.resources import files

    path = Path(str(files("glyphrl.configs") / CONFIG_NAME))
    if not path.is_file():
        raise UserError(
            f"{path}: not found; this installation of glyphrl lacks its configurations, install it again"
        )
    return path


def data_overrides(output_dir: Path) -> list[str]:
    """Where the configuration finds the strips."""
    data = output_dir.resolve() / "data"
    return [
        f"output_dir={output_dir}",
        f"data.sft=['{data}/rendered', '{data}/real_few']",
        f"data.grpo='{data}/real'",
        f"data.eval='{data}/held_out'",
    ]


def draw_data(folder: Path, seed: int) -> None:
    """Draws the four sets: rendered strips and a few real ones for SFT, real ones for GRPO, held-out real ones."""
    from glyphrl.data.digits import StripSet, write_strips

    for strips in (
        StripSet("rendered", "rendered", "train", 3000, 4 * seed),
        StripSet("real_few", "real", "train", 200, 4 * seed + 1),
        StripSet("real", "real", "train", 3000, 4 * seed + 2),
        StripSet("held_out", "real", "held_out", 1000, HELD_OUT_SEED),
    ):
        write_strips(folder, strips)
