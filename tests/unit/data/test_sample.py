"""The canonical form of a sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glyphrl.data.problems import RowError
from glyphrl.data.sample import Sample, absolute_path, parse_canonical
from glyphrl.errors import UserError

ROW = {"id": "a", "images": ["img/1.png"], "prompt": "Read.", "solution": "476.0", "document": "d1"}


def test_a_row_becomes_a_sample_and_the_same_row_again():
    sample = Sample.from_json(ROW, "/data/set", "x.jsonl:1")
    assert sample == Sample("a", ("/data/set/img/1.png",), "Read.", "476.0", {"document": "d1"})
    assert sample.to_json("/data/set") == ROW


def test_images_outside_the_folder_of_the_file_stay_absolute():
    sample = Sample("a", ("/elsewhere/1.png", "/data/set2/2.png"), "p", "s")
    assert sample.to_json("/data/set")["images"] == ["/elsewhere/1.png", "/data/set2/2.png"]
    assert sample.to_json()["images"] == ["/elsewhere/1.png", "/data/set2/2.png"]


def test_a_name_that_starts_with_two_dots_is_still_inside_the_folder():
    assert Sample("a", ("/data/..x.png",), "p", "s").to_json("/data")["images"] == ["..x.png"]


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"solution": 476.0}, "wrong_type", "solution"),
        ({"solution": None}, "wrong_type", "solution"),
        ({"images": [3]}, "wrong_type", "images"),
        ({"images": None}, "wrong_type", "images"),
        ({"images": [" "]}, "wrong_type", "images"),
        ({"images": ["https://host/1.png"]}, "unsupported_image", "images"),
        ({"images": ["data:image/png;base64,AAAA"]}, "unsupported_image", "images"),
        ({"id": 5}, "wrong_type", "id"),
        ({"id": ""}, "wrong_type", "id"),
        ({"prompt": 5}, "wrong_type", "prompt"),
        ({"prompt": []}, "wrong_type", "prompt"),
        ({"prompt": ["hello"]}, "wrong_type", "prompt[0]"),
        ({"prompt": [{"role": "user", "content": None}]}, "wrong_type", "prompt[0].content"),
        ({"prompt": [{"role": "user", "content": ["x"]}]}, "wrong_type", "prompt[0].content"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "malformed_row", "prompt"),
    ],
)
def test_wrong_values_are_named_with_their_field(change, kind, field):
    with pytest.raises(RowError) as caught:
        parse_canonical({**ROW, **change}, "/data")
    assert (caught.value.kind, caught.value.field) == (kind, field)


@pytest.mark.parametrize("name", ["images", "prompt", "solution"])
def test_absent_fields_are_named(name):
    with pytest.raises(RowError) as caught:
        parse_canonical({key: value for key, value in ROW.items() if key != name}, "/data")
    assert (caught.value.kind, caught.value.field) == ("missing_field", name)


def test_from_json_says_where():
    with pytest.raises(
        UserError, match=r"train\.jsonl:7: field 'solution': found 5 \(int\); expected a string"
    ):
        Sample.from_json({**ROW, "solution": 5}, "/data", "train.jsonl:7")


def test_a_single_path_and_path_objects_are_images_too():
    assert parse_canonical({**ROW, "images": "1.png"}, "/d").images == ("/d/1.png",)
    assert parse_canonical({**ROW, "images": [{"path": "1.png"}]}, "/d").images == ("/d/1.png",)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a/../b.png", "/d/b.png"), ("file:///x/y.png", "/x/y.png"), ("/x/y.png", "/x/y.png")],
)
def test_absolute_path(given, expected):
    assert absolute_path(given, "/d") == expected


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
samples = st.builds(
    Sample,
    id=texts.filter(bool),
    images=st.lists(st.sampled_from(["/d/a.png", "/d/x/b.jpg", "/e/c.png"]), min_size=1, max_size=3).map(
        tuple
    ),
    prompt=texts,
    solution=texts,
    extra=st.dictionaries(st.sampled_from(["document", "page", "ü"]), json_values, max_size=3),
)


@given(samples)
def test_json_round_trip_loses_nothing(sample):
    row = json.loads(json.dumps(sample.to_json("/d")))
    assert Sample.from_json(row, Path("/d"), "x:1") == sample
