"""Whatever stands in a file, reading it ends in samples, problems or a sentence: never in a traceback."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from glyphrl.data.importers import IMPORTERS
from glyphrl.data.importers.base import ReadOptions
from glyphrl.data.load import load_samples
from glyphrl.data.problems import Problem
from glyphrl.data.rows import CheckOptions, iterate_samples
from glyphrl.data.table import SampleTable
from glyphrl.errors import UserError

WORDS = [
    "",
    "user",
    "human",
    "gpt",
    "assistant",
    "system",
    "text",
    "image",
    "image_url",
    "<image>",
    "a.png",
    "x",
]
KEYS = ["id", "images", "image", "image_path", "prompt", "solution", "query", "response", "history", "system"]
KEYS += [
    "messages",
    "conversations",
    "role",
    "content",
    "from",
    "value",
    "type",
    "text",
    "image_url",
    "url",
    "path",
]

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(WORDS) | st.text(max_size=4)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(WORDS), "from": st.sampled_from(WORDS)},
        optional={"content": values, "value": values},
    ),
    max_size=3,
)
rows = st.dictionaries(st.sampled_from(KEYS), values, max_size=6) | st.fixed_dictionaries(
    {"messages": turns, "conversations": turns, "images": values},
    optional={"solution": values, "prompt": turns},
)
JSON_FORMATS = ["canonical", "query-response", "sharegpt", "messages"]


@given(st.lists(rows, max_size=4))
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_json_rows_of_any_shape(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for format in JSON_FORMATS:  # here and not as a parameter: to draw such rows costs more than to read them
        note(format)
        found = list(iterate_samples(path, format, ReadOptions("Read."), CheckOptions(check_images=False)))
        assert len(found) == len(rows)
        assert all(problem.line for problem in found if isinstance(problem, Problem))
        good = [row.sample for row in found if not isinstance(row, Problem)]
        assert list(SampleTable.from_samples(good)) == good


@given(st.binary(max_size=60) | st.text("{[\"',:;\t\n\r]}aé.png", max_size=60).map(str.encode))
@settings(max_examples=30)
def test_bytes_of_any_kind(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "labels.tsv"
    path.write_bytes(content)
    for format in ("auto", *IMPORTERS):
        note(format)
        with pytest.raises(UserError) as caught:  # no image exists here, so that no row can be used
            load_samples(path, format=format)
        assert str(path) in str(caught.value)
