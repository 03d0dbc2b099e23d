"""Tiny models of both families, and samples with real images, for the tests of `glyphrl.trainers`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText

from glyphrl.config_schema import RunConfig
from glyphrl.data.sample import Sample
from glyphrl.trainers.models import load_processor
from glyphrl.trainers.prompts import EncodedPrompt, ImageSizing, encode_prompts
from glyphrl.trainers.tiny_model import build_tiny_model

FAMILIES = ("qwen2_5_vl", "qwen2_vl")
SIZES = {"hidden_size": 64, "num_layers": 2, "vision_hidden_size": 32, "vision_layers": 2}
SIZING = ImageSizing(28 * 28, 28 * 28 * 8)


@dataclass(frozen=True)
class Tiny:
    """A model folder and what tests do with it."""

    folder: Path
    sizing = SIZING

    @cached_property
    def processor(self) -> Any:
        """The processor; one for all tests, which must leave it as it is."""
        return load_processor(str(self.folder), SIZING)

    @cached_property
    def _loaded(self) -> Any:
        return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()

    def model(self) -> Any:
        """Another copy of the model, float32, in eval mode; ten times as fast as loading it again."""
        return copy.deepcopy(self._loaded)

    def ids(self, text: str) -> list[int]:
        """Token ids of a completion."""
        return self.processor.tokenizer(text)["input_ids"]

    def encode(self, samples: list[Sample], system: str | None = None) -> list[EncodedPrompt]:
        """The samples as prompts."""
        return encode_prompts(self.processor, samples, system=system, sizing=SIZING)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order on every machine, and a core left for others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each family.

    A fresh model hardly looks at its context: with larger weights every token and patch in sight moves the output, so
    that a wrong position or mask shows.
    """
    folders = {}
    for number, family in enumerate(FAMILIES):
        folder = build_tiny_model(family, tmp_path_factory.mktemp(family), **SIZES, seed=number)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.mul_(4.0)
        model.save_pretrained(folder)
        folders[family] = folder
    return folders


@pytest.fixture(scope="session")
def tinies(tiny_folders: dict[str, Path]) -> dict[str, Tiny]:
    """Both families by name."""
    return {family: Tiny(folder) for family, folder in tiny_folders.items()}


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tinies: dict[str, Tiny]) -> Tiny:
    """Each family in turn."""
    return tinies[request.param]


@pytest.fixture
def tiny25(tinies: dict[str, Tiny]) -> Tiny:
    """Qwen2.5-VL, where one family is enough."""
    return tinies["qwen2_5_vl"]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], str]:
    """Draws an image of so many tokens in width and height, once, and gives its path."""
    folder = tmp_path_factory.mktemp("images")

    def draw(wide: int, high: int = 1) -> str:
        path = folder / f"{wide}x{high}.png"
        if not path.exists():
            image = Image.new("RGB", (28 * wide, 28 * high), "white")
            pen = ImageDraw.Draw(image)
            for number in range(wide * high):
                left, top = 28 * (number % wide), 28 * (number // wide)
                pen.text((left + 4, top + 4), str((number * 7 + wide) % 10), fill=(number * 40 % 200, 0, 90))
            image.save(path)
        return str(path)

    return draw


@pytest.fixture(scope="session")
def samples(images: Callable[..., str]) -> list[Sample]:
    """One image, two of different sizes, none, and another one: prompts of different lengths."""
    return [
        Sample("one", (images(3),), "Read.", "476.0"),
        Sample("two", (images(2, 2), images(5)), "<image>Read both:<image>", "12"),
        Sample("none", (), "Say something.", "hello", {"kind": "text"}),
        Sample("wide", (images(6),), "Read the text in the image.", "3.50"),
    ]


@pytest.fixture
def run_config(tmp_path: Path, tiny25: Tiny, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run in `tmp_path/run` on the tiny model, on the CPU."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # a stage sets it: put back when the test is done
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    config = RunConfig(output_dir=str(tmp_path / "run"))
    config.model.path = str(tiny25.folder)
    config.data.min_pixels, config.data.max_pixels = SIZING.min_pixels, SIZING.max_pixels
    config.launch.cpu = True
    return config
