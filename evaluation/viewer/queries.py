"""Questions about the completions of a run, answered by the index."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from glyphrl.evaluation.viewer.filters import PER_PAGE, SORTS, Where
from glyphrl.evaluation.viewer.index import Index

GROUP_SORTS: dict[str, tuple[str, str]] = {
    "place": ("as sampled", "rank, chunk, grp"),
    "reward": ("lowest reward", "reward NULLS LAST, rank, chunk, grp"),
    "-reward": ("highest reward", "reward DESC NULLS LAST, rank, chunk, grp"),
    "-spread": ("widest spread", "spread DESC, rank, chunk, grp"),
    "similarity": ("least similar", "similarity, rank, chunk, grp"),
}
GROUPS_PER_PAGE = 48
OCCURRENCES = 60  # of one sample, on one page


@dataclass(frozen=True)
class Place:
    """Where a group stands: step, rank, generation within the step, number within the generation."""

    step: int
    rank: int
    chunk: int
    grp: int

    @property
    def key(self) -> str:
        """As it stands in an address."""
        return f"{self.rank}-{self.chunk}-{self.grp}"

    @classmethod
    def parse(cls, step: int, key: str) -> Place | None:
        """The place of an address, None where it is no such address.

        >>> Place.parse(3, "0-1-12"), Place.parse(3, "0-x-1")
        (Place(step=3, rank=0, chunk=1, grp=12), None)
        """
        parts = key.split("-")
        if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) < 9 for p in parts):
            return None
        return cls(step, *(int(part) for part in parts))


def place_of(row: dict[str, Any]) -> Place:
    """The place of a row of `groups` or `rows`."""
    return Place(row["step"], row["rank"], row["chunk"], row["grp"])


@dataclass(frozen=True)
class Image:
    """An image as the log names it; `sha256` is None where no hash was logged."""

    path: str
    sha256: str | None


def images_of(text: str | None) -> list[Image]:
    """The images of a row of the index."""
    return [Image(path, digest) for path, digest in json.loads(text or "[]")]


def step_row(index: Index, run: int, step: int) -> dict[str, Any] | None:
    """What is known of a step, with the steps before and after it; None where it is not logged."""
    rows = index.fetch(
        "SELECT *, (SELECT max(step) FROM steps WHERE run = $run AND step < $step) AS before, "
        "(SELECT min(step) FROM steps WHERE run = $run AND step > $step) AS after, "
        "(SELECT max(step) FROM steps WHERE run = $run) AS last "
        "FROM steps WHERE run = $run AND step = $step",
        {"run": run, "step": step},
    )
    return rows[0] if rows else None


def nearest_step(index: Index, run: int, step: int | None) -> int | None:
    """The logged step nearest to `step`, the last one for None; None where nothing is logged."""
    order = "step DESC" if step is None else "abs(step - $step), step"
    values: dict[str, Any] = {"run": run} if step is None else {"run": run, "step": step}
    rows = index.fetch(f"SELECT step FROM steps WHERE run = $run ORDER BY {order} LIMIT 1", values)
    return rows[0]["step"] if rows else None


def groups_of_step(index: Index, run: int, step: int, sort: str, page: int) -> list[dict[str, Any]]:
    """A page of the groups of a step."""
    return index.fetch(
        f"SELECT * FROM groups WHERE run = $run AND step = $step ORDER BY {GROUP_SORTS[sort][1]} "
        f"LIMIT {GROUPS_PER_PAGE} OFFSET $offset",
        {"run": run, "step": step, "offset": (page - 1) * GROUPS_PER_PAGE},
    )


def group_row(index: Index, run: int, place: Place) -> dict[str, Any] | None:
    """A group, with the keys of the groups around it in the step and of its sample's other groups."""
    values = {"run": run, **vars(place)}
    rows = index.fetch(
        "SELECT * FROM groups WHERE run = $run AND step = $step AND rank = $rank AND chunk = $chunk "
        "AND grp = $grp",
        values,
    )
    return rows[0] if rows else None


def counterpart(index: Index, run: int, step: int, key: str) -> Place:
    """The group of a logged step with the key of another step's group, else its first one."""
    rows = index.fetch(
        "SELECT step, rank, chunk, grp FROM groups WHERE run = $run AND step = $step ORDER BY rank, chunk, grp",
        {"run": run, "step": step},
    )
    places = [place_of(row) for row in rows]
    return next((place for place in places if place.key == key), places[0])


def neighbours(index: Index, run: int, place: Place) -> tuple[Place | None, Place | None, int, int]:
    """The groups before and after a group in its step, its number from 1, and how many there are."""
    rows = index.fetch(
        "SELECT step, rank, chunk, grp FROM groups WHERE run = $run AND step = $step ORDER BY rank, chunk, grp",
        {"run": run, "step": place.step},
    )
    places = [place_of(row) for row in rows]
    at = places.index(place)
    before = places[at - 1] if at else None
    after = places[at + 1] if at + 1 < len(places) else None
    return before, after, at + 1, len(places)


