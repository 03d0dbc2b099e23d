"""The table of samples."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sample import samples

from glyphrl.data.sample import Sample
from glyphrl.data.table import BATCH_ROWS, SampleTable
from glyphrl.errors import UserError

CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]}]


def make(count: int) -> list[Sample]:
    return [
        Sample(
            f"s{i}",
            (f"/d/{i}.png",),
            CHAT if i % 2 else "Read.",
            f"text {i}",
            {"document": i // 3} if i else {},
        )
        for i in range(count)
    ]


@given(st.lists(samples, max_size=6))
def test_a_table_gives_back_the_samples_it_was_built_from(originals):
    table = SampleTable.from_samples(originals)
    assert list(table) == originals
    assert [table[i] for i in range(len(table))] == originals
    assert table.column("solution") == [sample.solution for sample in originals]


def test_indices_and_slices_work_as_on_a_list():
    originals = make(10)
    table = SampleTable.from_samples(originals)
    assert table[-1] == originals[-1]
    assert list(table[2:8:3]) == originals[2:8:3]
    assert list(table[::-1]) == originals[::-1]
    assert list(table.select([3, 3, 0])) == [originals[3], originals[3], originals[0]]
    for index in (10, -11):
        with pytest.raises(IndexError):
            table[index]


def test_several_batches_are_one_table():
    originals = [Sample(str(i), ("/d/a.png",), f"p{i % 3}", "s") for i in range(BATCH_ROWS + 5)]
    table = SampleTable.from_samples(iter(originals))
    assert len(table) == BATCH_ROWS + 5
    assert table[BATCH_ROWS + 1] == originals[BATCH_ROWS + 1]
    assert table.column("prompt")[-1] == originals[-1].prompt


def test_further_columns_are_none_where_a_sample_lacks_them():
    table = SampleTable.from_samples(make(4))
    assert table.column("document") == [None, 0, 0, 1]
    assert table.column_names == ["id", "images", "prompt", "solution", "document"]
    assert table.column("prompt")[1] == CHAT
    with pytest.raises(UserError, match="no column 'documnt'; did you mean 'document'"):
        table.column("documnt")


def test_concat_prefix_pickle_and_the_empty_table():
    first, second = SampleTable.from_samples(make(3)), SampleTable.from_samples(make(2))
    both = SampleTable.concat([first, second])
    assert list(both) == [*first, *second]
    assert both.with_id_prefix("x/").column("id") == ["x/s0", "x/s1", "x/s2", "x/s0", "x/s1"]
    assert list(pickle.loads(pickle.dumps(both))) == list(both)
    empty = SampleTable.concat([])
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.column("id") == []
    assert len(empty.fingerprint()) == 64


def test_the_fingerprint_follows_every_field_and_not_the_folder():
    originals = make(4)
    base = SampleTable.from_samples(originals).fingerprint()
    moved = [replace(s, images=tuple(p.replace("/d/", "/other/place/") for p in s.images)) for s in originals]
    assert SampleTable.from_samples(moved).fingerprint() == base
    for change in (
        {"id": "z"},
        {"images": ("/d/9.png",)},
        {"prompt": "Other."},
        {"prompt": '[{"role":"user","content":"q"}]'},
        {"solution": "other"},
        {"extra": {"document": 9}},
    ):
        changed = [replace(originals[0], **change), *originals[1:]]
        assert SampleTable.from_samples(changed).fingerprint() != base, change
    assert SampleTable.from_samples(originals[::-1]).fingerprint() != base
    assert SampleTable.from_samples(originals[:3]).fingerprint() != base


def test_the_fingerprint_with_images_follows_their_bytes(tmp_path: Path):
    path = tmp_path / "a.png"
    table = SampleTable.from_samples([Sample("a", (str(path),), "p", "s")])
    path.write_bytes(b"one")
    first, plain = table.fingerprint(with_images=True), table.fingerprint()
    path.write_bytes(b"two")
    assert table.fingerprint(with_images=True) != first
    assert table.fingerprint() == plain


def test_a_hundred_thousand_samples_stay_small():
    prompt = "Read the text in the image. " * 4
    rows = (Sample(f"{i:06d}", (f"/data/{i:06d}.jpg",), prompt, f"text {i}") for i in range(100_000))
    table = SampleTable.from_samples(rows).to_arrow()
    assert table.nbytes < 100_000 * 90  # the prompt alone would take 112 bytes a row
