"""`data check`: numbers by hand on small sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from data_files import draw_line

from glyphrl.data.checking import check_data, visible
from glyphrl.errors import UserError


def write_labels(folder: Path, rows: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_counts_by_hand(tmp_path):
    draw_line(tmp_path / "a.png", size=(280, 28))  # 10 tokens
    draw_line(tmp_path / "b.png", size=(20, 20))  # enlarged to 56 x 56: 4 tokens
    draw_line(tmp_path / "c.png", size=(560, 560))  # 400 tokens, reduced to 280 x 280: 100
    rows = ["a.png\t476.0", "b.png\té ", "c.png\te\u0301x", "d.png\tmissing"]
    report = check_data(write_labels(tmp_path, rows), min_pixels=784 * 4, max_pixels=784 * 100)
    assert (report.num_samples, report.num_images, report.problems.rows) == (3, 3, 4)
    assert not report.ok
    assert report.problems.counts == {"missing_file": 1}
    assert report.characters == dict.fromkeys("476.0é e\u0301x", 1)
    length, tokens = report.reference_length, report.image_tokens
    assert (length.min, length.median, length.max, length.mean) == (2, 3, 5, 3.33)
    assert (tokens.min, tokens.median, tokens.max, tokens.mean) == (4, 10, 100, 38)
    assert (report.image_width.max, report.image_height.min) == (560, 20)
    assert (report.enlarged, report.reduced) == (1, 1)
    assert (report.padded_references, report.not_nfc) == (1, 1)
    assert report.documents is None


def test_duplicates_need_the_same_text_and_the_same_image(tmp_path):
    for name, text in (("a.png", "one"), ("b.png", "two")):
        draw_line(tmp_path / name, text)
    for copy in ("copy1.png", "copy2.png"):
        shutil.copy(tmp_path / "a.png", tmp_path / copy)
    rows = ["a.png\tone", "copy1.png\tone", "copy2.png\tother", "b.png\tone", "b2.png\tone"]
    shutil.copy(tmp_path / "b.png", tmp_path / "b2.png")
    report = check_data(write_labels(tmp_path, rows))
    assert report.duplicates == [("a.png", "copy1.png"), ("b.png", "b2.png")]
    assert report.num_duplicates == 2
    assert "2 samples repeat prompt, text and images of an earlier one: copy1.png = a.png" in report.text()


def test_files_of_the_same_size_and_other_content_are_no_duplicates(tmp_path):
    for index, name in enumerate(("a.bmp", "b.bmp", "c.bmp")):
        draw_line(tmp_path / name, str(index % 2))
    report = check_data(write_labels(tmp_path, [f"{name}\tone" for name in ("a.bmp", "b.bmp", "c.bmp")]))
    assert report.duplicates == [("a.bmp", "c.bmp")]


def test_text_and_json_say_the_same(label_folder):
    report = check_data(label_folder)
    text = report.text()
    assert "10 of 10 rows, 10 images" in text
    assert "document (10)" in text
    assert "documents         3" in text
    assert "duplicates        none" in text
    values = json.loads(json.dumps(report.to_json()))
    assert values["ok"] is True
    assert (values["num_samples"], values["documents"]) == (10, 3)
    space = {"character": " ", "code_point": "U+0020", "name": "SPACE", "count": 10}
    assert space in values["characters"]
    assert values["image_tokens"]["max"] == 4


def test_a_set_without_a_good_row_is_reported_and_not_raised(tmp_path):
    report = check_data(write_labels(tmp_path, ["a.png\tx"]))
    assert (report.num_samples, report.ok) == (0, False)
    assert "missing_file" in report.text()
    assert report.to_json()["image_tokens"]["max"] == 0


def test_limits_that_are_crossed_are_refused(label_folder):
    with pytest.raises(UserError, match="greater than max_pixels"):
        check_data(label_folder, min_pixels=10_000, max_pixels=1_000)


@pytest.mark.parametrize(
    ("character", "shown"), [(" ", "U+0020"), ("\u0301", "U+0301"), ("\x00", "U+0000"), ("é", "é")]
)
def test_characters_that_cannot_be_seen_are_named(character, shown):
    assert visible(character) == shown


def test_the_shared_letters(shared_data):
    report = check_data(shared_data / "stanford_letters_en")
    assert (report.ok, report.num_samples, report.documents) == (True, 226, 18)
    assert report.image_height.max <= 48
    assert report.image_width.max <= 1000
    assert report.image_tokens.max == 72  # 1000 x 48 becomes 1008 x 56: 36 x 2
