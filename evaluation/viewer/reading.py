"""Questions about evaluations, answered by the index: predictions beside others, and confused characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glyphrl.evaluation.viewer.filters import PER_PAGE, PREDICTION_SORTS, Where
from glyphrl.evaluation.viewer.index import Index

MATRIX = 18  # characters on each side of the matrix
PAIRS = 24


@dataclass(frozen=True)
class Model:
    """An evaluation: a run's number and the name of the model."""

    run: int
    name: str


def totals(index: Index) -> dict[Model, dict[str, Any]]:
    """Every evaluation with its number of samples, mean similarity, CER, exact matches and faults."""
    rows = index.fetch(
        "SELECT run, model, count(*) AS samples, avg(similarity) AS similarity, "
        "sum(distance) / nullif(sum(length), 0) AS cer, avg(exact::INTEGER) AS exact, "
        "avg((fault IS NULL)::INTEGER) AS format_ok FROM predictions GROUP BY run, model"
    )
    return {Model(row["run"], row["model"]): row for row in rows}


def find_predictions(
    index: Index, where: Where, other: Model | None, sort: str, page: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A page of predictions beside those of another model for the same samples.

    Returns:
        Rows, the other model's answer as `other_answer` and so on (None where it did not read the sample);
        and counts: `total`, and of all that the filter leaves `better`, `worse`, `equal`.
    """
    values = {**where.values, "other_run": other.run if other else -1, "other": other.name if other else ""}
    source = (
        "FROM predictions p LEFT JOIN predictions o ON o.run = $other_run AND o.model = $other "
        f"AND o.sample_id = p.sample_id WHERE {where.condition}"
    )
    counts = index.fetch(
        "SELECT count(*) AS total, count(*) FILTER (p.similarity > o.similarity) AS better, "
        "count(*) FILTER (p.similarity < o.similarity) AS worse, "
        f"count(*) FILTER (p.similarity = o.similarity) AS equal {source}",
        values,
    )[0]
    rows = index.fetch(
        "SELECT p.*, o.answer AS other_answer, o.completion AS other_completion, o.fault AS other_fault, "
        "o.finish AS other_finish, o.distance AS other_distance, o.similarity AS other_similarity, "
        f"o.exact AS other_exact {source} ORDER BY {PREDICTION_SORTS[sort][1]} "
        f"LIMIT {PER_PAGE} OFFSET $offset",
        {**values, "offset": (page - 1) * PER_PAGE},
    )
    return rows, counts


def prediction_row(index: Index, model: Model, number: int) -> dict[str, Any] | None:
    """One prediction by its place in the data."""
    rows = index.fetch(
        "SELECT * FROM predictions WHERE run = $run AND model = $model AND number = $number",
        {"run": model.run, "model": model.name, "number": number},
    )
    return rows[0] if rows else None


@dataclass(frozen=True)
class Matrix:
    """Confused characters.

    Attributes:
        pairs: The commonest (true, read) with samples, times, and occurrences of the true character.
        rows: True characters, those with most confusions first; "" stands for nothing.
        columns: Read characters; "" stands for nothing.
        cells: (true, read) -> samples.
        most: Greatest number in `cells`.
        total: All edits, also of characters that have no row.
        left_out: Of these, those that stand in no cell.
    """

    pairs: list[dict[str, Any]]
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], int]
    most: int
    total: int
    left_out: int


def confusion_matrix(index: Index, model: Model, size: int = MATRIX) -> Matrix:
    """The characters of a model's readings that are most confused. A sample counts once for each pair."""
    found = index.fetch(
        "SELECT c.reference, c.answer, count(*) AS samples, sum(c.times)::BIGINT AS times, "
        "first(a.times) AS occurrences FROM confusions c LEFT JOIN characters a "
        "ON a.run = c.run AND a.model = c.model AND a.reference = c.reference "
        "WHERE c.run = $run AND c.model = $model GROUP BY c.reference, c.answer "
        "ORDER BY samples DESC, times DESC, c.reference, c.answer",
        {"run": model.run, "model": model.name},
    )
    true: dict[str, int] = {}
    read: dict[str, int] = {}
    for pair in found:
        true[pair["reference"]] = true.get(pair["reference"], 0) + pair["samples"]
        read[pair["answer"]] = read.get(pair["answer"], 0) + pair["samples"]
    kept = sorted((set(true) | set(read)) - {""}, key=lambda char: -(true.get(char, 0) + read.get(char, 0)))
    shown = sorted(kept[:size])
    rows = [char for char in shown if char in true] + ([""] if "" in true else [])
    columns = [char for char in shown if char in read] + ([""] if "" in read else [])
    inside = {(p["reference"], p["answer"]): p["samples"] for p in found}
    cells = {key: inside[key] for key in inside if key[0] in rows and key[1] in columns}
    total = sum(pair["times"] for pair in found)
    held = sum(pair["times"] for pair in found if (pair["reference"], pair["answer"]) in cells)
    return Matrix(found[:PAIRS], rows, columns, cells, max(cells.values(), default=0), total, total - held)
