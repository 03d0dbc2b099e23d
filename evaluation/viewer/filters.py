"""What the controls of the page ask for, as parts of a query: values are parameters, names come from lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glyphrl.errors import UserError, did_you_mean
from glyphrl.rewards.parsing import FAULTS

PER_PAGE = 30
MAX_TEXT = 500

SORTS: dict[str, tuple[str, str]] = {
    "step": ("oldest first", "step, file, grp, idx"),
    "-step": ("newest first", "step DESC, file, grp, idx"),
    "reward": ("lowest reward", "reward NULLS LAST, step, file, grp, idx"),
    "-reward": ("highest reward", "reward DESC NULLS LAST, step, file, grp, idx"),
    "similarity": ("least similar", "similarity, step, file, grp, idx"),
    "-tokens": ("longest", "tokens DESC NULLS LAST, step, file, grp, idx"),
    "-advantage": ("greatest advantage", "advantage DESC NULLS LAST, step, file, grp, idx"),
    "advantage": ("least advantage", "advantage NULLS LAST, step, file, grp, idx"),
}
FAULT_CHOICES = ("any", "none", *FAULTS)
TEXT_FIELDS = {"completion": "the completion", "answer": "the answer", "solution": "the reference"}


class BadRequestError(UserError):
    """An address of the page that asks for what there is not; the message is shown."""


@dataclass(frozen=True)
class Where:
    """A condition with its values, and what it says in words."""

    condition: str
    values: dict[str, Any]
    words: list[str]


def number(query: Mapping[str, str], name: str) -> float | None:
    """A number of the address, None where it is absent.

    Raises:
        BadRequestError: It is no finite number.
    """
    text = query.get(name, "").strip().replace(",", ".").replace("−", "-")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequestError(f"{name}: expected a number, found {text[:40]!r}")
    return value


def whole(query: Mapping[str, str], name: str, default: int | None = None) -> int | None:
    """A whole number of the address that is not negative.

    Raises:
        BadRequestError: It is none.
    """
    text = query.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadRequestError(f"{name}: expected a whole number, found {text[:40]!r}")
    return int(text)


def choice(
    query: Mapping[str, str], name: str, known: Mapping[str, Any] | tuple[str, ...], default: str
) -> str:
    """One of the known values.

    Raises:
        BadRequestError: It is none of them.
    """
    value = query.get(name) or default
    if value != default and value not in known:
        raise BadRequestError(f"{name}: unknown value {value[:40]!r}{did_you_mean(value[:40], known)}")
    return value


def text_of(query: Mapping[str, str], name: str) -> str:
    """Text of the address, at most `MAX_TEXT` characters.

    Raises:
        BadRequestError: It is longer.
    """
    text = query.get(name, "")
    if len(text) > MAX_TEXT:
        raise BadRequestError(f"{name}: expected at most {MAX_TEXT} characters, found {len(text):,}")
    return text.replace("\0", "")


def page_of(query: Mapping[str, str]) -> int:
    """The page's number, from 1."""
    return max(1, whole(query, "page", 1) or 1)


def completions_where(run: int, query: Mapping[str, str]) -> Where:
    """The filter of the completions page.

    Raises:
        BadRequestError: A value cannot be what its control gives.
    """
    conditions, values, words = ["run = $run"], {"run": run}, []

    def add(condition: str, name: str, value: Any, says: str) -> None:
        conditions.append(condition)
        values[name] = value
        words.append(says)

    for name, condition, says in (
        ("reward_below", "reward < $reward_below", "reward below {:g}"),
        ("reward_above", "reward > $reward_above", "reward above {:g}"),
        ("similarity_below", "similarity < $similarity_below", "edit similarity below {:g}"),
    ):
        value = number(query, name)
        if value is not None:
            add(condition, name, value, says.format(value))
    for name, condition, says in (
        ("step_from", "step >= $step_from", "from step {:,}"),
        ("step_to", "step <= $step_to", "up to step {:,}"),
    ):
        step = whole(query, name)
        if step is not None:
            add(condition, name, step, says.format(step))
    fault = choice(query, "fault", FAULT_CHOICES, "")
    if fault in ("any", "none"):
        conditions.append(f"fault IS {'NOT ' if fault == 'any' else ''}NULL")
        words.append("with a format fault" if fault == "any" else "without a format fault")
    elif fault:
        add("fault = $fault", "fault", fault, f"format fault “{fault}”")
    if query.get("cut"):
        conditions.append("finish = 'length'")
        words.append("cut off at the length limit")
    sample, text = text_of(query, "sample"), text_of(query, "text")
    if sample:
        add("contains(sample_id, $sample)", "sample", sample, f"sample id contains “{sample}”")
    if text:
        where = choice(query, "in", TEXT_FIELDS, "completion")
        add(
            f"contains(lower({where}), lower($text))", "text", text, f"{TEXT_FIELDS[where]} contains “{text}”"
        )
    return Where(" AND ".join(conditions), values, words)


PREDICTION_SORTS: dict[str, tuple[str, str]] = {
    "worst": ("worst first", "p.similarity, p.distance DESC, p.number"),
    "improved": ("most improved first", "p.similarity - o.similarity DESC NULLS LAST, p.number"),
    "declined": ("most declined first", "p.similarity - o.similarity NULLS LAST, p.number"),
    "number": ("in the order of the data", "p.number"),
}
OUTCOMES = {
    "": "all",
    "wrong": "not exact",
    "exact": "exact",
    "fault": "with a format fault",
    "better": "better than the other",
    "worse": "worse than the other",
}
_OUTCOME_CONDITIONS = {
    "wrong": "NOT p.exact",
    "exact": "p.exact",
    "fault": "p.fault IS NOT NULL",
    "better": "p.similarity > o.similarity",
    "worse": "p.similarity < o.similarity",
}


def predictions_where(run: int, model: str, query: Mapping[str, str], compared: bool) -> Where:
    """The filter of the predictions page; the other model's rows are `o`.

    Raises:
        BadRequestError: A value cannot be what its control gives.
    """
    conditions = ["p.run = $run", "p.model = $model"]
    values: dict[str, Any] = {"run": run, "model": model}
    words = []
    outcome = choice(query, "outcome", OUTCOMES, "")
    if outcome in ("better", "worse") and not compared:
        raise BadRequestError(f"outcome: {OUTCOMES[outcome]!r} needs another model; choose one beside it")
    if outcome:
        conditions.append(_OUTCOME_CONDITIONS[outcome])
        words.append(OUTCOMES[outcome])
    text = text_of(query, "text")
    if text:
        conditions.append(
            "(regexp_matches(p.solution, $text, 'il') OR regexp_matches(p.completion, $text, 'il') "
            "OR regexp_matches(p.sample_id, $text, 'il'))"
        )
        values["text"] = text
        words.append(f"contains “{text}”")
    if "true" in query or "read" in query:
        conditions.append(
            "p.number IN (SELECT number FROM confusions WHERE run = $run AND model = $model "
            "AND reference = $true AND answer = $read)"
        )
        values["true"], values["read"] = text_of(query, "true"), text_of(query, "read")
        words.append(confusion_words(values["true"], values["read"]))
    return Where(" AND ".join(conditions), values, words)


def confusion_words(true: str, read: str) -> str:
    """A pair of characters in words.

    >>> confusion_words("0", "O"), confusion_words(".", ""), confusion_words("", "x")
    ('“0” read as “O”', '“.” left out', '“x” made up')
    """
    if not read:
        return f"“{true}” left out"
    return f"“{true}” read as “{read}”" if true else f"“{read}” made up"
