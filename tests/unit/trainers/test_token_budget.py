"""Rows within a budget of tokens: all of them once, none too long, little padding."""

from hypothesis import given
from hypothesis import strategies as st

from glyphrl.trainers.token_budget import fill_passes, split_completions

lengths = st.lists(st.integers(1, 50), max_size=30)
budgets = st.one_of(st.none(), st.integers(1, 200))


def test_by_hand():
    # the longest first: 9, then 8 and 7 would make two rows of 9
    assert fill_passes([3, 9, 7, 8, 3], 18) == [[1, 3], [2, 0], [4]]
    assert fill_passes([3, 9, 7], None) == [[1, 2, 0]]
    assert fill_passes([], 10) == []
    # a prompt of 10: 10 + 5 + 5 fits into 20, another 5 does not
    assert split_completions(10, [5, 5, 5, 30, 1], 20) == [[0, 1], [2], [3], [4]]
    assert split_completions(10, [5, 5], None) == [[0, 1]]


@given(lengths, budgets)
def test_each_row_is_in_one_pass_within_the_budget(rows, budget):
    passes = fill_passes(rows, budget)
    assert sorted(index for part in passes for index in part) == list(range(len(rows)))
    for part in passes:
        cost = len(part) * max(rows[index] for index in part)
        assert budget is None or cost <= budget or len(part) == 1


@given(st.integers(0, 50), lengths, budgets)
def test_each_completion_is_in_one_row_within_the_budget(prompt, completions, budget):
    rows = split_completions(prompt, completions, budget)
    assert [index for row in rows for index in row] == list(range(len(completions)))
    for row in rows:
        assert budget is None or len(row) == 1 or prompt + sum(completions[i] for i in row) <= budget
