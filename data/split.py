"""Holding samples out: by document, or sample by sample."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable

from glyphrl.data.table import SampleTable
from glyphrl.errors import UserError


def split_samples(
    table: SampleTable, fraction: float, by: str | None = None, seed: int = 0
) -> tuple[SampleTable, SampleTable]:
    """Splits a table into training and held-out samples; both keep the order of the table.

    Which samples are held out depends on the seed and on the ids (or documents) alone: not on their order,
    the machine or the Python version.

    Args:
        table: All samples.
        fraction: Share of the samples to hold out, 0 to 1. By document it is met as nearly as whole
            documents allow.
        by: Column whose values stay together. None: at random; samples with a common image stay together.
        seed: Seed of the choice.

    Returns:
        Training samples and held-out samples. Where `fraction` lies between 0 and 1, neither is empty.

    Raises:
        UserError: The fraction is out of range, a sample has no value in the column, or there are too few
            samples or documents to split.
    """
    if not 0.0 <= fraction <= 1.0:
        raise UserError(f"split fraction {fraction}: expected a number from 0 to 1")
    keys = group_keys(table, by)
    if fraction == 0.0 or fraction == 1.0:
        nothing = table.select([])
        return (table, nothing) if fraction == 0.0 else (nothing, table)
    held = choose_groups(keys, fraction, seed, by or "id")
    held_out = [index for index, key in enumerate(keys) if key in held]
    train = [index for index, key in enumerate(keys) if key not in held]
    return table.select(train), table.select(held_out)


def group_keys(table: SampleTable, by: str | None) -> list[str]:
    """What keeps samples together: a column's value as text; without one, the least id that shares an image.

    Raises:
        UserError: A sample has no value in the column.
    """
    if by is None:
        return _least_ids_by_image(table.column("id"), table.column("images"))
    values = table.column(by)
    missing = [index for index, value in enumerate(values) if value is None]
    if missing:
        raise UserError(
            f"column {by!r}: {len(missing):,} of {len(table):,} samples have no value (first: "
            f"{table[missing[0]].id!r}); a split by it needs one for every sample"
        )
    return [group_key(value) for value in values]


def group_key(value: object) -> str:
    """A column's value as text, by which samples are kept together."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _least_ids_by_image(ids: list[str], images: list[list[str]]) -> list[str]:
    """For each sample the least id among all samples that are linked to it by images (union-find)."""
    parents = list(range(len(ids)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first_with: dict[str, int] = {}
    for index, paths in enumerate(images):
        for path in paths:
            one, other = root(index), root(first_with.setdefault(path, index))
            # The root of a group is the sample with its least id.
            low, high = (one, other) if ids[one] <= ids[other] else (other, one)
            parents[high] = low
    return [ids[root(index)] for index in range(len(ids))]


def choose_groups(keys: Iterable[str], fraction: float, seed: int, what: str = "id") -> set[str]:
    """The groups to hold out.

    Visited in a seeded order, each is taken if that brings the held-out share nearer to `fraction`.

    Raises:
        UserError: There are fewer than two groups.
    """
    sizes = Counter(keys)
    if len(sizes) < 2:
        raise UserError(
            f"cannot hold out samples: found {len(sizes)} different value(s) of {what!r}, expected at least 2"
        )
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    target = fraction * sizes.total()
    held: set[str] = set()
    count = 0
    for key in order:
        if abs(count + sizes[key] - target) < abs(count - target) and len(held) < len(sizes) - 1:
            held.add(key)
            count += sizes[key]
    # Every group is too large for the fraction: the one that overshoots least.
    return held or {min(order, key=lambda key: sizes[key])}
