"""A reading as a proofreader marks it: what was written, and what should stand there above every error."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from glyphrl.evaluation.chardiff import Kind, Segment, align, for_display
from glyphrl.evaluation.viewer.runs import Settings
from glyphrl.evaluation.visible import stand_in, visible
from glyphrl.rewards.normalization import normalize

MOST_ALIGNED = 3000  # characters of either text; pages show less than half of it
SHOWN_RAW = 4000
LINE = 120  # characters
FITS_ABOVE = 2  # characters
CONTEXT = 100  # characters that stay at both ends of a long stretch that was read rightly


@dataclass(frozen=True)
class Glyphs:
    """A stretch of characters: `special`: stand-ins for what would not be seen; `important`: counts more."""

    text: str
    special: bool
    important: bool


@dataclass(frozen=True)
class Mark:
    """A stretch of the reading: the characters of the answer, and those of the reference that it misses."""

    kind: Kind
    written: list[Glyphs]
    missed: list[Glyphs]
    more: int = 0
    """Characters that are left out of the display."""
    short: bool = False
    """Whether what is missed fits above a mark; more stands in the line."""
    line_break: bool = False
    """Whether a line ends behind a mark that itself stays on its line."""


@dataclass(frozen=True)
class Reading:
    """An answer with its marks.

    Attributes:
        marks: In order.
        errors: Edits between reference and answer.
        important: Edits that touch an important character.
        cut: Whether only the beginnings of the texts were compared.
        long: Whether it is a page rather than a line, and is set in smaller type.
    """

    marks: list[Mark]
    errors: int
    important: int
    cut: bool
    long: bool


def glyphs(
    text: str, important: frozenset[str], mark_spaces: bool = False, lines: bool = True
) -> list[Glyphs]:
    """`text` in stretches, with hidden characters visible and important ones flagged.

    Args:
        text: Anything.
        important: Characters to flag.
        mark_spaces: Whether spaces are shown too.
        lines: Whether a line ends where one of the text does; else only the sign for it stands there.
    """
    return list(_glyphs(text, important, mark_spaces, lines))


def _glyphs(text: str, important: frozenset[str], mark_spaces: bool, lines: bool) -> Iterator[Glyphs]:
    for piece in visible(text, mark_spaces):
        if piece.special:
            yield Glyphs(piece.text.replace("↵", "↵\n") if lines else piece.text, True, False)
            continue
        for flag, chars in groupby(piece.text, key=lambda char: char in important):
            yield Glyphs("".join(chars), False, flag)


def proofread(reference: str | None, answer: str | None, settings: Settings) -> Reading:
    """Compares an answer with its reference, both normalised as for the metrics."""
    true, read = (
        normalize((text or "").strip(), settings.normalization, settings.fold_whitespace)
        for text in (reference, answer)
    )
    cut = max(len(true), len(read)) > MOST_ALIGNED
    segments = align(true[:MOST_ALIGNED], read[:MOST_ALIGNED])
    errors = important = 0
    for segment in segments:
        if segment.kind != "equal":
            errors += max(len(segment.reference), len(segment.answer))
            # a substitution pairs characters one to one; the shorter side of the others is empty
            pairs = zip(
                segment.reference.ljust(len(segment.answer), "\0"),
                segment.answer.ljust(len(segment.reference), "\0"),
                strict=True,
            )
            important += sum(a in settings.important or b in settings.important for a, b in pairs)
    shown = _joined(for_display(segments, context=CONTEXT))
    marks = [_mark(part, settings.important) for segment in shown for part in _single_pairs(segment)]
    return Reading(marks, errors, important, cut, max(len(true), len(read)) > LINE)


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one kind as one: writing from right to left keeps its order only within one stretch."""
    found = []
    for kind, group in groupby(segments, key=lambda segment: segment.kind):
        parts = list(group)
        if kind == "omitted":
            found += parts
        else:
            joined = ("".join(p.reference for p in parts), "".join(p.answer for p in parts))
            found.append(Segment(kind, *joined))
    return found


def _single_pairs(segment: Segment) -> list[Segment]:
    """A substitution character by character, so that each true one stands above the one it was taken for."""
    true, read = segment.reference, segment.answer
    marked = any(
        unicodedata.combining(char) for char in true + read
    )  # a mark needs the letter that it sits on
    if segment.kind != "substitution" or marked:
        return [segment]
    return [Segment(segment.kind, *pair) for pair in zip(true, read, strict=True)]


def _mark(segment: Segment, important: frozenset[str]) -> Mark:
    true, read = segment.reference, segment.answer
    if segment.kind == "omitted":
        return Mark("omitted", [], [], max(len(true), len(read)))
    if segment.kind == "equal":
        return Mark("equal", glyphs(read, important), [])
    short = len(true) <= FITS_ABOVE
    above = segment.kind == "substitution" or (segment.kind == "deletion" and short)
    return Mark(
        segment.kind,
        glyphs(read, important, True, lines=not above),
        glyphs(true, important, True, lines=not above),
        short=short,
        line_break=above and "\n" in true + read,
    )


def lines_of(text: str | None, limit: int = SHOWN_RAW) -> tuple[list[list[Glyphs]], int]:
    """The first `limit` characters in lines, hidden characters visible; and how many more there are."""
    text = text or ""
    lines = text[:limit].split("\n")
    return [glyphs(line, frozenset()) for line in lines], max(0, len(text) - limit)


def hidden_characters(text: str | None) -> int:
    """Characters that would not be seen or that reorder what is around them; line ends do not count."""
    return sum(char not in "\n\t\u00a0" and stand_in(char) is not None for char in text or "")
