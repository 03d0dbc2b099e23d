"""Reading lines and JSON rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import glyphrl.data.textfiles as textfiles
from glyphrl.data.problems import Problem
from glyphrl.data.textfiles import JsonRow, Line, find_surrogate, read_json_rows, read_lines
from glyphrl.errors import UserError


def lines_of(tmp_path: Path, content: bytes) -> list[Line | Problem]:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    return list(read_lines(path))


def rows_of(tmp_path: Path, content: bytes, name: str = "a.json") -> list[JsonRow | Problem]:
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_json_rows(path))


def test_line_ends_byte_order_mark_and_blank_lines(tmp_path):
    found = lines_of(tmp_path, b"\xef\xbb\xbfone\r\n\n \t\r\ntwo\nthree")
    assert found == [Line(1, "one"), Line(4, "two"), Line(5, "three")]


def test_only_line_feeds_end_a_line(tmp_path):
    text = "a\u2028b\u0085c\x0bd\x0ce\rf"
    assert lines_of(tmp_path, text.encode()) == [Line(1, text)]


def test_invalid_utf8_costs_its_own_line_only(tmp_path):
    first, bad, last = lines_of(tmp_path, b"ok\nb\xffd\nok too\n")
    assert (first, last) == (Line(1, "ok"), Line(3, "ok too"))
    assert (bad.kind, bad.line, bad.found) == ("invalid_utf8", 2, "byte 0xff at position 2")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.write_bytes("a\tb".encode("utf-16")), "found UTF-16 text; expected UTF-8"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path, prepare, message):
    prepare(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        list(read_lines(tmp_path / "x"))


def test_json_lines_name_what_is_wrong(tmp_path):
    content = (
        b'{"a": 1}\n{"a": \n[1]\n{"a": NaN}\n{"a": "\\ud800"}\n{"a": "\xff"}\n'
        + b"[" * 100_000
        + b'\n{"b": 2}\n'
    )
    found = rows_of(tmp_path, b'{"start": 0}\n' + content, "a.jsonl")
    assert [row.value if isinstance(row, JsonRow) else (row.kind, row.line) for row in found] == [
        {"start": 0},
        {"a": 1},
        ("malformed_json", 3),
        ("wrong_type", 4),
        ("malformed_json", 5),
        ("invalid_utf8", 6),
        ("invalid_utf8", 7),
        ("malformed_json", 8),
        {"b": 2},
    ]


def test_an_array_gives_its_elements_with_their_lines(tmp_path):
    content = b'\xef\xbb\xbf [\n  {"a": 1},\n  {"a":\n 2}, 7\n,{"a": "\xff"}, {"a": "]},"}]\n'
    found = rows_of(tmp_path, content)
    assert [(row.line, row.value if isinstance(row, JsonRow) else row.kind) for row in found] == [
        (2, {"a": 1}),
        (3, {"a": 2}),
        (4, "wrong_type"),
        (5, "invalid_utf8"),
        (5, {"a": "]},"}),
    ]
    assert rows_of(tmp_path, b"[ ]") == []


@pytest.mark.parametrize(
    "content", [b'[{"a": 1}, {"a"', b'[{"a": 1} {"a": 2}]', b'[{"a": 1}', b"[", b'[{"a": 1},]']
)
def test_an_array_that_breaks_off_is_refused(tmp_path, content):
    with pytest.raises(UserError, match=r"a\.json:1: the JSON array breaks off"):
        rows_of(tmp_path, content)


values = st.lists(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.integers() | st.text('ä\n]}"'),
        max_size=3,
    ),
    max_size=8,
)


@given(values, st.integers(1, 40), st.sampled_from([None, 1]))
def test_arrays_read_in_chunks_of_any_size(tmp_path_factory, rows, chunk, indent):
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textfiles, "_CHUNK", chunk)
        assert [row.value for row in read_json_rows(path)] == rows


def test_a_lone_surrogate_is_found_wherever_it_is():
    assert find_surrogate({"a": [1, {"b\udc80": 2}]}) == "b\udc80"
    assert find_surrogate(["x", {"a": "\ud83d"}]) == "\ud83d"
    assert find_surrogate({"a": ["😀", None, 1.5]}) is None
