"""What a field of a model may hold, declared by its annotation and checked when the model is made.

| annotation | what it takes |
| --- | --- |
| `int` | a size: a whole number of at least 1 |
| `Count` | a number of things of which there may be none: at least 0 |
| `float` | a finite number |
| `NotNegative` | a finite number of at least 0 |
| `Share` | a number from 0 to 1 |
| `bool`, `str`, `Literal`, a class, `X | None`, tuples and mappings of these | just that |

A bool is no number, a number no bool; what a caller may put in place of a function is not looked at.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import InputError


@dataclass(frozen=True)
class Within:
    """Bounds of a number, both included."""

    least: float = -math.inf
    most: float = math.inf


Count = Annotated[int, Within(0)]
NotNegative = Annotated[float, Within(0)]
Share = Annotated[float, Within(0, 1)]

Holds = Callable[[Any], bool]


class Exchangeable:
    """Base of what may stand for each other: where a field holds one, any other will do, as peers put theirs there."""


def check_fields(made: Any, *, bounds: bool = True) -> None:
    """Raise `InputError`, naming class, field and value, unless every field of a dataclass holds what it may.

    Without `bounds` only the kind of a value is looked at: that a number is one, not how large.
    """
    for name, holds, said in _rules(type(made), bounds):  # type: ignore[arg-type]
        value = getattr(made, name)
        if not holds(value):
            shown = repr(value)
            raise InputError(
                f"{type(made).__name__}: {name} must be {said}, got {shown if len(shown) < 60 else shown[:57] + '...'}"
            )


@cache
def _rules(cls: type, bounds: bool) -> list[tuple[str, Holds, str]]:
    """(name, what it may hold, the same in words) of those fields that have a rule."""
    hints = get_type_hints(cls, include_extras=True)
    rows = [(f.name, *_rule(hints[f.name], bounds)) for f in fields(cls)]
    return [row for row in rows if row[1] is not _anything]


def _rule(hint: Any, bounds: bool) -> tuple[Holds, str]:
    """What an annotation asks for: whether a value is right, and what is right in words."""
    within: Within | None = None
    if get_origin(hint) is Annotated:
        hint, within = get_args(hint)[:2]
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is int:
        return _whole(within or Within(1), bounds)
    if hint is float:
        return _number(within or Within(), bounds)
    if hint is bool:
        return lambda value: value is True or value is False, "True or False"
    if hint is type(None):
        return lambda value: value is None, "None"
    if origin is Literal:
        said = f"one of {', '.join(map(repr, arguments))}"
        return lambda value: isinstance(value, str) and (value in arguments or not bounds), said
    if origin in (Union, types.UnionType):
        return _either([_rule(argument, bounds) for argument in arguments])
    if origin is tuple:
        return _tuple(arguments, bounds)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(*(_rule(argument, bounds) for argument in arguments))
    return _instance(hint)


def _whole(within: Within, bounds: bool) -> tuple[Holds, str]:
    least, most = (within.least, within.most) if bounds else (-math.inf, math.inf)

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return holds, f"a whole number{_bounds(within)}"


def _number(within: Within, bounds: bool) -> tuple[Holds, str]:
    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        try:
            return not bounds or (math.isfinite(value) and within.least <= value <= within.most)
        except OverflowError:  # a whole number beyond all floats
            return False

    return holds, f"a finite number{_bounds(within)}"


def _bounds(within: Within) -> str:
    if math.isinf(within.least):
        return ""
    return f" of at least {within.least:g}" if math.isinf(within.most) else f" from {within.least:g} to {within.most:g}"


def _either(rules: list[tuple[Holds, str]]) -> tuple[Holds, str]:
    if any(holds is _anything for holds, _ in rules):
        return _anything, ""
    said = list(dict.fromkeys(said for _, said in rules))
    tests = [holds for holds, _ in rules]
    return lambda value: any(holds(value) for holds in tests), " or ".join(said)


def _tuple(arguments: tuple[Any, ...], bounds: bool) -> tuple[Holds, str]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        each, said = _rule(arguments[0], bounds)
        return lambda value: isinstance(value, tuple) and all(map(each, value)), f"a tuple, each {said}"
    rules = [_rule(argument, bounds) for argument in arguments]

    def holds(value: Any) -> bool:
        return isinstance(value, tuple) and len(value) == len(rules) and all(r[0](v) for r, v in zip(rules, value))

    return holds, f"a tuple of {', '.join(said or 'anything' for _, said in rules)}"


def _mapping(key: tuple[Holds, str], value: tuple[Holds, str]) -> tuple[Holds, str]:
    (key_holds, _), (value_holds, said) = key, value

    def holds(given: Any) -> bool:
        return isinstance(given, Mapping) and all(key_holds(k) and value_holds(v) for k, v in given.items())

    return holds, f"a mapping by name to {said or 'anything'}"


def _instance(hint: Any) -> tuple[Holds, str]:
    """A class's own instances, or any that may stand for them."""
    if not isinstance(hint, type) or hint in (object, Any):
        return _anything, ""
    cls: type = Exchangeable if issubclass(hint, Exchangeable) else hint
    return lambda value: isinstance(value, cls), f"a {hint.__name__}"


def _anything(value: Any) -> bool:
    return True
