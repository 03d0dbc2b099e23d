"""Loading: bad rows are left out and named, or refused; and the samples of a run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from data_files import draw_line, write_jsonl

from glyphrl.config_schema import DataConfig, SplitConfig
from glyphrl.data.load import load_samples, load_split
from glyphrl.errors import UserError


@pytest.fixture
def bad_folder(tmp_path: Path) -> Path:
    """A label file with one good row and one of every fault; the comment is the line."""
    good = draw_line(tmp_path / "img" / "good.png").read_bytes()
    jpeg = draw_line(tmp_path / "img" / "whole.jpg").read_bytes()
    (tmp_path / "img" / "truncated.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "img" / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "img" / "folder.png").mkdir()
    draw_line(tmp_path / "img" / "thin.png", size=(5000, 10))
    (tmp_path / "img" / "text.png").write_text("no image")
    rows = [
        b"img/good.png\t476.0",  # 1
        b"img/missing.png\tx",  # 2
        b"img/truncated.png\tx",  # 3
        b"img/truncated.jpg\tx",  # 4
        b"img/folder.png\tx",  # 5
        b"img/whole.jpg\t  ",  # 6
        b"img/good.png\tagain",  # 7
        b"img/whole.jpg\t\xff\xfe",  # 8
        b"no tab here",  # 9
        b"img/thin.png\tx",  # 10
        b"img/text.png\tx",  # 11
        b"img/whole.jpg\ta<|image_pad|>b",  # 12
    ]
    (tmp_path / "labels.tsv").write_bytes(b"\r\n".join(rows))
    return tmp_path


BAD_LINES = {
    "missing_file": [2],
    "unreadable_image": [3, 4, 11],
    "not_a_file": [5],
    "empty_reference": [6],
    "duplicate_id": [7],
    "invalid_utf8": [8],
    "malformed_row": [9],
    "extreme_image": [10],
    "special_token": [12],
}


def test_every_bad_row_is_left_out_and_named_with_its_line(bad_folder):
    result = load_samples(bad_folder)
    assert result.format == "label-tsv"
    assert [sample.id for sample in result.table] == ["img/good.png"]
    assert {kind: [p.line for p in found] for kind, found in result.report.examples.items()} == BAD_LINES
    assert result.report.counts == {kind: len(lines) for kind, lines in BAD_LINES.items()}
    assert (result.report.rows, result.report.kept) == (12, 1)
    text = result.report.text()
    assert text.startswith("11 of 12 rows were left out:")
    assert f"{bad_folder / 'labels.tsv'}:2: field 'images': found no such file at " in text
    assert json.loads(json.dumps(result.report.to_json()))["counts"]["unreadable_image"] == 3


def test_strict_refuses_and_lists_all_of_them(bad_folder):
    with pytest.raises(UserError, match="refused because of bad rows") as caught:
        load_samples(bad_folder, strict=True)
    for lines in BAD_LINES.values():
        for line in lines:
            assert f"labels.tsv:{line}:" in str(caught.value)


def test_without_looking_into_images_only_the_rows_count(bad_folder):
    result = load_samples(bad_folder, check_images=False)
    assert not {"missing_file", "unreadable_image", "not_a_file", "extreme_image"} & set(result.report.counts)
    assert len(result.table) == 7


def test_empty_references_are_allowed_on_request(label_folder):
    path = label_folder / "labels.tsv"
    path.write_text(path.read_text().replace("line 3", ""), encoding="utf-8")
    assert len(load_samples(label_folder).table) == 9
    assert load_samples(label_folder, allow_empty=True).table[3].solution == ""


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    (tmp_path / "labels.tsv").write_text("a.png\tx\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"(?s)no usable row.*missing_file.*labels\.tsv:1"):
        load_samples(tmp_path)


def test_many_problems_are_counted_in_full_and_shown_in_part(tmp_path):
    draw_line(tmp_path / "good.png")
    rows = "good.png\tx\n" + "".join(f"{n}.png\tx\n" for n in range(1500))
    (tmp_path / "labels.tsv").write_text(rows, encoding="utf-8")
    report = load_samples(tmp_path).report
    assert report.counts["missing_file"] == 1500
    assert len(report.examples["missing_file"]) == 1000
    assert "... and 1,490 more" in report.text(examples=10)


def test_rows_without_an_id_are_named_after_their_first_image(tmp_path, jsonl):
    draw_line(tmp_path / "img" / "1.png")
    row = {"query": "q", "response": "r", "image_path": "img/1.png"}
    path = jsonl("a.jsonl", [row, {**row, "id": "img/1.png#2"}, row])
    assert load_samples(path).table.column("id") == ["img/1.png", "img/1.png#2", "img/1.png#3"]


def test_a_row_without_an_image_and_a_prompt_that_does_not_fit_are_named(tmp_path, jsonl):
    draw_line(tmp_path / "1.png")
    rows = [
        {"id": "a", "images": ["1.png"], "solution": "x"},
        {"id": "b", "images": [], "solution": "x"},
        {"id": "c", "images": ["1.png"], "prompt": "<image><image>", "solution": "x"},
        {"id": "d", "images": ["1.png"], "prompt": "<|im_end|>", "solution": "x"},
    ]
    report = load_samples(jsonl("a.jsonl", rows)).report
    found = {kind: problems[0].line for kind, problems in report.examples.items()}
    assert found == {"missing_field": 2, "image_count": 3, "special_token": 4}


def test_sources_that_share_ids_keep_them_apart(tmp_path, label_folder):
    other = tmp_path / "more" / "train"
    shutil.copytree(label_folder, other)
    result = load_samples([label_folder, other])
    assert len(result.table) == len(set(result.table.column("id"))) == 20
    assert result.table[0].id == "lines/train/img/00.png"
    assert result.table[10].id == "more/train/img/00.png"
    assert "several sources use the same ids" in result.report.text()


def test_sources_with_ids_of_their_own_keep_them(tmp_path, label_folder):
    draw_line(tmp_path / "x.png")
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": "x", "images": ["x.png"], "solution": "x"}])
    result = load_samples([path, label_folder])
    assert result.table.column("id")[:2] == ["x", "img/00.png"]
    assert result.format == "canonical, label-tsv"


def test_relative_sources_follow_base_dir_and_a_source_counts_once(tmp_path, label_folder, monkeypatch):
    assert len(load_samples("lines", base_dir=tmp_path).table) == 10
    monkeypatch.chdir(tmp_path)
    assert load_samples("lines").table[0].images[0] == str(label_folder / "img" / "00.png")
    with pytest.raises(UserError, match="is listed twice"):
        load_samples(["lines", "lines/train/labels.tsv"])
    with pytest.raises(UserError, match="empty list"):
        load_samples([])


def split(config: DataConfig, base_dir: Path | None = None) -> dict[str, set[str]]:
    splits = load_split(config, base_dir)
    return {name: set(getattr(splits, name).column("id")) for name in ("train", "sft", "grpo", "eval")}


def test_the_stages_fall_back_to_train_and_eval_is_split_off(label_folder):
    config = DataConfig(train=str(label_folder), split=SplitConfig(eval_fraction=0.3, by="document"))
    splits = load_split(config)
    assert len(splits.eval) in (3, 4)
    assert len(splits.train) + len(splits.eval) == 10
    assert not set(splits.train.column("document")) & set(splits.eval.column("document"))
    assert list(splits.sft) == list(splits.grpo) == list(splits.train)
    assert set(splits.fingerprints()) == {"train", "sft", "grpo", "eval"}
    assert not splits.report.notes
    config.split.by = None
    assert "split at random" in load_split(config).report.text()


def test_stages_with_their_own_data_lose_what_is_held_out(tmp_path, label_folder):
    extra = tmp_path / "extra"
    shutil.copytree(label_folder, extra)
    # The same images under another file, and copies of them with the same documents.
    same_images = label_folder / "again.tsv"
    shutil.copy(label_folder / "labels.tsv", same_images)
    by_document = SplitConfig(eval_fraction=0.3, by="document")
    config = DataConfig(train=str(label_folder), sft=str(same_images), grpo=str(extra), split=by_document)
    splits = load_split(config)
    held_out = set(splits.eval.column("images")[0])
    for part in (splits.sft, splits.grpo):
        assert len(part) == len(splits.train)
    assert not held_out & {path for paths in splits.sft.column("images") for path in paths}
    assert not set(splits.grpo.column("document")) & set(splits.eval.column("document"))
    assert "held out for evaluation" in splits.report.text()


def test_eval_that_the_user_gives_is_taken_as_it_is_with_a_warning(tmp_path, label_folder):
    shared = label_folder / "eval.tsv"
    shared.write_text("img/00.png\tline 0\n", encoding="utf-8")
    splits = load_split(DataConfig(train=str(label_folder), eval=str(shared)))
    assert (len(splits.train), len(splits.eval)) == (10, 1)
    assert "1 samples of data.train show images of data.eval" in splits.report.text()


def test_limits_take_the_first_samples(tmp_path, label_folder):
    config = DataConfig(train="lines", max_train_samples=2, max_eval_samples=1)
    config.split.eval_fraction = 0.5
    parts = split(config, tmp_path)
    assert {name: len(ids) for name, ids in parts.items()} == {"train": 2, "sft": 2, "grpo": 2, "eval": 1}


def test_sources_that_are_missing_from_the_configuration_are_named(label_folder):
    with pytest.raises(UserError, match=r"data\.train is not given: expected it, or both"):
        load_split(DataConfig(sft=str(label_folder)))
    with pytest.raises(UserError, match=r"expected data\.eval, or data\.train"):
        load_split(DataConfig(sft=str(label_folder), grpo=str(label_folder)))
    splits = load_split(DataConfig(sft=str(label_folder), grpo=str(label_folder), eval=str(label_folder)))
    assert len(splits.train) == 0
    assert len(splits.grpo) == 10


def test_the_shared_lines_load_without_a_problem_and_split_by_document(shared_data):
    sources = [str(path) for path in sorted(shared_data.iterdir()) if path.is_dir()]
    splits = load_split(DataConfig(train=sources, split=SplitConfig(by="document"), strict=True))
    assert len(splits.train) + len(splits.eval) == 862 + 2030 + 226
    assert not set(splits.train.column("document")) & set(splits.eval.column("document"))
    assert abs(len(splits.eval) - 312) < 100
    assert all(os.path.isabs(path) for paths in splits.eval.column("images") for path in paths)
