"""Reward `json_fields`: key information extraction, field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glyphrl.rewards.ned import edit_similarity
from glyphrl.rewards.text_reward import TextReward

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL | re.IGNORECASE)
_DEEPEST = 50
"""Nesting beyond which JSON is refused."""
_EXTRA_ITEMS = 10
"""A list is compared up to so many times the length of its reference; what comes later is surplus."""


def parse_fields(text: str) -> tuple[Any, str | None]:
    r"""Reads JSON, from a code fence or not; numbers keep the spelling that they have in the text.

    Returns:
        The value with empty fields (null, "", {}, []) taken out, and None; or None and what is wrong.

    >>> parse_fields('{"total": 476.0, "vat": null, "items": [{"name": "pen"}]}')
    ({'total': '476.0', 'items': [{'name': 'pen'}]}, None)
    >>> parse_fields("total: 476.0")
    (None, 'Expecting value at character 0')
    """
    fenced = _FENCE.match(text)
    text = fenced.group(1) if fenced else text
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        return None, f"{error.msg} at character {error.pos}"
    except RecursionError:
        return None, f"nested more than {_DEEPEST} deep"
    if _too_deep(value):
        return None, f"nested more than {_DEEPEST} deep"
    return _without_empty(value), None


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, {}, [])} or None
    if isinstance(value, list):
        items = [_without_empty(item) for item in value]
        return [item for item in items if item not in (None, {}, [])] or None
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.strip() or None if isinstance(value, str) else value


def count_fields(value: Any) -> int:
    """Number of single values.

    >>> count_fields({"total": "476.0", "items": [{"name": "pen", "price": "2"}, {"name": "ink"}]})
    4
    """
    if value is None:
        return 0
    return sum(map(count_fields, _children(value))) if isinstance(value, dict | list) else 1


def matched_fields(reference: Any, answer: Any, clean: Callable[[str], str] = str) -> float:
    """Sum of the similarities of the values that belong together.

    Values of objects belong together by key, items of lists by the best assignment, whatever their order.

    >>> matched_fields({"a": "476", "b": "x"}, {"a": "475", "c": "x"})  # 1 - 1/3
    0.6666666666666667
    >>> matched_fields([{"n": "pen", "p": "2"}, {"n": "ink", "p": "3"}], [{"n": "ink", "p": "3"}])
    2.0
    """
    if isinstance(reference, dict) and isinstance(answer, dict):
        return sum(
            matched_fields(value, answer[key], clean) for key, value in reference.items() if key in answer
        )
    if isinstance(reference, list) and isinstance(answer, list):
        from scipy.optimize import linear_sum_assignment

        answer = answer[: _EXTRA_ITEMS * len(reference)]
        gains = np.array([[matched_fields(r, a, clean) for a in answer] for r in reference])
        rows, columns = linear_sum_assignment(gains, maximize=True)
        return float(gains[rows, columns].sum())
    if isinstance(reference, str) and isinstance(answer, str):
        return edit_similarity(clean(reference), clean(answer))
    return 0.0


@dataclass(frozen=True)
class JsonFields(TextReward):
    """F1 over the fields of a JSON answer, in [0, 1], with edit similarity per value; invalid JSON scores 0.

    2 * (sum of the similarities of values that belong together) / (fields of the reference + fields of the
    answer). Empty fields (null, "", {}, []) are as good as absent; two texts without fields score 1. None
    where the reference is no JSON. Why an answer scores 0 is logged in the column `json_fault`. A value
    further from its reference, a field too few and a field too many never score higher.

    >>> reward = JsonFields()
    >>> reference = '{"total": 476, "date": "2021"}'
    >>> reward(['<answer>{"total": 475, "date": "2021"}</answer>'], [reference])  # 2 * (2/3 + 1) / (2 + 2)
    [0.8333333333333334]
    >>> reward(['<answer>{"total": 476}</answer>'], [reference])  # 2 * 1 / (2 + 1)
    [0.6666666666666666]
    >>> reward(["<answer>{total: 476}</answer>", "<answer>{}</answer>"], ['{"total": 476}', "no JSON"])
    [0.0, None]
    """

    def __call__(
        self,
        completions: Sequence[str],
        solution: Sequence[Any],
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Scores each completion."""
        scores: list[float | None] = []
        faults: list[str | None] = []
        for pair in self.pairs(completions, solution):
            reference, reference_fault = parse_fields(pair.reference)
            answer, fault = parse_fields(pair.answer)
            faults.append(fault)
            if reference_fault is not None:
                scores.append(None)
            elif fault is not None or self.refused(pair):
                scores.append(0.0)
            else:
                scores.append(self._f1(reference, answer))
        if log_extra is not None:
            log_extra("json_fault", faults)
        return scores

    def clean(self, text: str) -> str:
        """Leaves the JSON as it is; its values are normalised one by one."""
        return text

    def _f1(self, reference: Any, answer: Any) -> float:
        fields = count_fields(reference) + count_fields(answer)
        return 2.0 * matched_fields(reference, answer, super().clean) / fields if fields else 1.0
