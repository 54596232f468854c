"""What a peer is: classes that can be rebuilt, each giving a model, a renaming, a call and names for trace points."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..autograd.tree import Tree
from ..errors import InputError, input_errors, one_of
from ..parameters import Module
from .names import Binding

Arguments = dict[str, Any]
Outputs = dict[str, Any]


@dataclass(frozen=True)
class Rebuilt:
    """One of a peer's classes, rebuilt from its configuration.

    `call(params, arguments, options)` takes the peer's arguments by the peer's names (arrays or `Tensor`s) and returns
    outputs by the peer's names. `points` are rows (regular expression of a peer's trace point, our name with \\1 for
    its groups).
    """

    model: Module
    bindings: list[Binding]
    call: Callable[[Tree, Arguments, Mapping[str, Any]], Outputs]
    points: Sequence[tuple[str, str]] = ()

    def point(self, name: str) -> str:
        """Our name for a peer's trace point; `InputError` when the table has no row for it."""
        for pattern, ours in self.points:
            if match := re.fullmatch(pattern, name):
                return match.expand(ours)
        raise InputError(f"trace point {name!r} has no counterpart in the reference")


@dataclass(frozen=True)
class Peer:
    """An implementation: how its classes are rebuilt, by class name (without the module path)."""

    name: str
    classes: Mapping[str, Callable[[Mapping[str, Any]], Rebuilt]]

    def rebuild(self, cls: str, config: Mapping[str, Any]) -> Rebuilt:
        """The class `cls` (a module path before the name is ignored) with a configuration of the peer's own keys."""
        short = cls.rpartition(".")[2]
        if short not in self.classes:
            raise one_of(f"class of peer {self.name}", short, self.classes)
        with input_errors(f"the configuration of {short} cannot be used"):
            return self.classes[short](config)


def options(
    what: str, given: Mapping[str, Any], known: Mapping[str, Any], ignored: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """`known` (names with defaults) updated by `given`.

    Raises `InputError` for an unknown name, listing the known, and for a value that is not of its default's type or is
    a negative number. A default of None says nothing about the type.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"the options of {what} must be an object, got {given!r}")
    for key, value in given.items():
        if key in known:
            _check_type(f"option {key!r} of {what}", value, known[key])
        elif key not in ignored:
            raise one_of(f"option of {what}", key, known)
    return {key: given.get(key, default) for key, default in known.items()}


def _check_type(what: str, value: Any, default: Any) -> None:
    for kind, name in ((bool, "true or false"), (int, "a whole number"), (str, "text"), (Mapping, "an object")):
        if isinstance(default, kind):
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise InputError(f"{what} must be {name}, got {value!r}")
            break
    if isinstance(default, int) and value < 0:
        raise InputError(f"{what} must not be negative, got {value!r}")
