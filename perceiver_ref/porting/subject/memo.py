"""Results of ops kept from one run for later runs of the same model, so that only what differs is computed again.

Every array of a run has a number: a parameter or input one of its own, the result of an op the number that belongs to
the op, the numbers of its arguments and its options. An op whose key is known gives the result that is kept. A run with
a deviation so computes from the first op that it changes onwards, and equal arrays are told by their numbers alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from weakref import ref

import numpy as np

from ...autograd.backend import is_array, to_host
from ...autograd.core import Op, array_of
from ...autograd.handlers import handle

BYTES = 4 << 30
"""As much is kept at most; what a larger model computes after that is computed again by every run that needs it."""


_SHARE = 16
_PLAIN = frozenset({bool, int, float, str, type(None)})
Run = Callable[[Op, tuple[Any, ...], dict[str, Any]], Any]


def _plain(op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
    return op(*arguments, **static)


class Memo:
    """`recording` keeps what a run computes, `replaying` uses it; `number` tells equal arrays."""

    def __init__(self, limit: int = BYTES) -> None:
        self.room = limit
        self.kept: dict[Hashable, Any] = {}
        """Key of an op -> its result"""
        self._numbers: dict[Hashable, list[int]] = {}
        self._known: dict[int, tuple[ref[Any], int]] = {}
        self._contents: dict[Hashable, int] = {}
        self._new = count(1)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within this context results are kept, as long as there is room."""
        with handle(self.record):
            yield

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Within this context ops give what is kept. Arrays that only this run makes are forgotten after it."""
        known = dict(self._known)
        try:
            with handle(self.replay):
                yield
        finally:
            self._known = known

    def number(self, array: Any) -> int:
        """The number of an array; one that no op has made here is known by its contents."""
        if known := self._known_number(array):
            return known
        host = to_host(array)
        contents = (host.shape, host.dtype.str, hashlib.blake2b(host.tobytes(), digest_size=16).digest())
        return self._note(array, self._contents.setdefault(contents, -1 - len(self._contents)))

    def distinct(self, array: Any) -> None:
        """Give an array, such as a parameter, a number of its own without a look at its contents."""
        self._note(array, next(self._new))

    def _known_number(self, array: Any) -> int | None:
        found = self._known.get(id(array))
        return found[1] if found is not None and found[0]() is array else None

    def _note(self, array: Any, number: int) -> int:
        self._known[id(array)] = (ref(array), number)
        return number

    def _key(self, op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Hashable:
        return (op.name, self._frozen(arguments), self._frozen(static))

    def _frozen(self, value: Any) -> Hashable:
        """Something that can be a key; functions and the like by their identity."""
        kind = type(value)
        if kind is np.ndarray:
            return ("array", self._known_number(value) or self.number(value))
        if kind in _PLAIN:
            return (kind, value)
        if kind is tuple or kind is list:
            return tuple([self._frozen(part) for part in value])
        if kind is dict:
            return tuple([(name, self._frozen(value[name])) for name in sorted(value)])
        value = array_of(value)
        if is_array(value):
            return ("array", self.number(value))
        if isinstance(value, (tuple, list)):
            return tuple([self._frozen(part) for part in value])
        return repr(value) if isinstance(value, slice) else (kind.__name__, value)

    def record(self, op: Op, arguments: tuple[Any, ...], static: dict[str, Any], run: Run = _plain) -> Any:
        """What `run` makes of an op, kept if there is room."""
        key, out = self._key(op, arguments, static), run(op, arguments, static)
        self._keep(key, out, self.room)
        return out

    def _keep(self, key: Hashable, out: Any, most: int) -> None:
        self._numbers[key] = self._numbered(out, self._numbers.get(key))
        size = sum(array.nbytes for array in _arrays(out) if array.base is None)
        if size <= most:
            self.room -= size
            self.kept[key] = out

    def once(self, op: Op, arguments: tuple[Any, ...], static: dict[str, Any], run: Run = _plain) -> Any:
        """What is kept of an op, or what `run` makes of it, kept where it takes a small part of the room."""
        key = self._key(op, arguments, static)
        if key in self.kept:
            return self.kept[key]
        out = run(op, arguments, static)
        self._keep(key, out, self.room // _SHARE)
        return out

    def replay(self, op: Op, arguments: tuple[Any, ...], static: dict[str, Any], run: Run = _plain) -> Any:
        """What is kept of an op, or what `run` makes of it."""
        key = self._key(op, arguments, static)
        if key in self.kept:
            return self.kept[key]
        out = run(op, arguments, static)
        self._numbered(out, self._numbers.get(key))
        return out

    def _numbered(self, out: Any, numbers: Sequence[int] | None = None) -> list[int]:
        """The numbers of an op's results; those that have none get these, or new ones."""
        given = zip(_arrays(out), self._new if numbers is None else numbers)
        return [self._known_number(array) or self._note(array, number) for array, number in given]


def _arrays(out: Any) -> list[Any]:
    return [array for array in (out if isinstance(out, tuple) else (out,)) if is_array(array)]
