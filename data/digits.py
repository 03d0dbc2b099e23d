"""Amounts in real handwriting: strips glued from the scanned digits that scikit-learn ships, and rendered look-alikes.

The scans are the UCI "Optical Recognition of Handwritten Digits" test set (1,797 digits of 43 writers, 8 x 8 pixels).
Train and held-out strips are made from disjoint scans, so that a model is measured on handwriting that it has not seen.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glyphrl.files import atomic_write_text

CELL = 28  # pixels: one merged patch of the vision tower
HELD_OUT_SCANS = 500
Pool = Literal["train", "held_out"]


@dataclass(frozen=True)
class StripSet:
    """Strips to make."""

    name: str
    """Folder below the data folder."""
    kind: Literal["real", "rendered"]
    pool: Pool
    count: int
    seed: int


@functools.cache
def load_scans(pool: Pool) -> dict[str, list[np.ndarray]]:
    """The 8 x 8 scans of each digit, ink 0..255, of one of the two disjoint pools."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    chosen = order[:HELD_OUT_SCANS] if pool == "held_out" else order[HELD_OUT_SCANS:]
    scans: dict[str, list[np.ndarray]] = {str(digit): [] for digit in range(10)}
    for index in chosen:
        scans[str(digits.target[index])].append((digits.images[index] / 16 * 255).astype(np.uint8))
    return scans


def draw_amount(random: Random) -> str:
    """An amount such as `476.0`: one to four digits, a point, one or two digits."""
    whole = str(random.randint(1, 9)) + "".join(
        str(random.randint(0, 9)) for _ in range(random.randint(0, 3))
    )
    return whole + "." + "".join(str(random.randint(0, 9)) for _ in range(random.randint(1, 2)))


def real_strip(text: str, random: Random, pool: Pool) -> Image.Image:
    """The amount in scanned digits of `pool`; the point is drawn, since the scans have none."""
    scans = load_scans(pool)
    glyphs = [_point(random) if c == "." else Image.fromarray(random.choice(scans[c])) for c in text]
    return _glue(text, glyphs, random)


def rendered_strip(text: str, random: Random) -> Image.Image:
    """The amount in a printed font, slanted, turned, and as coarse as the scans."""
    stroke, slant = random.randint(0, 4), random.uniform(-0.45, 0.25)
    glyphs = []
    for char in text:
        if char == ".":
            glyphs.append(_point(random))
            continue
        glyph = _printed(char, stroke)
        shear = slant + random.uniform(-0.1, 0.1)
        bend, stretch = random.uniform(-0.15, 0.15), random.uniform(0.9, 1.1)
        matrix = (1, shear, -shear * glyph.width / 2, bend, stretch, 0)
        glyph = glyph.transform(glyph.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        glyph = glyph.rotate(random.uniform(-10, 10), Image.Resampling.BILINEAR)
        glyphs.append(glyph.crop(glyph.getbbox()).resize((8, 8), Image.Resampling.BOX))
    return _glue(text, glyphs, random)


@functools.cache
def _printed(char: str, stroke: int) -> Image.Image:
    """A large printed digit with room around it to be slanted and turned."""
    canvas = Image.new("L", (112, 112), 0)
    font = ImageFont.load_default(64)
    ImageDraw.Draw(canvas).text(
        (56, 56), char, font=font, fill=255, anchor="mm", stroke_width=stroke, stroke_fill=255
    )
    glyph = canvas.crop(canvas.getbbox())
    side = max(glyph.size) + 24
    padded = Image.new("L", (side, side), 0)
    padded.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return padded


def _point(random: Random) -> Image.Image:
    """A decimal point: a small blot."""
    blot = Image.new("L", (8, 8), 0)
    x, y, radius = random.uniform(3, 5), random.uniform(3, 5), random.uniform(1.5, 2.6)
    ink = random.randint(180, 255)
    ImageDraw.Draw(blot).ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink)
    return blot


def _glue(text: str, glyphs: Sequence[Image.Image], random: Random) -> Image.Image:
    """Sets each glyph into a cell of its own, as on a form, unevenly sized and placed; dark ink on white, RGB."""
    ink = np.zeros((CELL, CELL * len(glyphs)), np.uint8)
    for cell, (char, glyph) in enumerate(zip(text, glyphs, strict=True)):
        if char == ".":
            pixels = np.asarray(glyph)
            top = CELL - pixels.shape[0] - random.randint(0, 2)
        else:
            size = (random.randint(20, 26), random.randint(22, 27))
            pixels = np.asarray(glyph.resize(size, Image.Resampling.BICUBIC))
            top = (CELL - pixels.shape[0]) // 2
        left = CELL * cell + (CELL - pixels.shape[1]) // 2 + random.randint(-1, 1)
        ink[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return Image.fromarray(255 - ink).convert("RGB")


def write_strips(folder: str | Path, strips: StripSet) -> Path:
    """Writes images and `labels.tsv` (`file<TAB>text`) of one set; the same bytes for the same seed.

    Returns:
        The folder of the set. One that is there already is kept: its labels are written last.
    """
    out = Path(folder) / strips.name
    labels = out / "labels.tsv"
    if labels.exists():
        return out
    (out / "img").mkdir(parents=True, exist_ok=True)
    random = Random(strips.seed)
    lines = []
    for index in range(strips.count):
        text = draw_amount(random)
        strip = (
            real_strip(text, random, strips.pool) if strips.kind == "real" else rendered_strip(text, random)
        )
        name = f"img/{index:05d}.png"
        strip.save(out / name)
        lines.append(f"{name}\t{text}\n")
    atomic_write_text(labels, "".join(lines))
    return out
