"""Where two rewards disagree most: pairs of completions of one group that they put in opposite orders."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from glyphrl.evaluation.compare.facts import Facts
from glyphrl.evaluation.compare.log_files import Log, connect, quoted
from glyphrl.evaluation.compare.measure import Measured
from glyphrl.evaluation.compare.report import Disagreement, Shown
from glyphrl.rewards.parsing import parse_answer

MAX_TEXT = 2000
"""Characters of a text that are kept."""
_TRIED = 5
"""Groups that are looked at for each example that is wanted: one sample is not shown twice."""
_TEXTS = ("run", "group_id", "sample_id", "solution", "completion")


def find_examples(
    log: Log,
    facts: Facts,
    rewards: Mapping[str, np.ndarray],
    similarity: np.ndarray,
    measured: Measured,
    count: int,
) -> list[Disagreement]:
    """The clearest contradictions of each pair of rewards, `count` samples each, the clearest first."""
    chosen: list[tuple[str, str, float, int, int]] = []
    for a, b in combinations(rewards, 2):
        pair = measured.pairs[a, b]
        order = np.argsort(-pair.gap, kind="stable")[: count * _TRIED]
        for g in order[pair.gap[order] > 0]:
            left, right = pair.preferred[g]
            chosen.append((a, b, float(pair.gap[g]), int(left), int(right)))
    if not chosen:
        return []
    rows = sorted({row for *_, left, right in chosen for row in (left, right)})
    places = [(int(facts.file[row]), int(facts.row[row])) for row in rows]
    select = ", ".join(quoted(name) if name in log.columns else f"NULL AS {name}" for name in _TEXTS)
    with connect() as connection:
        texts = dict(zip(rows, log.pick(connection, places, select), strict=True))
    found: list[Disagreement] = []
    taken: dict[tuple[str, str], set[Any]] = {}
    for a, b, gap, left, right in chosen:
        seen, text = taken.setdefault((a, b), set()), texts[left]
        sample = text["sample_id"] or text["solution"]
        if len(seen) >= count or sample in seen:
            continue
        seen.add(sample)
        shown = [_shown(texts[row], row, rewards, similarity, measured) for row in (left, right)]
        found.append(
            Disagreement(
                first=a,
                second=b,
                gap=gap,
                run=str(text["run"] or ""),
                step=int(facts.step[left]),
                group_id=str(text["group_id"] or ""),
                sample_id=str(text["sample_id"] or ""),
                solution=text["solution"][:MAX_TEXT],
                left=shown[0],
                right=shown[1],
            )
        )
    return found


def _shown(
    text: Mapping[str, Any],
    row: int,
    rewards: Mapping[str, np.ndarray],
    similarity: np.ndarray,
    measured: Measured,
) -> Shown:
    completion = text["completion"]
    return Shown(
        completion=completion[:MAX_TEXT],
        characters=len(completion),
        answer=parse_answer(completion).answer[:MAX_TEXT],
        edit_similarity=_number(similarity[row]),
        rewards={name: _number(values[row]) for name, values in rewards.items()},
        advantages={name: _number(measured.rewards[name].advantages[row]) for name in rewards},
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
