"""Untrusted text made visible: stand-ins for control characters, bidi overrides and odd spaces.

Escaping for HTML is the template's job (autoescape); this is about characters that HTML carries faithfully
and that then hide, reorder or erase what stands around them (Boucher and Anderson, Trojan Source, 2021).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import groupby

_NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍", "\x7f": "␡", "\u00a0": "⍽"}
_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
DOTTED_CIRCLE = "◌"


@dataclass(frozen=True)
class Piece:
    """A stretch of text. `special`: a stand-in for a character that would not be seen."""

    text: str
    special: bool


def stand_in(char: str) -> str | None:
    r"""What is shown in place of `char`, None where it shows itself.

    >>> stand_in("a"), stand_in("\n"), stand_in("\x00"), stand_in("\u202e"), stand_in("\u200b")
    (None, '↵', '␀', '⟨U+202E⟩', '⟨U+200B⟩')
    """
    if char in _NAMED:
        return _NAMED[char]
    if char < " ":
        return chr(0x2400 + ord(char))  # the block "Control Pictures"
    category = unicodedata.category(char)
    if category in _HIDDEN_CATEGORIES or (category == "Zs" and char != " " and char != "\u3000"):
        return f"⟨U+{ord(char):04X}⟩"
    return None


def visible(text: str, mark_spaces: bool = False) -> list[Piece]:
    """Splits `text` into plain stretches and stand-ins.

    Args:
        text: Anything, lone surrogates included.
        mark_spaces: Whether ordinary spaces are shown as `␣` too (where the space is what differs).

    Returns:
        Pieces in order. No piece holds a control, format or surrogate character; a leading combining mark
        sits on a dotted circle, so that it does not join what stands before it.
    """

    def shown(char: str) -> tuple[str, bool]:
        if mark_spaces and char == " ":
            return "␣", True
        other = stand_in(char)
        return (char, False) if other is None else (other, True)

    pieces = [
        Piece("".join(part for part, _ in group), special)
        for special, group in groupby((shown(char) for char in text), key=lambda item: item[1])
    ]
    if text and unicodedata.combining(text[0]) and not pieces[0].special:
        pieces[0] = Piece(DOTTED_CIRCLE + pieces[0].text, False)
    return pieces


def visible_text(text: str) -> str:
    """`text` with its stand-ins as one string, for places without markup."""
    return "".join(piece.text for piece in visible(text))
