"""What a frozen vision tower makes of an image: computed once, kept in memory and, if asked for, on disk."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from glyphrl.files import atomic_path
from glyphrl.trainers.prompts import EncodedPrompt

PATCHES_AT_A_TIME = 16384  # patches of the images that the tower encodes together


class ImageFeatures:
    """Features of images by a vision tower and merger that are not trained."""

    def __init__(
        self, model: Any, *, memory_bytes: int, disk: FeatureFolder | None = None, autocast: Any = nullcontext
    ) -> None:
        """Keeps features of `model`, a Qwen2-VL or Qwen2.5-VL model for conditional generation.

        Args:
            model: The model, not wrapped by PEFT.
            memory_bytes: What is kept from step to step at most; the longest unused goes first.
            disk: Where features outlive the process.
            autocast: Makes the context in which training computes.
        """
        self.model = model
        self.memory_bytes = memory_bytes
        self.disk = disk
        self.autocast: Any = autocast
        self.memory: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.used = 0

    def encode(self, prompts: Sequence[EncodedPrompt], hashes: dict[str, str]) -> list[torch.Tensor | None]:
        """Features of each prompt's images, (image tokens, hidden size) in the prompt's order; None without images.

        Args:
            prompts: Prompts with pixels.
            hashes: Content hash of each image path.
        """
        found: dict[str, torch.Tensor] = {}
        missing: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        keys = [self._keys(prompt, hashes) for prompt in prompts]
        for prompt, names in zip(prompts, keys, strict=True):
            if prompt.pixel_values is None or prompt.image_grid_thw is None:
                continue
            pixels = prompt.pixel_values.split(prompt.image_grid_thw.prod(-1).tolist())
            for name, image, grid in zip(names, pixels, prompt.image_grid_thw, strict=True):
                if name in found or name in missing:
                    continue
                kept = self._look_up(name)
                if kept is None:
                    missing[name] = (image, grid)
                else:
                    found[name] = kept
        found.update(self._compute(missing))
        return [torch.cat([found[name] for name in names]) if names else None for names in keys]

    def _keys(self, prompt: EncodedPrompt, hashes: dict[str, str]) -> list[str]:
        grids = [] if prompt.image_grid_thw is None else prompt.image_grid_thw.tolist()
        return [
            f"{hashes[path]}-{'x'.join(map(str, grid))}"
            for path, grid in zip(prompt.sample.images, grids, strict=True)
        ]

    def _look_up(self, name: str) -> torch.Tensor | None:
        if name in self.memory:
            self.memory.move_to_end(name)
            return self.memory[name]
        kept = None if self.disk is None else self.disk.read(name)
        if kept is not None:
            self._remember(name, kept)
        return kept

    def _compute(self, images: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        computed: dict[str, torch.Tensor] = {}
        names = list(images)
        while names:
            batch: list[str] = []
            patches = 0
            while names and (not batch or patches + len(images[names[0]][0]) <= PATCHES_AT_A_TIME):
                patches += len(images[names[0]][0])
                batch.append(names.pop(0))
            pixels = torch.cat([images[name][0] for name in batch]).to(self.model.device)
            grids = torch.stack([images[name][1] for name in batch]).to(self.model.device)
            context: AbstractContextManager[Any] = self.autocast()
            with torch.no_grad(), context:
                features = self.model.model.get_image_features(pixels, grids).pooler_output
            for name, value in zip(batch, features, strict=True):
                computed[name] = value.cpu()
                self._remember(name, computed[name])
                if self.disk is not None:
                    self.disk.write(name, computed[name])
        if computed and self.disk is not None:
            self.disk.trim()
        return computed

    def _remember(self, name: str, features: torch.Tensor) -> None:
        self.memory[name] = features
        self.used += features.nbytes
        while self.used > self.memory_bytes and self.memory:
            _, gone = self.memory.popitem(last=False)
            self.used -= gone.nbytes


class FeatureFolder:
    """Features on disk, at most so many bytes; the files longest unused go first. Ranks may share a folder."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Uses `folder`, which is for one vision tower: see `tower_fingerprint`."""
        self.folder = folder
        self.max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_tower(
        cls, model: Any, folder: Path | None, max_bytes: int, settings: tuple[object, ...]
    ) -> FeatureFolder | None:
        """The folder within `folder` for the tower of `model` under some settings; None where nothing may be kept."""
        if folder is None or max_bytes == 0:
            return None
        return cls(folder / tower_fingerprint(model, *settings), max_bytes)

    def read(self, name: str) -> torch.Tensor | None:
        """What was written under a name; None where there is nothing (any more)."""
        path = self._path(name)
        try:
            features = load_file(path)["features"]
            path.touch()
        except (FileNotFoundError, SafetensorError):
            return None
        return features

    def write(self, name: str, features: torch.Tensor) -> None:
        """Keeps features under a name."""
        if features.nbytes > self.max_bytes:
            return
        with atomic_path(self._path(name)) as path:
            save_file({"features": features.contiguous()}, path)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def trim(self) -> None:
        """Removes the files longest unused until the rest is small enough."""
        files = []
        for path in self.folder.glob("*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another rank was faster
                continue
            files.append((status.st_mtime, status.st_size, path))
        used = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if used <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            used -= size


def vision_is_frozen(model: Any) -> bool:
    """Whether nothing of the vision tower and its merger is trained."""
    return not any(parameter.requires_grad for parameter in model.model.visual.parameters())


def tower_fingerprint(model: Any, *settings: object) -> str:
    """Hash of the vision tower's weights and of whatever else decides what it makes of an image."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, value in model.model.visual.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
