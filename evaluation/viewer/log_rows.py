"""One file of the completions log as the columns of the viewer's index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from glyphrl.evaluation.viewer.runs import LOG_FILE, Settings
from glyphrl.rewards.normalization import normalize
from glyphrl.trainers.completions_log import COLUMNS, IMAGE_TYPE, LogKey

PART = "reward/"
NEEDED = ("step", "group_id", "sample_id", "completion_index", "solution", "completion", "answer", "reward")
_KINDS = dict(COLUMNS)
READ = (*NEEDED, "images", "format_fault", "finish_reason", "num_tokens", "mean_logprob", "advantage", "time")

# Completions are searched: to unpack a million compressed ones takes 100 ms longer than to search them.
ROWS = """
CREATE TABLE rows (
    run INTEGER, file INTEGER, step BIGINT, rank INTEGER, chunk INTEGER, grp INTEGER, idx INTEGER,
    sample_id VARCHAR, solution VARCHAR, completion VARCHAR USING COMPRESSION uncompressed,
    answer VARCHAR, fault VARCHAR, finish VARCHAR,
    tokens INTEGER, logprob DOUBLE, reward DOUBLE, advantage DOUBLE, similarity DOUBLE, time DOUBLE)
"""


class BadFileError(Exception):
    """A file of the log that cannot be read; the message says why, for the page."""


def file_place(path: Path) -> tuple[int, int, int]:
    """Step, rank and generation, from the file's name.

    Raises:
        BadFileError: It is no name of the log.
    """
    match = LOG_FILE.fullmatch(path.name)
    if match is None:
        raise BadFileError("its name is not of the form step-STEP-rank-RANK-GENERATION.parquet")
    step, rank, chunk = (int(part) for part in match.groups())
    return step, rank, chunk


def read_file(path: Path, settings: Settings) -> tuple[pa.Table, list[str]]:
    """Reads one file.

    Returns:
        Columns as in `ROWS`, without run and file, with `images` (JSON text) and the parts of the reward as
        `reward/NAME`; and the names of the parts.

    Raises:
        BadFileError: It is damaged, or no file of the log.
    """
    _, rank, chunk = file_place(path)
    try:
        names = pq.read_schema(path).names
        parts = [name for name in names if name.startswith(PART)]
        table = pq.read_table(path, columns=[name for name in (*READ, *parts) if name in names])
        missing = [name for name in NEEDED if name not in names]
        if missing:
            raise BadFileError(f"expected a file of the completions log; it lacks {', '.join(missing)}")
        columns = {name: _column(table, name, _KINDS.get(name, pa.float64())) for name in (*READ, *parts)}
        images = [_images(value) for value in columns.pop("images").to_pylist()]
        similarity = similarities(columns["solution"].to_pylist(), columns["answer"].to_pylist(), settings)
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise BadFileError(" ".join(str(error).split())[:300] or type(error).__name__) from error
    groups = pc.fill_null(columns.pop("group_id"), "").dictionary_encode().indices
    count = table.num_rows
    renamed = {
        "completion_index": "idx",
        "format_fault": "fault",
        "finish_reason": "finish",
        "num_tokens": "tokens",
        "mean_logprob": "logprob",
    }
    arrays: dict[str, Any] = {renamed.get(name, name): value for name, value in columns.items()}
    arrays |= {
        "rank": pa.array([rank] * count, pa.int32()),
        "chunk": pa.array([chunk] * count, pa.int32()),
        "grp": groups,
        "images": pa.array(images, pa.string()),
        "similarity": pa.array(similarity, pa.float64()),
    }
    return pa.table(arrays), [name.removeprefix(PART) for name in parts]


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    """A column as one array of the log's own type; nulls where the file lacks it."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows, kind)
    column = table[name].combine_chunks()
    if kind == pa.list_(IMAGE_TYPE):
        return column
    column = column if column.type == kind else column.cast(kind)
    if pa.types.is_floating(kind):  # a mean with an infinity in it says nothing, and JSON cannot hold it
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
    return column


def _images(images: Any) -> str:
    """Paths and hashes as JSON: `[[path, sha256], ...]`; what is of another kind in a log of others is left out."""
    found = images if isinstance(images, list) else []
    pairs = [(one.get("path"), one.get("sha256")) if isinstance(one, dict) else (one, None) for one in found]
    return json.dumps([(p, h if isinstance(h, str) else None) for p, h in pairs if isinstance(p, str)])


def similarities(references: Sequence[Any], answers: Sequence[Any], settings: Settings) -> list[float]:
    """1 − edit distance / longer length of each pair, as the evaluation computes it; in [0, 1]."""
    import numpy as np
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cpdist

    true, read = clean(references, settings), clean(answers, settings)
    if not true:
        return []
    scores = cpdist(true, read, scorer=Levenshtein.normalized_similarity, dtype=np.float64)
    return list(scores.tolist())


def clean(texts: Sequence[Any], settings: Settings) -> list[str]:
    """Texts as they are compared: stripped and normalised; nothing counts as an empty text."""
    stripped = [(text or "").strip() for text in texts]
    if settings.normalization == "none" and not settings.fold_whitespace:
        return stripped
    return [normalize(text, settings.normalization, settings.fold_whitespace) for text in stripped]


def prompt_and_extras(folder: Path, key: LogKey, group: int) -> tuple[str | None, dict[int, dict[str, Any]]]:
    """What the index leaves out: the prompt of a group, and what rewards logged for each of its completions.

    Args:
        folder: Of the completions log.
        key: The file.
        group: Number of the group within the file.

    Returns:
        The prompt, None where the file is gone or lacks it; completion index -> name -> value.
    """
    path = folder / key.file_name()
    try:
        names = pq.read_schema(path).names
        extras = [name for name in names if name not in _KINDS and not name.startswith(PART)]
        wanted = [name for name in ("group_id", "completion_index", "prompt", *extras) if name in names]
        table = pq.read_table(path, columns=wanted)
        codes = pc.fill_null(table["group_id"], "").combine_chunks().dictionary_encode().indices
        rows = table.filter(pc.equal(codes, group)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError):  # a resumed run has taken it back
        return None, {}
    found = {row["completion_index"]: {n: row[n] for n in extras if row[n] is not None} for row in rows}
    return (rows[0].get("prompt") if rows else None), found
