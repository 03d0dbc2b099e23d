"""What differs between a reference and an answer: aligned segments to show, character confusions to count."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["equal", "substitution", "deletion", "insertion", "omitted"]

_PIECE = 12
_WORDS = re.compile(r"\S{1,12}\s?|\s")  # a word, or a piece of a long one, with the space after it


@dataclass(frozen=True)
class Segment:
    """A stretch of the alignment.

    Attributes:
        kind: `deletion`: characters of the reference that the answer lacks; `insertion`: characters of the
            answer that the reference lacks; `omitted`: a stretch that is left out of the display.
        reference: Its characters of the reference.
        answer: Its characters of the answer.
    """

    kind: Kind
    reference: str
    answer: str


def align(reference: str, answer: str) -> list[Segment]:
    """Segments of a least-cost alignment (Levenshtein), in order.

    >>> [(s.kind, s.reference, s.answer) for s in align("476.0", "47G.0x")]
    [('equal', '47', '47'), ('substitution', '6', 'G'), ('equal', '.0', '.0'), ('insertion', '', 'x')]
    """
    from rapidfuzz.distance import Levenshtein

    kinds: dict[str, Kind] = {
        "equal": "equal",
        "replace": "substitution",
        "delete": "deletion",
        "insert": "insertion",
    }
    return [
        Segment(kinds[op.tag], reference[op.src_start : op.src_end], answer[op.dest_start : op.dest_end])
        for op in Levenshtein.opcodes(reference, answer)
    ]


def for_display(segments: Iterable[Segment], limit: int = 1200, context: int = 30) -> list[Segment]:
    """Segments cut for a page: at word ends, without the middle of long stretches, and not without end.

    Args:
        segments: Of `align`.
        limit: Characters (of the longer side) that are shown; what remains becomes one `omitted` segment.
        context: Characters that stay at both ends of a stretch that is longer than four times that: text that
            was read rightly, or that a runaway repeats.
    """
    shown: list[Segment] = []
    rest_reference: list[str] = []
    rest_answer: list[str] = []
    left = limit
    for part in (part for segment in segments for part in _parts(segment, context)):
        size = 0 if part.kind == "omitted" else max(len(part.reference), len(part.answer))
        if size > left or rest_reference:
            rest_reference.append(part.reference)
            rest_answer.append(part.answer)
        else:
            shown.append(part)
            left -= size
    if rest_reference:
        shown.append(Segment("omitted", "".join(rest_reference), "".join(rest_answer)))
    return shown


def _parts(segment: Segment, context: int) -> list[Segment]:
    """The segment in pieces that a line may break between, without its middle if it is long."""
    reference, answer = segment.reference, segment.answer
    if segment.kind == "substitution":  # it pairs characters one to one, so it can be cut anywhere
        return [
            Segment(segment.kind, reference[i : i + _PIECE], answer[i : i + _PIECE])
            for i in range(0, len(reference), _PIECE)
        ]
    text = reference or answer

    def of(kind: Kind, piece: str) -> Segment:
        return Segment(kind, piece if reference else "", piece if answer else "")

    if len(text) <= 4 * context:
        return [of(segment.kind, word) for word in _WORDS.findall(text)]
    ends = [
        [of(segment.kind, word) for word in _WORDS.findall(end)] for end in (text[:context], text[-context:])
    ]
    return [*ends[0], of("omitted", text[context:-context]), *ends[1]]


@dataclass(frozen=True)
class Confusion:
    """How often one character was read as another.

    Attributes:
        reference: The true character; empty: the answer has one that is not there.
        answer: The character read; empty: the true one was left out.
        samples: Samples in which it happened: one runaway that repeats itself counts once.
        count: How often it happened.
        occurrences: Of the true character in all references; 0 for insertions.
    """

    reference: str
    answer: str
    samples: int
    count: int
    occurrences: int


@dataclass(frozen=True)
class Confusions:
    """Edits of all samples: totals by kind, and the pairs of characters that occur in most samples."""

    substitutions: int
    deletions: int
    insertions: int
    top: list[Confusion]


def count_confusions(pairs: Iterable[tuple[str, str]], top: int = 15) -> Confusions:
    """Counts the edits of (reference, answer) pairs.

    Where several alignments cost the same, one of them is counted; their totals may split differently.

    Args:
        pairs: Normalised as for the metrics.
        top: Number of pairs of characters to keep.
    """
    from rapidfuzz.distance import Levenshtein

    edits: Counter[tuple[str, str]] = Counter()
    samples: Counter[tuple[str, str]] = Counter()
    characters: Counter[str] = Counter()
    totals = Counter({"replace": 0, "delete": 0, "insert": 0})
    for reference, answer in pairs:
        characters.update(reference)
        if reference == answer:
            continue
        here: Counter[tuple[str, str]] = Counter()
        for op in Levenshtein.editops(reference, answer):
            totals[op.tag] += 1
            true = reference[op.src_pos] if op.tag != "insert" else ""
            read = answer[op.dest_pos] if op.tag != "delete" else ""
            here[true, read] += 1
        edits.update(here)
        samples.update(here.keys())
    ranked = sorted(samples, key=lambda pair: (-samples[pair], -edits[pair], pair))[:top]
    return Confusions(
        totals["replace"],
        totals["delete"],
        totals["insert"],
        [Confusion(*pair, samples[pair], edits[pair], characters[pair[0]]) for pair in ranked],
    )
