"""Opening and sizing images."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_files import draw_line
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from glyphrl.data.images import (
    FACTOR,
    ImageError,
    image_hash,
    inspect_image,
    load_resized,
    open_image,
    resized_size,
)
from glyphrl.errors import UserError

MIN_PIXELS, MAX_PIXELS = 28 * 28 * 4, 28 * 28 * 1280

sides = st.integers(1, 3000)
limits = st.tuples(st.integers(1, 64), st.integers(4, 40)).map(
    lambda n: (784 * n[0], 784 * n[0] * n[1])  # the largest is at least four times the smallest
)


@given(sides, sides, limits)
@settings(max_examples=300)
@example(1000, 48, (784, 784 * 20))  # a long line against a small limit: qwen-vl-utils gives a height of 0
@example(2000, 10, (784 * 4, 784 * 1280))  # transformers rounds the height to 0 and shrinks the line
def test_sizes_are_those_of_qwen_vl_utils_and_left_alone_by_transformers(width, height, limit):
    from qwen_vl_utils.vision_process import smart_resize as qwen_rule
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as transformers_rule

    low, high = limit
    try:
        size = resized_size(width, height, low, high)
    except UserError:
        # Refused for its shape: the rule of transformers refuses the image, or what the rule makes of it.
        assume(max(width, height) / min(width, height) <= 200)
        made = qwen_rule(height, width, FACTOR, low, high)
        assert max(made) / max(min(made), FACTOR) > 200
        return
    assert size[0] % FACTOR == size[1] % FACTOR == 0
    assert low <= size[0] * size[1] <= high
    assert transformers_rule(size[1], size[0], FACTOR, low, high) == (size[1], size[0])
    expected = qwen_rule(height, width, FACTOR, low, high)[::-1]
    if 0 not in expected and low <= math.prod(expected) <= high:
        assert size == expected
    expected = transformers_rule(height, width, FACTOR, low, high)[::-1]
    if min(width, height) > FACTOR / 2 and low <= math.prod(expected) <= high:
        assert size == expected


@pytest.mark.parametrize(
    ("size", "low", "high", "expected"),
    [
        ((280, 28), MIN_PIXELS, MAX_PIXELS, (280, 28)),  # fits as it is
        ((120, 32), MIN_PIXELS, MAX_PIXELS, (112, 28)),  # rounded to the nearest multiples
        ((20, 20), MIN_PIXELS, MAX_PIXELS, (56, 56)),  # enlarged to 4 tokens
        ((1000, 48), 784, 784 * 20, (560, 28)),  # height would be 0: one token high, 20 long
        ((5600, 28), 784, 784 * 100, (2800, 28)),  # and never longer than the limit allows
        ((48, 1000), 784, 784 * 20, (28, 560)),
    ],
)
def test_sizes_by_hand(size, low, high, expected):
    assert resized_size(*size, low, high) == expected


@pytest.mark.parametrize(
    ("size", "low", "high", "message"),
    [
        ((5000, 20), MIN_PIXELS, MAX_PIXELS, "more than 200 times"),
        ((8000, 40), MIN_PIXELS, MAX_PIXELS, "more than 200 times"),  # 286 times after rounding to 28 high
        ((0, 20), MIN_PIXELS, MAX_PIXELS, "at least one pixel"),
        ((90, 100), 784 * 17, 784 * 17, "four times min_pixels"),  # 17 tokens only fit 1 x 17
        ((90, 100), 784 * 4, 784, "greater than max_pixels"),
        ((90, 100), 1, 783, "one image token"),
    ],
)
def test_what_cannot_be_sized_is_said(size, low, high, message):
    with pytest.raises(UserError, match=message):
        resized_size(*size, low, high)


def test_load_resized_is_what_qwen_vl_utils_makes_of_the_file(line_image):
    from qwen_vl_utils.vision_process import fetch_image

    path = line_image("a.png", size=(333, 61))
    ours = load_resized(path, MIN_PIXELS, MAX_PIXELS)
    theirs = fetch_image({"image": str(path), "min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS})
    assert ours.size == theirs.size == (336, 56)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_the_image_processor_of_transformers_does_not_resize_again(line_image):
    from transformers import Qwen2VLImageProcessor

    path = line_image("a.png", size=(200, 37))
    image = load_resized(path, 784, 784 * 6)
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 784, "longest_edge": 784 * 6})
    out = processor(images=[image], return_tensors="pt")
    assert out["image_grid_thw"].tolist() == [[1, image.height // 14, image.width // 14]]
    plain = processor(images=[image], do_resize=False, return_tensors="pt")
    assert (out["pixel_values"] == plain["pixel_values"]).all()


def test_load_resized_names_the_file(line_image):
    path = line_image("thin.png", size=(5000, 4))
    with pytest.raises(UserError, match=r"thin\.png: image of 5000 x 4 pixels"):
        load_resized(path, MIN_PIXELS, MAX_PIXELS)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


GRADIENT = np.linspace(0, 255, 64).astype(np.uint8).reshape(1, 64).repeat(8, axis=0)


def test_sixteen_bit_gray_keeps_its_upper_bits(tmp_path):
    path = save(tmp_path / "g.png", GRADIENT.astype(np.uint16) * 257)
    assert Image.open(path).mode.startswith("I;16")
    np.testing.assert_array_equal(np.asarray(open_image(path))[..., 0], GRADIENT)


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_floating_point_gray_is_scaled_to_its_white(tmp_path, white):
    path = save(tmp_path / "g.tif", (GRADIENT / 255.0 * white).astype(np.float32))
    np.testing.assert_array_equal(np.asarray(open_image(path))[..., 0], GRADIENT)


def test_thirty_two_bit_gray_is_taken_by_its_range(tmp_path):
    small = save(tmp_path / "s.tif", GRADIENT.astype(np.int32))
    large = save(tmp_path / "l.tif", GRADIENT.astype(np.int32) * 257)
    for path in (small, large):
        np.testing.assert_array_equal(np.asarray(open_image(path))[..., 0], GRADIENT)


@pytest.mark.parametrize(
    ("name", "mode"), [("c.tif", "CMYK"), ("p.png", "P"), ("l.png", "L"), ("b.png", "1")]
)
def test_cmyk_palette_gray_and_bilevel_become_rgb(tmp_path, name, mode):
    rgb = np.zeros((8, 20, 3), np.uint8)
    rgb[:, 12:] = 255
    path = save(tmp_path / name, rgb, mode)
    with Image.open(path) as stored:
        assert stored.mode == mode
    np.testing.assert_array_equal(np.asarray(open_image(path)), rgb)


def test_transparency_becomes_white_in_every_form(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:, 3] = 255  # left half clear, right half black
    gray = save(tmp_path / "la.png", rgba, "LA")
    full = save(tmp_path / "rgba.png", rgba)
    palette = tmp_path / "p.png"
    indexed = Image.fromarray(np.repeat(np.array([[0, 1]], np.uint8), 4, axis=1).repeat(8, axis=0), "P")
    indexed.putpalette([0, 0, 0, 0, 0, 0])
    indexed.save(palette, transparency=0)
    expected = np.full((8, 8, 3), 255)
    expected[:, 4:] = 0
    for path in (gray, full, palette):
        np.testing.assert_array_equal(np.asarray(open_image(path)), expected)


def test_exif_orientation_turns_the_image_upright(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    pixels = np.zeros((8, 20, 3), np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(path, exif=exif)
    upright = open_image(path)
    assert upright.size == (8, 20)
    assert np.asarray(upright)[:, -1].min() == 255  # the top row became the right column
    info = inspect_image(path)
    assert (info.width, info.height, info.num_bytes) == (8, 20, path.stat().st_size)


def test_of_several_frames_the_first_is_taken(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(path)).max() == 0


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_a_file_cut_anywhere_is_found_without_decoding_all_of_them(tmp_path, suffix):
    whole = draw_line(tmp_path / f"a.{suffix}", size=(60, 30)).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for length in {*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}:
        cut.write_bytes(whole[:length])
        if fault_of(open_image, cut):
            assert fault_of(open_image, cut) == fault_of(inspect_image, cut) == "unreadable_image"
    cut.write_bytes(whole)
    assert inspect_image(cut).width == 60
    with pytest.raises(ImageError, match="an empty file"):
        inspect_image(save_bytes(cut, b""))


def fault_of(read: Callable[[Path], object], path: Path) -> str | None:
    try:
        read(path)
    except ImageError as error:
        return error.kind
    return None


def save_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_damaged_png_chunk_is_found(tmp_path):
    content = bytearray(draw_line(tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(ImageError):
        inspect_image(save_bytes(tmp_path / "b.png", bytes(content)))


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    for read in (open_image, inspect_image):
        with pytest.raises(ImageError, match="damaged content"):
            read(save_bytes(tmp_path / "bomb.png", bomb))


@pytest.mark.parametrize("read", [open_image, inspect_image, image_hash])
def test_missing_files_and_folders_are_told_apart(tmp_path, read):
    with pytest.raises(ImageError, match="no such file") as missing:
        read(tmp_path / "none.png")
    with pytest.raises(ImageError, match="a folder") as folder:
        read(tmp_path)
    assert (missing.value.kind, folder.value.kind) == ("missing_file", "not_a_file")


def test_text_is_no_image(tmp_path):
    with pytest.raises(ImageError, match="damaged content") as caught:
        inspect_image(save_bytes(tmp_path / "a.png", b"not an image"))
    assert caught.value.kind == "unreadable_image"


def test_image_hash_is_the_hash_of_the_bytes(tmp_path):
    path = save_bytes(tmp_path / "a.bin", b"abc")
    assert image_hash(path) == hashlib.sha256(b"abc").hexdigest()
