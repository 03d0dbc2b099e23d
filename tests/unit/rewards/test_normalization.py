"""Normalisation that rewards and evaluation share."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glyphrl.errors import UserError
from glyphrl.rewards.normalization import graphemes, normalize


@given(st.text(max_size=40), st.sampled_from(["nfc", "nfkc"]))
def test_forms_are_unicodes(text, form):
    assert normalize(text, form) == unicodedata.normalize(form.upper(), text)
    assert normalize(text, form.upper()) == normalize(text, form)
    assert normalize(text) == text


@given(st.text(max_size=40), st.sampled_from(["none", "nfc", "nfkc"]), st.booleans())
def test_idempotent(text, form, fold):
    once = normalize(text, form, fold)
    assert normalize(once, form, fold) == once


def test_white_space_is_folded():
    assert normalize("\u3000 a\t\nb\u00a0", fold_whitespace=True) == "a b"


def test_lone_surrogates_and_nul_stay():
    assert normalize("a\ud800\0e\u0301", "nfc") == "a\ud800\0\u00e9"


@pytest.mark.parametrize("form", ["nfc", "nfkc"])
def test_long_runs_of_marks_take_linear_time(form):
    started = time.process_time()
    result = normalize("e" + "\u0315\u0300" * 50_000, form)
    assert time.process_time() - started < 2.0
    assert 90_000 < len(result) <= 100_001


def test_unknown_form():
    with pytest.raises(UserError, match="did you mean 'nfkc'"):
        normalize("a", "nfkd ")


@given(st.text(max_size=30))
def test_graphemes_cover_the_text(text):
    assert "".join(graphemes(text)) == text


def test_graphemes_are_what_a_reader_counts():
    assert len(graphemes("e\u0301")) == 1
    assert len(graphemes("नि")) == 1
    assert len(graphemes("🇩🇪🇫🇷")) == 2
    assert len(graphemes("\r\n")) == 1
