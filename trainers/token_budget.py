"""Which groups go through the model together: as many as a budget of tokens allows, with little padding."""

from __future__ import annotations

from collections.abc import Sequence


def split_completions(prompt: int, completions: Sequence[int], budget: int | None) -> list[list[int]]:
    """Cuts a group that is longer than the budget into rows that each repeat the prompt.

    Args:
        prompt: Tokens of the prompt.
        completions: Tokens of each completion.
        budget: Tokens of a row at most; a row of a single completion may be longer. None: no limit.

    Returns:
        Indices of the completions of each row, all of them once and in order.
    """
    rows: list[list[int]] = []
    length = 0
    for index, size in enumerate(completions):
        if rows and (budget is None or length + size <= budget):
            rows[-1].append(index)
            length += size
        else:
            rows.append([index])
            length = prompt + size
    return rows


def fill_passes(lengths: Sequence[int], budget: int | None) -> list[list[int]]:
    """Distributes rows over forward passes, rows of like length together.

    A pass costs its rows times the longest of them, since rows are padded to equal length. Rows are taken from the
    longest to the shortest (next-fit decreasing), so that neighbours differ little.

    Args:
        lengths: Tokens of each row.
        budget: Tokens of a pass at most, padding included; a single row may be longer. None: one pass.

    Returns:
        Indices of the rows of each pass, all of them once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    passes: list[list[int]] = []
    for index in order:
        if passes and (budget is None or (len(passes[-1]) + 1) * lengths[passes[-1][0]] <= budget):
            passes[-1].append(index)
        else:
            passes.append([index])
    return passes