def same_sample(index: Index, run: int, row: dict[str, Any]) -> tuple[Place | None, Place | None, int]:
    """The groups of the same sample before and after a group in training, and how many there are in all."""
    found = index.fetch(
        "SELECT step, rank, chunk, grp FROM groups WHERE run = $run AND sample_id = $sample "
        "ORDER BY step, rank, chunk, grp",
        {"run": run, "sample": row["sample_id"]},
    )
    places = [place_of(one) for one in found]
    at = places.index(place_of(row)) if row["sample_id"] is not None else 0
    before = places[at - 1] if at else None
    return before, places[at + 1] if at + 1 < len(places) else None, len(places)


def completions_of(index: Index, run: int, place: Place) -> list[dict[str, Any]]:
    """The completions of a group, highest reward first."""
    return index.fetch(
        "SELECT * FROM rows WHERE run = $run AND step = $step AND rank = $rank AND chunk = $chunk "
        "AND grp = $grp ORDER BY reward DESC NULLS LAST, similarity DESC, idx",
        {"run": run, **vars(place)},
    )


def find_completions(index: Index, where: Where, sort: str, page: int) -> tuple[list[dict[str, Any]], int]:
    """A page of the completions that a filter leaves, and how many it leaves."""
    # Numbers first, texts only for those that are shown: sorting must not carry a million completions along. A text
    # is looked for once, which is most of the work, so the count comes with the numbers there.
    counted = ", count(*) OVER () AS total" if "text" in where.values else ""
    picked = index.fetch(
        f"SELECT rowid AS number{counted} FROM rows WHERE {where.condition} ORDER BY {SORTS[sort][1]} "
        f"LIMIT {PER_PAGE} OFFSET $offset",
        {**where.values, "offset": (page - 1) * PER_PAGE},
    )
    if counted and picked:
        total = picked[0]["total"]
    elif counted and page == 1:
        total = 0
    else:
        count = f"SELECT count(*) AS total FROM rows WHERE {where.condition}"
        total = index.fetch(count, where.values)[0]["total"]
    rows = index.fetch(
        "SELECT *, (SELECT images FROM groups g WHERE g.run = r.run AND g.file = r.file AND g.grp = r.grp) AS images "
        f"FROM rows r WHERE rowid IN (SELECT unnest($numbers)) ORDER BY {SORTS[sort][1]}",
        {"numbers": [row["number"] for row in picked]},
    )
    return rows, total


def sample_groups(index: Index, run: int, sample: str) -> list[dict[str, Any]]:
    """All groups of a sample, in the order of training."""
    return index.fetch(
        "SELECT * FROM groups WHERE run = $run AND sample_id = $sample ORDER BY step, rank, chunk, grp",
        {"run": run, "sample": sample},
    )


def sample_answers(index: Index, run: int, sample: str) -> list[dict[str, Any]]:
    """What a sample was read as, each answer once a group: how often, and its mean reward; best first."""
    return index.fetch(
        "SELECT step, rank, chunk, grp, answer, count(*) AS times, avg(reward) AS reward, "
        "first(similarity) AS similarity FROM rows WHERE run = $run AND sample_id = $sample "
        "GROUP BY step, rank, chunk, grp, answer "
        "ORDER BY step, rank, chunk, grp, reward DESC NULLS LAST, times DESC, answer",
        {"run": run, "sample": sample},
    )


def often_sampled(index: Index, run: int, text: str, page: int) -> tuple[list[dict[str, Any]], int]:
    """A page of the samples whose id contains `text`, those that were practised most first."""
    values = {"run": run, "text": text}
    condition = "run = $run AND contains(sample_id, $text)" if text else "run = $run AND $text = ''"
    total = index.fetch(f"SELECT count(DISTINCT sample_id) AS n FROM groups WHERE {condition}", values)
    rows = index.fetch(
        "SELECT sample_id, first(solution) AS solution, count(*) AS times, min(step) AS first, "
        "max(step) AS last, arg_min(similarity, step) AS early, arg_max(similarity, step) AS late, "
        "first(images) AS images, first(rank) AS rank, first(chunk) AS chunk, first(grp) AS grp, "
        f"first(step) AS step FROM groups WHERE {condition} AND sample_id IS NOT NULL GROUP BY sample_id "
        f"ORDER BY times DESC, sample_id LIMIT {PER_PAGE} OFFSET $offset",
        {**values, "offset": (page - 1) * PER_PAGE},
    )
    return rows, total[0]["n"]
