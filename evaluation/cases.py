"""Samples that a report shows one by one: the worst ones, and those that changed most between two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from glyphrl.evaluation.chardiff import Segment, align, for_display
from glyphrl.evaluation.predictions import column
from glyphrl.evaluation.thumbnails import Thumbnail, thumbnail
from glyphrl.rewards.normalization import normalize

MAX_IMAGES = 4
MAX_COMPLETION = 4000


@dataclass(frozen=True)
class Reading:
    """What one model read on one sample.

    Attributes:
        label: The model's name in the report.
        text_acc: In [0, 1].
        distance: Edit distance.
        exact: Whether the answer equals the reference.
        fault: Format fault, empty where the format is exact.
        truncated: Whether the completion was cut off at the length limit.
        segments: Alignment of the normalised reference and answer.
        completion: As written, cut to `MAX_COMPLETION` characters.
        completion_length: Of the whole completion, in characters.
    """

    label: str
    text_acc: float
    distance: int
    exact: bool
    fault: str
    truncated: bool
    segments: list[Segment]
    completion: str
    completion_length: int


@dataclass(frozen=True)
class Case:
    """One sample in a report.

    Attributes:
        sample_id: Its id.
        reference: The true text.
        images: Its images, downscaled; at most `MAX_IMAGES`.
        hidden_images: How many more there are.
        readings: One for each model.
        change: Change of `text_acc` between the two models that are compared, None elsewhere.
    """

    sample_id: str
    reference: str
    images: list[Thumbnail]
    hidden_images: int
    readings: list[Reading]
    change: float | None = None

    @property
    def wide(self) -> bool:
        """Whether an image needs the whole width of the page, as a scanned line does."""
        return any(image.width > 520 for image in self.images)

    @property
    def tall(self) -> bool:
        """Whether an image stands better beside the text than above it, as a page or a receipt does."""
        return any(image.height > 180 for image in self.images)


def worst(table: pa.Table, count: int) -> np.ndarray:
    """Rows of the least `text_acc`, the greater distance first among equals, without those that are exact."""
    accuracy, distance = column(table, "text_acc"), column(table, "distance")
    order = np.lexsort((-distance, accuracy))
    return order[accuracy[order] < 1.0][:count]


def most_changed(before: pa.Table, after: pa.Table, count: int, improved: bool) -> np.ndarray:
    """Rows whose `text_acc` rose (or fell) most; the tables are over the same samples in the same order."""
    change = column(after, "text_acc") - column(before, "text_acc")
    change = change if improved else -change
    order = np.argsort(-change, kind="stable")
    return order[change[order] > 0][:count]


def build_cases(
    rows: Sequence[int] | np.ndarray,
    tables: Mapping[str, pa.Table],
    normalization: str,
    fold_whitespace: bool,
    change: np.ndarray | None = None,
) -> list[Case]:
    """Cases of the given rows.

    Args:
        rows: Row numbers, in the order of display.
        tables: label -> predictions, over the same samples in the same order.
        normalization: As used for the metrics.
        fold_whitespace: As used for the metrics.
        change: Change of `text_acc` of every row, where two models are compared.
    """
    picked = {label: table.take(pa.array(rows, pa.int64())).to_pylist() for label, table in tables.items()}
    first = next(iter(picked.values()))
    cases = []
    for i, (row, sample) in enumerate(zip(rows, first, strict=True)):
        readings = []
        for label, predictions in picked.items():
            readings.append(_reading(label, predictions[i], normalization, fold_whitespace))
        images = [thumbnail(path) for path in sample["images"][:MAX_IMAGES]]
        hidden = max(0, len(sample["images"]) - MAX_IMAGES)
        moved = None if change is None else float(change[row])
        cases.append(Case(sample["sample_id"], sample["solution"], images, hidden, readings, moved))
    return cases


def _reading(label: str, row: dict, normalization: str, fold_whitespace: bool) -> Reading:
    reference, answer = (
        normalize(row[name], normalization, fold_whitespace) for name in ("solution", "answer")
    )
    return Reading(
        label=label,
        text_acc=row["text_acc"],
        distance=row["distance"],
        exact=row["exact"],
        fault=row["format_fault"] or "",
        truncated=row["finish_reason"] == "length",
        segments=for_display(align(reference, answer)),
        completion=row["completion"][:MAX_COMPLETION],
        completion_length=len(row["completion"]),
    )
