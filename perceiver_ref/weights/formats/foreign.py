"""Placeholders for what a pickle names and no table here knows: never called, and refused only where weights need one.

Checkpoints hold more than weights: counters, dates, a script's dataclasses, the states of optimizers and schedulers. Of
an object of such a class nothing is made: one `Foreign` stands for the class, for every object that the file makes by
calling it, and for what is put into that. Constructors that are known but get what they cannot use give one, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class RefusedError(Exception):
    """Something that a tree of arrays does not need."""


class Foreign:
    """Stands for what was not made; `why` completes "it holds", `tensor` says that it would have been an array."""

    __slots__ = ("tensor", "why")

    def __init__(self, why: str, tensor: bool = False) -> None:
        self.why, self.tensor = why, tensor


def made(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What a constructor of a table gives, or a `Foreign` where it refuses its arguments."""
    given = next((argument for argument in arguments if isinstance(argument, Foreign)), None)
    try:
        return function(*arguments)
    except RefusedError as error:
        return Foreign(given.why if given else str(error), tensor=True)
    except TypeError:
        if given is None:
            raise
        return Foreign(given.why, tensor=True)


def unreadable(foreign: Foreign) -> np.ndarray:
    """What stands among a file's arrays for one that cannot be read."""
    held = np.empty((), object)
    held[()] = foreign
    return held


def foreign_of(array: np.ndarray) -> Foreign | None:
    """The `Foreign` that an array of `unreadable` stands for; None for any other."""
    held: Any = array.item() if array.dtype.kind == "O" and not array.shape else None
    return held if isinstance(held, Foreign) else None


def first_foreign(content: Any) -> Foreign | None:
    """The first placeholder in a finished tree, keys of dicts included; None where it holds none."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Foreign):
            return value
        if isinstance(value, dict):
            waiting += [*reversed(value.values()), *reversed(value)]
        elif isinstance(value, (list, tuple)):
            waiting += reversed(value)
    return None
