"""Text metrics: by hand, against jiwer, and properties over random texts."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glyphrl.errors import UserError
from glyphrl.evaluation.metrics import text_metrics

TEXTS = st.text(alphabet="ab1¥é\u0301 \n\ud800字", max_size=12)


def test_counts_and_rates_by_hand():
    # "476.0" read as "47G.00": 6 -> G and one 0 too many: distance 2, lengths 5 and 6.
    # "abc" read exactly. "" read as "": similarity 1.
    m = text_metrics(["476.0", "abc", ""], ["47G.00", "abc", ""])
    assert m.distances.tolist() == [2, 0, 0]
    assert (m.reference_lengths.tolist(), m.hypothesis_lengths.tolist()) == ([5, 3, 0], [6, 3, 0])
    assert m.similarities.tolist() == pytest.approx([1 - 2 / 6, 1, 1])
    assert m.text_acc == pytest.approx((4 / 6 + 2) / 3)
    assert m.cer == pytest.approx(2 / 8)
    assert m.exact_match == pytest.approx(2 / 3)
    # Weights: 4, 7, 6, 0 count 2 and the point 1: 9, and abc 3. The edits touch digits: 2 + 2.
    assert m.reference_weights.tolist() == [9, 3, 0]
    assert m.weighted_distances.tolist() == [4, 0, 0]
    assert m.weighted_cer == pytest.approx(4 / 12)


def test_a_perfect_answer_is_perfect():
    # The pair that the blog post's table scores a CER of 12.25 for.
    m = text_metrics(["等:¥476.0"], ["等:¥476.0"])
    assert (m.text_acc, m.exact_match, m.cer, m.weighted_cer) == (1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [  # examples of jiwer's own documentation and tests of its character error rate
        ("i can spell", "i cant spell"),
        ("hello world", "hello duck"),
        ("This is a test", "This is a test"),
        ("X", "Y"),
        ("the quick brown fox", ""),
        ("tour", "tours tours tours"),
    ],
)
def test_cer_is_that_of_jiwer(reference, hypothesis):
    assert text_metrics([reference], [hypothesis]).cer == pytest.approx(jiwer.cer(reference, hypothesis))


def test_micro_cer_of_many_is_that_of_jiwer():
    references = ["476.0", "hello world", "Straße", "日本語のテキスト", "a"]
    hypotheses = ["47G.00", "hello duck", "Strasse", "日木語テキスト", "bcd"]
    counts = jiwer.process_characters(references, hypotheses)
    m = text_metrics(references, hypotheses)
    assert m.distances.sum() == counts.substitutions + counts.deletions + counts.insertions
    assert m.reference_lengths.sum() == counts.substitutions + counts.deletions + counts.hits
    assert m.cer == pytest.approx(counts.cer)


def slow_distance(a: str, b: str) -> int:
    """Levenshtein's table, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_distances_are_those_of_the_table(pairs):
    references, hypotheses = [a for a, _ in pairs], [b for _, b in pairs]
    m = text_metrics(references, hypotheses)
    assert m.distances.tolist() == [slow_distance(a, b) for a, b in pairs]
    assert m.exact.tolist() == [a == b for a, b in pairs]
    assert ((m.similarities >= 0) & (m.similarities <= 1)).all()
    swapped = text_metrics(hypotheses, references)
    assert swapped.text_acc == pytest.approx(m.text_acc)
    assert (m.weighted_distances >= m.distances).all()
    assert (m.weighted_distances <= 2 * m.distances).all()


def test_empty_references():
    assert text_metrics([""], [""]).cer == 0.0
    m = text_metrics([""], ["abc"])
    assert (m.cer, m.text_acc, m.exact_match, m.weighted_cer) == (1.0, 0.0, 0.0, 1.0)
    # Beside another sample the made-up characters count in full: 3 edits over 4 reference characters.
    assert text_metrics(["", "abcd"], ["abc", "abcd"]).cer == pytest.approx(3 / 4)


def test_normalisation_is_applied_to_both_sides():
    composed, decomposed = "\u00e9", "e\u0301"
    assert text_metrics([composed], [decomposed]).exact_match == 0.0
    assert text_metrics([composed], [decomposed], normalization="nfc").exact_match == 1.0
    assert text_metrics(["４７６"], ["476"], normalization="nfkc").exact_match == 1.0
    assert text_metrics([" a \n b"], ["a b"]).exact_match == 0.0
    folded = text_metrics([" a \n b"], ["a b"], fold_whitespace=True)
    assert folded.exact_match == 1.0
    assert folded.reference_lengths.tolist() == [3]
    # the full-width yen sign is still an important character after NFKC made a plain one of it
    assert text_metrics(["￥"], ["x"], normalization="nfkc").weighted_distances.tolist() == [2]
    with pytest.raises(UserError, match="nfc"):
        text_metrics(["a"], ["a"], normalization="nfd")


def test_important_characters_can_be_chosen():
    m = text_metrics(["a1"], ["b1"], important_chars="a", important_weight=5.0)
    assert m.weighted_distances.tolist() == [5]
    assert m.reference_weights.tolist() == [6]


def test_long_texts_are_quick_and_exact():
    rng = np.random.default_rng(0)
    page = "".join(rng.choice(list("abcdefgh "), 5000))
    m = text_metrics([page, page], [page + "x" * 50_000, page[10:]])
    assert m.distances.tolist() == [50_000, 10]


def test_wrong_use_is_an_error():
    with pytest.raises(ValueError, match="1 references and 2 hypotheses"):
        text_metrics(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        text_metrics([], [])
