"""Alignments for display, confusions, and hidden characters made visible."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from glyphrl.evaluation.chardiff import Confusion, Segment, align, count_confusions, for_display
from glyphrl.evaluation.visible import DOTTED_CIRCLE, Piece, stand_in, visible, visible_text

TEXTS = st.text(alphabet="abc 1\n字", max_size=200)


@given(TEXTS, TEXTS)
def test_segments_spell_both_texts_at_least_cost(reference, answer):
    segments = align(reference, answer)
    assert "".join(s.reference for s in segments) == reference
    assert "".join(s.answer for s in segments) == answer
    assert all((s.kind == "equal") == (s.reference == s.answer) for s in segments)
    cost = sum(max(len(s.reference), len(s.answer)) for s in segments if s.kind != "equal")
    assert cost == Levenshtein.distance(reference, answer)


@given(TEXTS, TEXTS, st.integers(1, 80), st.integers(1, 10))
def test_display_hides_characters_but_loses_none(reference, answer, limit, context):
    shown = for_display(align(reference, answer), limit, context)
    assert "".join(s.reference for s in shown) == reference
    assert "".join(s.answer for s in shown) == answer
    seen = sum(max(len(s.reference), len(s.answer)) for s in shown if s.kind != "omitted")
    assert seen <= limit


def test_the_middle_of_a_runaway_is_left_out():
    shown = for_display(align("end.", "end." + " the" * 1000), context=8)
    assert shown[0] == Segment("equal", "end.", "end.")
    hidden = [s for s in shown if s.kind == "omitted"]
    assert [(s.reference, len(s.answer)) for s in hidden] == [("", 4000 - 16)]
    assert [s.answer for s in shown[1:3]] == [" ", "the "]


def test_confusions_by_hand():
    # 6 -> G in two samples, 0 made up three times in one sample, the last 1 left out.
    found = count_confusions([("476", "47G"), ("6", "G"), ("5", "5000"), ("91", "9"), ("6", "6")])
    assert (found.substitutions, found.deletions, found.insertions) == (2, 1, 3)
    assert found.top == [
        Confusion("6", "G", 2, 2, 3),
        Confusion("", "0", 1, 3, 0),
        Confusion("1", "", 1, 1, 1),
    ]
    assert count_confusions([("a", "a")]).top == []
    assert len(count_confusions([("abc", "xyz")], top=2).top) == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\tc\r", "a↵b⇥c␍"),
        ("\x00\x1b[31m", "␀␛[31m"),
        ("abc\u202ecba\u202c", "abc⟨U+202E⟩cba⟨U+202C⟩"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
        ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("a\u2028b", "a⟨U+2028⟩b"),
        ("a\u00a0b\u3000c", "a⍽b\u3000c"),
        ("e\u0301", "e\u0301"),
        ("\u0301e", DOTTED_CIRCLE + "\u0301e"),
        ("<b>&", "<b>&"),
        ("", ""),
    ],
)
def test_hidden_characters_are_shown(text, shown):
    assert visible_text(text) == shown


def test_stand_ins_are_marked():
    assert visible("a\x00\x01b") == [Piece("a", False), Piece("␀␁", True), Piece("b", False)]
    assert visible("a b") == [Piece("a b", False)]
    assert visible("a b", mark_spaces=True) == [Piece("a", False), Piece("␣", True), Piece("b", False)]


@given(st.text(st.characters()), st.booleans())
def test_nothing_hidden_is_left(text, mark_spaces):
    shown = "".join(piece.text for piece in visible(text, mark_spaces))
    assert all(unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in shown)
    assert all(stand_in(char) is None for char in shown)
