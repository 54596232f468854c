"""What a peer is: classes that can be rebuilt, each giving a model, a renaming, a call and names for trace points."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..autograd import tree
from ..autograd.tree import Tree
from ..errors import InputError, input_errors, one_of, shortened
from ..models.call import Call
from ..models.module import Module
from . import bounds
from .names import Binding, check, load, store

Arguments = dict[str, Any]
Outputs = dict[str, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Given:
    """What a class is rebuilt from: its configuration, in the peer's own keys, and the shapes that it is used with.

    `inputs` are the arguments' shapes, `params` those of parameters and buffers: frameworks that infer a width from the
    first input leave it out of the configuration. `outputs` are the shapes that were recorded, where there are any.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, Shape] = field(default_factory=dict)
    params: Mapping[str, Shape] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class Function(Module):
    """A function without parameters, as a model."""

    function: Callable[..., Any]

    def apply(self, p: Tree, *arguments: Any, **options: Any) -> Any:
        """What the function gives; shapes are its own."""
        return self.function(*arguments, **options)


@dataclass(frozen=True)
class Rebuilt:
    """One of a peer's classes, rebuilt from its configuration.

    `run(model, params, arguments, options, call)` takes the model, or a changed one in its place, the peer's arguments
    by the peer's names (arrays or `Tensor`s), its other options and our `Call`, and returns outputs by the peer's
    names. `bindings` rename parameters and `state`
    running statistics; `ignored` are endings of names that the peer stores and never needs. `points` are rows
    (regular expression of a peer's trace point, our name with \\1 for its groups; "a|b" is b where there is no a).
    """

    model: Module
    bindings: list[Binding]
    run: Callable[[Any, Tree, Arguments, Mapping[str, Any], Call], Outputs]
    points: Sequence[tuple[str, str]] = ()
    state: Sequence[Binding] = ()
    ignored: tuple[str, ...] = ()

    def load(self, arrays: Mapping[str, np.ndarray], where: object) -> tuple[Tree, Tree]:
        """(params, state) as views of the peer's arrays; `InputError` for any missing, unused or unfit one."""
        check([*self.bindings, *self.state], arrays, self.ignored, where)
        return (
            load(self.model.parameters(), self.bindings, arrays),
            load(self.model.state(), self.state, arrays) if self.state else None,
        )

    def store(self, gradients: Tree, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """Parameters or their gradients by the peer's names."""
        return store(self.bindings, gradients, shapes)

    def store_state(self, state: Tree, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """Running statistics by the peer's names; those that a call did not update are left out."""
        ours = tree.flatten(state)
        return store([b for b in self.state if b.path in ours], state, shapes)

    def points_of(self, name: str) -> list[str]:
        """Our names for a peer's trace point, the first that exists being meant; none when no row has it."""
        for pattern, ours in self.points:
            if match := re.fullmatch(pattern, name):
                return match.expand(ours).split("|")
        return []

    def point(self, name: str) -> list[str]:
        """`points_of`; `InputError` when no row has it."""
        if found := self.points_of(name):
            return found
        raise InputError(f"trace point {name!r} has no counterpart in the reference")


@dataclass(frozen=True)
class Peer:
    """An implementation: how its classes are rebuilt, by class name.

    Module paths are left out, unless the same class name stands for several classes ("gated.Perceiver").
    """

    name: str
    classes: Mapping[str, Callable[[Given], Rebuilt]]

    def rebuild(self, cls: str, given: Given) -> Rebuilt:
        """The class `cls`; what comes before the longest known name in a module path is ignored."""
        path = cls.split(".")
        names = [".".join(path[i:]) for i in range(len(path))]
        short = next((name for name in names if name in self.classes), None)
        if short is None:
            raise one_of(f"class of peer {self.name}", path[-1], self.classes)
        bounds.check_tree(f"the configuration of {short}", given.config)
        bounds.check_tree(f"the call of {short}", given.call)
        with input_errors(f"the configuration of {short} cannot be used"):
            return self.classes[short](given)


REQUIRED = object()
"""The default of an option that has none."""


@dataclass(frozen=True)
class Option:
    """In place of a default where that is None or missing: the type of the option, and whether it must be given."""

    kind: type
    required: bool = False


T = TypeVar("T")


@contextmanager
def _collecting(variable: ContextVar[list[T] | None]) -> Iterator[list[T]]:
    """A list of its own for what is noted in the variable inside."""
    noted: list[T] = []
    token = variable.set(noted)
    try:
        yield noted
    finally:
        variable.reset(token)


_told: ContextVar[list[str] | None] = ContextVar("told", default=None)


def told() -> AbstractContextManager[list[str]]:
    """The inherited names that `options` passes over inside, each once, in a list that grows."""
    return _collecting(_told)


class Read(NamedTuple):
    """A call of `options`, by its arguments."""

    what: str
    given: Mapping[str, Any]
    known: Mapping[str, Any]
    passed: frozenset[str]
    """Names that are passed over"""


_read: ContextVar[list[Read] | None] = ContextVar("read", default=None)


def tables_read() -> AbstractContextManager[list[Read]]:
    """The tables of options that are read inside, in a list that grows: what the schemas of configurations are made
    of."""
    return _collecting(_read)


@dataclass(frozen=True)
class Asked:
    """What a call was found to take: argument names, those that it must have, and its other options."""

    known: frozenset[str]
    required: tuple[str, ...]
    options: frozenset[str]


_asked: ContextVar[list[Asked] | None] = ContextVar("asked", default=None)


def asked() -> AbstractContextManager[list[Asked]]:
    """What the calls inside take (`read_call`), in a list that grows."""
    return _collecting(_asked)


def options(
    what: str,
    given: Mapping[str, Any],
    known: Mapping[str, Any],
    ignored: frozenset[str] = frozenset(),
    inherited: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """`known` (names with defaults) updated by `given`.

    Raises `InputError` for an unknown name, listing the known, for a value that is not of its default's type, is beyond
    the option's bounds (`bounds`) or a negative number where the default is none, and for a required one that is
    missing. A default of None says nothing about the type, an `Option` does; None may stand for any number. Names that
    are `ignored` are passed over, and so are `inherited` ones, which are told (see `told`).
    """
    if (rows := _read.get()) is not None:
        rows.append(Read(what, given, known, ignored | inherited))
    if not isinstance(given, Mapping):
        raise InputError(f"the options of {what} must be an object, got {shortened(given)}")
    for key, value in given.items():
        if key in known:
            _check_type(f"option {key!r} of {what}", value, known[key])
            bounds.check(f"option {key!r} of {what}", bounds.row(what, key), value, known[key])
        elif key in inherited:
            names = _told.get()
            if names is not None and key not in names:
                names.append(key)
        elif key not in ignored:
            raise one_of(f"option of {what}", key, known)
    for key, default in known.items():
        if key not in given and (default is REQUIRED or (isinstance(default, Option) and default.required)):
            raise InputError(f"{what} needs the option {key!r}")
    chosen = {key: given.get(key, None if isinstance(default, Option) else default) for key, default in known.items()}
    bounds.check_layers(what, chosen)
    return chosen


_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Mapping: "an object",
}


def _check_type(what: str, value: Any, default: Any) -> None:
    kind = default.kind if isinstance(default, Option) else next((k for k in _KINDS if isinstance(default, k)), None)
    optional = not default.required if isinstance(default, Option) else kind is float
    if kind is None or (optional and value is None):
        return
    wanted: Any = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{what} must be {_KINDS[kind]}, got {shortened(value)}")
    if kind is int and value < (min(default, 0) if isinstance(default, int) else 0):
        raise InputError(f"{what} must not be negative, got {shortened(value)}")


def positive(what: str, value: Any) -> int:
    """A size: `InputError` unless it is a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{what} must be a whole number above 0, got {value!r}")
    return value


def read_call(
    what: str,
    arguments: Arguments,
    given: Mapping[str, Any],
    known: set[str],
    defaults: Mapping[str, Any],
    required: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arguments, options) of a call: dotted names become dicts, None is as good as absent, the rest must be known.

    Raises `InputError` when arguments that are `required` are missing.
    """
    if (calls := _asked.get()) is not None:
        calls.append(Asked(frozenset(known), tuple(required), frozenset(defaults)))
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        outer, _, inner = name.partition(".")
        if outer not in known:
            raise one_of(f"argument of {what}", outer, known)
        if inner:
            values.setdefault(outer, {})[inner] = value
        else:
            values[name] = value
    if missing := [repr(name) for name in required if name not in values]:
        raise InputError(f"{what} needs the argument{'s' * (len(missing) > 1)} {', '.join(missing)}")
    present = {name: value for name, value in given.items() if value is not None}
    return values, options(what, present, defaults, frozenset({"positional"}))


def check_axes(name: str, x: Any, *forms: str) -> None:
    """Raise `InputError` unless x has as many axes as one of these forms, such as "batch, tokens, dim"."""
    if len(x.shape) not in {form.count(",") + 1 for form in forms}:
        raise InputError(f"{name} must be ({') or ('.join(forms)}), got {tuple(x.shape)}")
