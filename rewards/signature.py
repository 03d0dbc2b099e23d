"""What a reward function takes: which arguments are columns and which are parameters, and of what type."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from glyphrl.errors import UserError, did_you_mean

COLUMNS = frozenset(
    {"completions", "completion_ids", "prompts", "prompt", "messages", "solution", "image", "images", "id"}
    | {"sample_ids", "trainer_state", "environments", "log_extra", "log_metric"}
)
"""Arguments of these names are columns whatever their default is."""

_MISSING = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """One argument of a reward function or of the constructor of a reward class."""

    name: str
    annotation: Any = Any
    default: Any = _MISSING
    settable: bool = True
    """Whether YAML may set it (everything but the names in `COLUMNS`)."""
    column: bool = False
    """Whether it is filled from a column of its name where YAML does not set it."""

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is _MISSING

    def describe(self) -> str:
        """`name: type = default`.

        >>> Parameter("weight", float, 2.0).describe()
        'weight: float = 2.0'
        """
        text = f"{self.name}: {type_name(self.annotation)}"
        return text if self.required else f"{text} = {self.default!r}"


@dataclass(frozen=True)
class Signature:
    """Arguments of a callable."""

    parameters: dict[str, Parameter]
    takes_any: bool
    """Whether it has `**kwargs`."""

    @property
    def settable(self) -> dict[str, Parameter]:
        """What YAML may set."""
        return {name: p for name, p in self.parameters.items() if p.settable}


def read_signature(function: Callable[..., Any], constructor: bool = False) -> Signature:
    """Reads the arguments of a reward function, or of a class's constructor.

    Columns are: the names in `COLUMNS`, and arguments without a default or with the default None that do not
    stand after `*`. The rest are parameters. An argument without default may be either: YAML decides.
    """
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"the arguments of {function!r} cannot be read: {error}") from error
    hints = _hints(function)
    parameters, takes_any = {}, False
    for name, p in found.items():
        if p.kind is p.VAR_KEYWORD:
            takes_any = True
        elif p.kind is not p.VAR_POSITIONAL and name != "self":
            known_column = name in COLUMNS and not constructor
            open_default = p.default is None and p.kind is not p.KEYWORD_ONLY
            column = not constructor and (known_column or p.default is _MISSING or open_default)
            annotation = hints.get(name, type(p.default) if _tells_type(p.default) else Any)
            parameters[name] = Parameter(name, annotation, p.default, not known_column, column)
    return Signature(parameters, takes_any)


def _tells_type(default: Any) -> bool:
    return isinstance(default, bool | int | float | str)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target: Any = function
    if inspect.isclass(function):
        # Of a dataclass the fields: its __init__ does not know the names in the modules it inherits from.
        target = function if dataclasses.is_dataclass(function) else function.__init__
    elif not inspect.isroutine(function):
        target = type(function).__call__
    try:
        return typing.get_type_hints(target)
    except Exception:  # annotations are the user's, may name anything, and are only wanted for checks
        return {}


def check_arguments(owner: str, signature: Signature, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses arguments that `owner` does not have or that have a wrong type.

    Returns:
        The arguments; numbers that YAML reads as text (`1e-3`) are numbers where one is expected.

    Raises:
        UserError: Naming the parameter, what was found and what was expected.
    """
    settable = signature.settable
    checked = {}
    for name, value in arguments.items():
        if name not in settable:
            if name in signature.parameters:
                raise UserError(f"{owner}: {name} is a column and cannot be set under args")
            if signature.takes_any and not settable:
                hint = "; it has none, only columns"
            elif settable:
                hint = did_you_mean(name, settable)
            else:
                hint = "; it has none"
            raise UserError(f"{owner} has no parameter {name}{hint}")
        annotation = settable[name].annotation
        value = _number_from_text(value, annotation)
        if not matches(value, annotation):
            raise UserError(
                f"{owner}: {name} is {value!r} ({type(value).__name__}); expected {type_name(annotation)}"
            )
        checked[name] = value
    return checked


def _number_from_text(value: Any, annotation: Any) -> Any:
    if isinstance(value, str) and annotation in (int, float):
        try:
            return annotation(value)
        except ValueError:
            return value
    return value


def matches(value: Any, annotation: Any) -> bool:
    """Whether `value` is of the annotated type; an int passes for a float, a bool for neither.

    >>> matches(2, float), matches(True, int), matches(["a"], list[str]), matches([1], list[str])
    (True, False, True, False)
    >>> matches("nfc", Literal["none", "nfc"]), matches(None, int | None), matches("x", int | None)
    (True, True, False)
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any or annotation is _MISSING or isinstance(annotation, str | typing.TypeVar):
        return True
    if annotation is None or annotation is type(None):
        return value is None
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if origin in (Union, types.UnionType):
        return any(matches(value, option) for option in inner)
    if origin is typing.Annotated:
        return matches(value, inner[0])
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None:
        return _matches_container(value, origin, inner)
    return isinstance(value, annotation) if isinstance(annotation, type) else True


def _matches_container(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if not isinstance(origin, type):
        return True
    if issubclass(origin, tuple):
        # YAML has no tuples; a list of the right length will do.
        if not isinstance(value, list | tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(matches(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(matches, value, inner))
    if not isinstance(value, origin) or isinstance(value, str):
        return False
    if isinstance(value, Mapping):
        return not inner or all(matches(k, inner[0]) and matches(v, inner[1]) for k, v in value.items())
    if inner and isinstance(value, list | set | frozenset):
        return all(matches(item, inner[0]) for item in value)
    return True


def type_name(annotation: Any) -> str:
    """A type as one writes it.

    >>> type_name(float), type_name(list[str]), type_name(Literal["a", "b"]), type_name(int | None)
    ('float', 'list[str]', "'a' or 'b'", 'int | None')
    """
    if get_origin(annotation) is Literal:
        return " or ".join(repr(option) for option in get_args(annotation))
    if annotation is Any:
        return "any"
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "")
