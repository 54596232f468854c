"""What is said of a live module of a known implementation, and a row of the table that says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....peers import UNKNOWN

__all__ = ["UNKNOWN", "Calls", "Recognised", "Row", "Unread", "no_options"]

Calls = Mapping[str, list[tuple[np.ndarray, np.ndarray]]]
"""Path of a part -> of each of its calls the first argument and what it returned."""
Chance = Callable[[Any, Mapping[str, np.ndarray], Calls], Mapping[str, np.ndarray]]
"""A module, the inputs of a case, and calls of parts -> inputs that are no arguments, but came about inside it."""


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
    held: tuple[str, ...] = ()
    """Attributes that are arguments, set before the call."""
    watched: tuple[str, ...] = ()
    """Paths of the parts whose calls `chance` is given."""
    chance: Chance | None = None
    version: str = ""
    inside: str = "float32"
    """The dtype in which the peer computes a part whatever its own, where there is a `tolerance`."""
    tolerance: Mapping[str, float] | None = None
    """What a case in a finer dtype than `inside` is held to."""


def no_options(module: Any) -> dict[str, Any]:
    """Of a module without any."""
    return {}


def no_parts(module: Any) -> frozenset[str]:
    """Of a module whose parts are all called for the whole."""
    return frozenset()


def no_angles(module: Any) -> float:
    """Of a module that takes no sines, or none in another dtype than its own."""
    return 0.0


@dataclass(frozen=True)
class Row:
    """How the modules of one class are recognised.

    `config` and `call` take the module; they raise `Unread`, or whatever reading an absent attribute raises, where it
    is not built as the class builds it. `which` gives the peer's class where one class stands for several.

    `float32` are names of classes that compute in float32 whatever their dtype, or a function that says so of a module:
    where one is among its parts, a case in float64 is held to the tolerance of float32, or of `inside`. `angles` is
    about the largest angle whose sine is taken there. The rest is as in `Recognised`.
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
    held: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    chance: Chance | None = None
    which: Callable[[Any], str] | None = None
    float32: frozenset[str] | Callable[[Any], bool] = frozenset()
    angles: Callable[[Any], float] = no_angles
    inside: str = "float32"
