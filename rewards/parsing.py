"""Taking the answer out of a completion.

The expected form is `<answer>text</answer>`, after a `<think>…</think>` block or without one. The last
complete answer block counts; where there is none, the whole completion is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Fault = Literal["missing", "unclosed", "nested", "repeated", "outside", "empty"]
FAULTS: tuple[Fault, ...] = ("missing", "unclosed", "nested", "repeated", "outside", "empty")
"""What can be wrong with the format; of several faults the first of this order is `ParsedAnswer.fault`.

missing: no answer tag at all. unclosed: an opening tag without its closing tag, or the other way round.
    nested: a block inside another. repeated: more than one block of a kind. outside: text (or a think block)
    that stands outside or after the answer. empty: an answer of white space only.
"""


@dataclass(frozen=True)
class ParsedAnswer:
    """What `parse_answer` found."""

    answer: str
    """Text that is scored, without surrounding white space."""
    exact: bool
    """Whether the completion has exactly the asked-for form."""
    fault: Fault | None
    """The first fault in the order of `FAULTS`; None where the form is exact."""
    faults: tuple[Fault, ...] = ()
    """Every fault, in the order of `FAULTS`."""
    has_block: bool = True
    """Whether there is a complete answer block; without one, `answer` is the whole completion."""
    think: str | None = None
    """Text of the first complete think block."""


@lru_cache(maxsize=32)
def _tag_pattern(extra_tags: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(re.escape(name) for name in ("think", "answer", *extra_tags))
    return re.compile(f"<(/?)({names})>")


def parse_answer(text: str, extra_tags: Sequence[str] = ()) -> ParsedAnswer:
    r"""Finds the answer of a completion and judges its format. Linear in the length of `text`.

    Args:
        text: The completion.
        extra_tags: Names of further blocks that may stand once outside the answer, e.g. `("confidence",)`.

    >>> parse_answer("<answer>476.0</answer>")
    ParsedAnswer(answer='476.0', exact=True, fault=None, faults=(), has_block=True, think=None)
    >>> parse_answer("<think>a 4?</think>\n<answer>\nline 1\nline 2\n</answer>").answer
    'line 1\nline 2'
    >>> p = parse_answer("It is <answer>1</answer>, no, <answer>2</answer>")
    >>> p.answer, p.exact, p.fault, p.faults
    ('2', False, 'repeated', ('repeated', 'outside'))
    >>> p = parse_answer("<answer>47")
    >>> p.answer, p.fault, p.has_block
    ('<answer>47', 'unclosed', False)
    >>> parse_answer("476.0").fault, parse_answer("<answer> </answer>").fault
    ('missing', 'empty')
    """
    stack: list[str] = []
    counts = {"think": 0, "answer": 0}
    found: set[Fault] = set()
    answer: str | None = None
    think: str | None = None
    last_end = 0  # where the tag before this one ended
    answer_seen = False
    # End of the opening tag of each name that no other tag of that name has followed: blocks are innermost.
    opened: dict[str, int] = {}
    for match in _tag_pattern(tuple(extra_tags)).finditer(text):
        closing, name = match.group(1) == "/", match.group(2)
        if not stack and text[last_end : match.start()].strip():
            found.add("outside")
        if not closing:
            if stack:
                found.add("nested")
            counts[name] = counts.get(name, 0) + 1
            if counts[name] > 1:
                found.add("repeated")
            if name == "think" and answer_seen:
                found.add("outside")
            stack.append(name)
            opened[name] = match.end()
        else:
            if name in stack:
                while stack.pop() != name:
                    found.add("unclosed")
            else:
                found.add("unclosed")
            start = opened.pop(name, None)
            if name == "answer":
                answer_seen = True
                if start is not None:
                    answer = text[start : match.start()]
            elif name == "think" and think is None and start is not None:
                think = text[start : match.start()].strip()
        last_end = match.end()
    if stack:
        found.add("unclosed")
    elif text[last_end:].strip():
        found.add("outside")
    has_block = answer is not None
    if counts["answer"] == 0 and not answer_seen:
        # Text beside a think block is what a missing answer tag looks like; it is no second fault.
        found.discard("outside")
        found.add("missing")
    scored = (text if answer is None else answer).strip()
    if has_block and not scored:
        found.add("empty")
    faults = tuple(fault for fault in FAULTS if fault in found)
    return ParsedAnswer(scored, not faults, faults[0] if faults else None, faults, has_block, think)
