"""A folder of images with labels, and a configuration of a tiny model that reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

CONFIG = """\
output_dir: run
model:
  tiny: {}
  dtype: float32
data:
  train: lines
  split: {eval_fraction: 0.25}
  min_pixels: 784
  max_pixels: 50176
sft:
  max_steps: 2
  per_device_train_batch_size: 4
  bf16: false
grpo:
  max_steps: 2
  num_generations: 4
  per_device_train_batch_size: 4
  max_completion_length: 32
  bf16: false
rollout:
  backend: transformers
eval:
  backend: transformers
  max_new_tokens: 32
launch:
  cpu: true
"""


@pytest.fixture
def run_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`run.yaml` beside the folder `lines` with 16 images; the working directory is another one."""
    folder = tmp_path / "lines"
    folder.mkdir()
    labels = []
    for number in range(16):
        Image.new("L", (28 * (2 + number % 3), 28), 10 * number).save(folder / f"{number}.png")
        labels.append(f"{number}.png\t{number * 37}.0\n")
    (folder / "labels.tsv").write_text("".join(labels))
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return path
