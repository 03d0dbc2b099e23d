"""Many samples as one Arrow table: compact, quick to pick from, and without a single decoded image."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc

from glyphrl.data.sample import FIELDS, Sample
from glyphrl.errors import UserError, did_you_mean

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("images", pa.list_(pa.string())),
        # Nearly every sample of a set has the same prompt: a dictionary stores it once.
        ("prompt", pa.dictionary(pa.int32(), pa.string())),
        ("prompt_is_chat", pa.bool_()),
        ("solution", pa.string()),
        ("extra", pa.string()),
    ]
)
BATCH_ROWS = 8192


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class SampleTable(Sequence[Sample]):
    """A sequence of samples; picklable, and 1,000,000 rows take about as much memory as their text."""

    def __init__(self, table: pa.Table) -> None:
        """Wraps a table of `SCHEMA`; use `from_samples` to build one."""
        assert table.schema.equals(SCHEMA), table.schema
        self._table = table.unify_dictionaries().combine_chunks()
        self._extra_names: list[str] | None = None

    @classmethod
    def from_samples(cls, samples: Iterable[Sample]) -> SampleTable:
        """Builds a table batch by batch, so that `samples` may be a generator."""
        source = iter(samples)
        batches = []
        while chunk := list(islice(source, BATCH_ROWS)):
            batches.append(_to_batch(chunk))
        return cls(pa.Table.from_batches(batches, schema=SCHEMA))

    @classmethod
    def concat(cls, tables: Iterable[SampleTable]) -> SampleTable:
        """All rows of several tables, one table after the other."""
        parts = [table._table for table in tables]
        return cls(pa.concat_tables(parts) if parts else SCHEMA.empty_table())

    def __len__(self) -> int:
        """Number of samples."""
        return self._table.num_rows

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleTable: ...
    def __getitem__(self, index: int | slice) -> Sample | SampleTable:
        """One sample, or a table of the samples of a slice."""
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of a table of {len(self)}")
        return _to_sample(self._table.slice(position, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Sample]:
        """The samples in order, read in batches."""
        for batch in self._table.to_batches(max_chunksize=BATCH_ROWS):
            for row in batch.to_pylist():
                yield _to_sample(row)

    def select(self, indices: Iterable[int]) -> SampleTable:
        """The samples at `indices`, in that order."""
        return SampleTable(self._table.take(pa.array(list(indices), type=pa.int64())))

    def with_id_prefix(self, prefix: str) -> SampleTable:
        """The same samples with `prefix` in front of every id."""
        ids = pc.binary_join_element_wise(prefix, self._table.column("id"), "")
        return SampleTable(self._table.set_column(0, SCHEMA.field("id"), ids))

    @property
    def column_names(self) -> list[str]:
        """`id`, `images`, `prompt`, `solution` and every further column that any sample has."""
        if self._extra_names is None:
            names: dict[str, None] = {}
            for text in self._distinct_extras():
                names.update(dict.fromkeys(json.loads(text)))
            self._extra_names = list(names)
        return [*FIELDS, *self._extra_names]

    def column(self, name: str) -> list[Any]:
        """One column as a list; None where a sample does not have it.

        Raises:
            UserError: No sample has that column.
        """
        if name in ("id", "solution", "images"):
            return self._table.column(name).to_pylist()
        if name == "prompt":
            return [sample.prompt for sample in self]
        if name not in self.column_names:
            raise UserError(f"the samples have no column {name!r}{did_you_mean(name, self.column_names)}")
        return [json.loads(text).get(name) for text in self._table.column("extra").to_pylist()]

    def fingerprint(self, with_images: bool = False) -> str:
        """SHA-256 over ids, image paths, prompts, references and further columns, in order (64 hex digits).

        Image paths count relative to the folder that all of them share, so that moved data keep their
        fingerprint.

        Args:
            with_images: Take in the bytes of the image files too (reads all of them).
        """
        digest = hashlib.sha256()
        folders = {
            os.path.dirname(path) for paths in self._table.column("images").to_pylist() for path in paths
        }
        root = os.path.commonpath(folders) if folders else ""
        for batch in self._table.to_batches(max_chunksize=BATCH_ROWS):
            for row in batch.to_pylist():
                paths = row["images"]
                row["images"] = [os.path.relpath(path, root) for path in paths]
                digest.update(_dump(row).encode("utf-8") + b"\n")
                for path in paths if with_images else ():
                    with open(path, "rb") as image:
                        digest.update(hashlib.file_digest(image, "sha256").digest())
        return digest.hexdigest()

    def to_arrow(self) -> pa.Table:
        """The table behind the samples (`SCHEMA`): chat prompts and further columns are JSON text in it."""
        return self._table

    def _distinct_extras(self) -> Iterable[str]:
        return self._table.column("extra").unique().to_pylist()


def _to_batch(samples: list[Sample]) -> pa.RecordBatch:
    prompts = [
        sample.prompt if isinstance(sample.prompt, str) else _dump(sample.prompt) for sample in samples
    ]
    columns = [
        pa.array([sample.id for sample in samples], pa.string()),
        pa.array([list(sample.images) for sample in samples], pa.list_(pa.string())),
        pa.array(prompts, pa.string()).dictionary_encode(),
        pa.array([not isinstance(sample.prompt, str) for sample in samples], pa.bool_()),
        pa.array([sample.solution for sample in samples], pa.string()),
        pa.array([_dump(sample.extra) for sample in samples], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _to_sample(row: dict[str, Any]) -> Sample:
    return Sample(
        id=row["id"],
        images=tuple(row["images"]),
        prompt=json.loads(row["prompt"]) if row["prompt_is_chat"] else row["prompt"],
        solution=row["solution"],
        extra=json.loads(row["extra"]),
    )
