"""A reward function ready to score: arguments bound, its dialect (ours, TRL's, ms-swift's) spoken."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from glyphrl.rewards.errors import RewardError
from glyphrl.rewards.signature import Signature, read_signature

Style = Literal["auto", "text", "messages"]
_ALWAYS_THERE = ("completions", "prompts", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""TRL hands these to every function; one that names them must not fail where they are unknown (None)."""


@dataclass
class RewardLog:
    """Where a reward function's `log_extra` and `log_metric` go (the names and arguments are TRL's)."""

    extras: dict[str, list[Any]] = field(default_factory=dict)
    """One value for each completion."""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """Scalars, as often as they were logged."""

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Adds a column to the completions log."""
        self.extras.setdefault(column, []).extend(values)

    def log_metric(self, name: str, value: float) -> None:
        """Adds a scalar to the step's metrics."""
        self.metrics.setdefault(name, []).append(float(value))


class Reward:
    """A named reward function with its parameters set: a callable of completions and columns.

    Attributes:
        name: Name in the registry.
        args: The parameters that were set.
        function: What is called: a function, or an instance of a reward class.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], args: dict[str, Any], style: Style = "auto"
    ) -> None:
        self.name = name
        self.function = function
        self.args = args
        self.signature: Signature = read_signature(function)
        self.messages = style == "messages" or (style == "auto" and wants_messages(function, self.signature))
        # An instance has had its parameters in the constructor; a function gets them with each call.
        self._bound = args if inspect.isroutine(function) else {}

    @property
    def __name__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Reward({self.name!r}, {self.args!r})"

    @property
    def is_async(self) -> bool:
        """Whether calling it gives a coroutine."""
        method = type(self.function).__call__
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(method)

    def __call__(
        self, completions: Sequence[Any], solution: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        """Scores completions; what the function logs is dropped.

        Args:
            completions: N texts, or N message lists.
            solution: N reference texts.
            **columns: Further columns of N values each.
        """
        if solution is not None:
            columns["solution"] = solution
        return self.score(completions, columns, RewardLog())

    def score(
        self, completions: Sequence[Any], columns: dict[str, Any], log: RewardLog
    ) -> list[float | None]:
        """Scores completions, running a coroutine to its end.

        Returns:
            What the function returned, as a list; nothing is checked yet.
        """
        result = self.start(completions, columns, log)
        if inspect.isawaitable(result):
            # In a thread of its own: the caller may be inside an event loop already (a notebook is).
            with ThreadPoolExecutor(1) as thread:
                result = thread.submit(asyncio.run, _wait(result)).result()
        return self.as_list(result)

    def start(self, completions: Sequence[Any], columns: dict[str, Any], log: RewardLog) -> Any:
        """Calls the function: its result, or an awaitable of it."""
        keywords = self.select(columns, log)
        texts = [text_of(completion) for completion in completions]
        keywords["completions"] = (
            [as_messages(text, "assistant") for text in texts] if self.messages else texts
        )
        if self.messages and isinstance(keywords.get("prompts"), list):
            keywords["prompts"] = [as_messages(prompt, "user") for prompt in keywords["prompts"]]
        return self.function(**self.accepted(keywords), **self._bound)

    def check_columns(self, columns: dict[str, Any]) -> None:
        """Refuses columns that lack one that the function asks for.

        Raises:
            RewardError: Naming what is missing and what there is.
        """
        missing = [
            name
            for name, p in self.signature.parameters.items()
            if p.required and name not in self._bound and name not in columns and name not in _ALWAYS_THERE
        ]
        if missing:
            names, needed = ", ".join(sorted(columns)) or "none", " and ".join(missing)
            raise RewardError(
                f"reward {self.name} needs {needed}: no column of the samples ({names}) and not set in args",
                self.name,
            )

    def select(self, columns: dict[str, Any], log: RewardLog) -> dict[str, Any]:
        """The columns that the function asks for, and where it logs to."""
        self.check_columns(columns)
        available = {**dict.fromkeys(_ALWAYS_THERE), **columns}
        available.update(log_extra=log.log_extra, log_metric=log.log_metric)
        del available["completions"]
        parameters = self.signature.parameters
        if self.signature.takes_any:
            return {
                name: value
                for name, value in available.items()
                if name not in self._bound and (value is not None or name in parameters)
                if name not in parameters or parameters[name].column
            }
        return {
            name: available[name]
            for name, p in parameters.items()
            if p.column and name in available and name not in self._bound
            if available[name] is not None or p.required
        }

    def accepted(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """`keywords` without `completions` where the function does not take it (TRL's length rewards)."""
        if "completions" in self.signature.parameters or self.signature.takes_any:
            return keywords
        return {name: value for name, value in keywords.items() if name != "completions"}

    def as_list(self, result: Any) -> list[float | None]:
        """The function's result as a list of Python numbers.

        Raises:
            RewardError: It is not a sequence.
        """
        if hasattr(result, "tolist"):  # numpy arrays and torch tensors
            result = result.tolist()
        if isinstance(result, str | bytes | dict) or not hasattr(result, "__iter__"):
            raise RewardError(
                f"reward {self.name} returned {type(result).__name__}; expected one number per completion",
                self.name,
            )
        return [value.item() if hasattr(value, "item") else value for value in result]


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def wants_messages(function: Callable[..., Any], signature: Signature) -> bool:
    """Whether a function written for TRL expects each completion as a list of messages.

    Its annotation says so (`list[list[dict[str, str]]]`), or there is none and its code reads the key
    "content".
    """
    parameter = signature.parameters.get("completions")
    annotation = str(parameter.annotation) if parameter is not None else ""
    if "dict" in annotation.lower():
        return True
    if "str" in annotation:
        return False
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code is not None and _has_constant(code, "content")


def _has_constant(code: Any, wanted: str) -> bool:
    return any(
        constant == wanted
        if isinstance(constant, str)
        else hasattr(constant, "co_consts") and _has_constant(constant, wanted)
        for constant in code.co_consts
    )


def text_of(completion: Any) -> str:
    """The text of a completion: a string, or a list of messages (content as a string or as typed parts).

    >>> text_of([{"role": "assistant", "content": [{"type": "text", "text": "476"}]}])
    '476'
    """
    if isinstance(completion, str):
        return completion
    content: Any = completion
    if isinstance(content, list | tuple) and content:
        content = content[-1]
    if isinstance(content, dict):
        content = content.get("content", "")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise RewardError(f"a completion is {type(completion).__name__}; expected text or a list of messages")
    return content


def as_messages(value: Any, role: str) -> Any:
    """A text as a list of one message; anything else as it is."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value
