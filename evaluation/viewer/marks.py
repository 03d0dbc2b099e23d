"""A reading as a proofreader marks it: what was written, and what should stand there above every error."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from glyphrl.evaluation.chardiff import Kind, Segment, align, for_display
from glyphrl.evaluation.viewer.runs import Settings
from glyphrl.evaluation.visible import stand_in, visible
from glyphrl.rewards.normalization import normalize

MOST_ALIGNED = 3000  # characters of either text; pages show less than half of it
SHOWN_RAW = 4000
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
    line_break: bool = False
    """Whether a line ends behind it, in a mark that itself stays on its line."""

    @property
    def short(self) -> bool:
        """Whether what is missed fits above a mark; more stands in the line."""
        return sum(len(stretch.text) for stretch in self.missed) <= FITS_ABOVE


@dataclass(frozen=True)
class Reading:
    """An answer with its marks.

    Attributes:
        marks: In order.
        errors: Edits between reference and answer.
        important: Edits that touch an important character.
        cut: Whether only the beginnings of the texts were compared.
    """

    marks: list[Mark]
    errors: int
    important: int
    cut: bool


def glyphs(text: str, important: frozenset[str], mark_spaces: bool = False) -> list[Glyphs]:
    """`text` in stretches, with hidden characters visible and important ones flagged."""
    return list(_glyphs(text, important, mark_spaces))


def _glyphs(text: str, important: frozenset[str], mark_spaces: bool) -> Iterator[Glyphs]:
    for piece in visible(text, mark_spaces):
        if piece.special:
            # the line ends where the text's does, but not within a mark
            yield Glyphs(piece.text if mark_spaces else piece.text.replace("↵", "↵\n"), True, False)
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
    marks = []
    for segment in for_display(segments, context=CONTEXT):
        if segment.kind == "omitted":
            marks.append(Mark("omitted", [], [], max(len(segment.reference), len(segment.answer))))
            continue
        marks += [
            Mark(
                segment.kind,
                glyphs(read, settings.important, segment.kind != "equal"),
                glyphs(true, settings.important, True) if segment.kind != "equal" else [],
                line_break=segment.kind != "equal" and "\n" in true + read,
            )
            for true, read in _pairs(segment)
        ]
    return Reading(marks, errors, important, cut)


def _pairs(segment: Segment) -> list[tuple[str, str]]:
    """A substitution character by character, so that each true one stands above the one it was taken for."""
    true, read = segment.reference, segment.answer
    marked = any(
        unicodedata.combining(char) for char in true + read
    )  # a mark needs the letter that it sits on
    return [(true, read)] if segment.kind != "substitution" or marked else list(zip(true, read, strict=True))


def lines_of(text: str | None, limit: int = SHOWN_RAW) -> tuple[list[list[Glyphs]], int]:
    """The first `limit` characters in lines, hidden characters visible; and how many more there are."""
    text = text or ""
    lines = text[:limit].split("\n")
    return [glyphs(line, frozenset()) for line in lines], max(0, len(text) - limit)


def hidden_characters(text: str | None) -> int:
    """Characters that would not be seen or that reorder what is around them; line ends do not count."""
    return sum(char not in "\n\t\u00a0" and stand_in(char) is not None for char in text or "")
