"""What is said of a live module of a known implementation, and a row of the table that says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....peers import UNKNOWN

__all__ = ["UNKNOWN", "Recognised", "Row", "Unread", "no_options"]


class Unread(Exception):  # noqa: N818 - it is caught, never shown
    """A module of a known class is built in a way that its configuration cannot say."""


@dataclass(frozen=True)
class Recognised:
    """Which peer's class a module is, and how its arrays are named there."""

    peer: str
    cls: str
    """The module path and name of the class."""
    config: Mapping[str, Any]
    call: Mapping[str, Any] = field(default_factory=dict)
    """Options of the module that our class takes in the call."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """The forward's argument -> its name in a case, where that differs."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Parameter or buffer -> argument, for functions that are given what a module holds."""
    outputs: Mapping[str, str | None] = field(default_factory=dict)
    """`out`, `out0`, `out1.2` -> the output's name in a case, where that differs; None leaves it out."""
    without: tuple[str, ...] = ()
    """How the names of parameters begin that the class has no part in."""
    encoder: str = ""
    """The part whose output stands for its input, since the class begins behind it."""
    opened: Mapping[str, Callable[[Any], Mapping[str, Any]]] = field(default_factory=dict)
    """Argument that is an object -> what gives the arrays and numbers in its place, by their names."""
    partial: frozenset[str] = frozenset()
    """Paths of parts that are called for pieces of what a point is, and have none."""
    version: str = ""
    tolerance: Mapping[str, float] | None = None
    """What a case in float64 is held to, where the peer computes a part in float32 whatever its dtype."""


def no_options(module: Any) -> dict[str, Any]:
    """Of a module without any."""
    return {}


def no_parts(module: Any) -> frozenset[str]:
    """Of a module whose parts are all called for the whole."""
    return frozenset()


@dataclass(frozen=True)
class Row:
    """How the modules of one class are recognised.

    `config` and `call` take the module; they raise `Unread`, or whatever reading an absent attribute raises, where it
    is not built as the class builds it. `float32` are names of classes that compute in float32 whatever their dtype:
    where one is among the module's parts, a case in float64 is held to float32's tolerance. The rest is as in
    `Recognised`.
    """

    peer: str
    config: Callable[[Any], Mapping[str, Any]] = no_options
    distribution: str = ""
    call: Callable[[Any], Mapping[str, Any]] = no_options
    name: str = ""
    """The class's name in a case, where it is not that of the module's class."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str | None] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    encoder: str = ""
    opened: Mapping[str, Callable[[Any], Mapping[str, Any]]] = field(default_factory=dict)
    partial: Callable[[Any], frozenset[str]] = no_parts
    float32: frozenset[str] = frozenset()
