"""One run of many deviations, each in a copy of the batch of its own (see `tiles`): what all copies share is computed
once, and beside it what each has in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from operator import is_
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import is_array
from ...autograd.core import Op, array_of
from ...autograd.tree import Tree
from ...models.tracing import Trace
from ..deviations import Candidate
from ..deviations.base import At, Change, Exchange, Paths
from ..exchange import Replacement
from .subject import CANNOT_BE_RUN

_OF_FEATURES = {"frequencies", "linear_positions"}
"""Functions whose results go into features of positions outside of ops"""


class Points(Trace):
    """The points of a run with copies, each with its own values; from `given` ones it goes on as from those."""

    def __init__(self, only: Set[str], given: Mapping[str, Any]) -> None:
        super().__init__(only, False, None)
        self.given = given
        self.tile: Tile | None = None
        self.own: dict[int, dict[str, Any]] = {}
        """Of copies that were computed alone what they have"""
        self.newest: list[str] = []
        """Points that the copy which is computed alone has passed in the part of the model that it is in"""
        self.counts: dict[str, int] = {}
        """How often each point was passed"""

    def record(self, point: str, value: Any) -> None:
        """Keep a value of all copies, or of the one that is computed alone."""
        name = self.name(point)
        if self.only is None or not self.only(name):
            return
        alone = None if self.tile is None else self.tile.alone
        kept = self if alone is None else self.own.setdefault(alone, {})
        key = self._counted(f"trace {name}", name)
        kept[key] = array_of(value)
        if alone is not None:
            self.newest.append(key)

    def passed(self, original: Any, name: str, value: Any) -> Any:
        """A point; the given value in its place, for every copy."""
        value = original(name, value)
        given = self.given.get(self._counted(self.name(name), self.name(name)))
        if given is None or self.tile is None:
            return value
        if given.shape == value.shape:
            return given
        for axis, (length, own) in enumerate(zip(value.shape, given.shape)):
            if length == own * self.tile.copies:
                every = np.concatenate([given] * self.tile.copies, axis)
                return every if every.shape == value.shape else value
        return value

    def _counted(self, key: str, name: str) -> str:
        times = self.counts[key] = self.counts.get(key, -1) + 1
        return f"{name}@{times}" if times else name

    def of(self, i: int) -> dict[str, Any]:
        """What one copy has at each point."""
        assert self.tile is not None
        return {name: self.tile.mine(i, value) for name, value in self.items()} | self.own.get(i, {})


class Tile:
    """The deviations of one run's copies, in their order; `failed` are those that do not fit."""

    def __init__(self, copies: int, others: Sequence[Candidate], methods: Container[Any], points: Points) -> None:
        self.copies, self.others, self.methods, self.points = copies, others, methods, points
        self.failed = {i for i, other in enumerate(others) if other.here is not None}
        self.around: set[Any] = set()
        """Methods that all copies exchange: they may make other parameters of those that they are given"""
        self.reached: set[int] = set()
        """Copies of which rows were computed"""
        self.alone: int | None = None
        """The copy whose rows alone are computed just now"""
        self.apart: dict[int, tuple[Any, dict[int, Any]]] = {}
        """Identity of an array without rows -> the array, and what copies have in its place"""
        self.seen: dict[tuple[int, int], tuple[Any, Any]] = {}
        """Identity of an array, and a copy -> the array, and its rows: the same object each time"""
        self.inner: Mapping[int, Replacement] = {}
        """What is only exchanged while a copy is computed alone: it is asked for within what they all exchange"""
        self.waiting: dict[int, set[int]] = {}
        """Identity of what a part or function made without rows -> copies that have something else, which no op or part
        was given: then it is lost"""
        self.nodes: set[int] = set()
        """Identities of the levels of the parameters' tree, whose leaves are looked at where ops are given them"""
        self.simple: set[int] = set()
        """Copies that deviate in one method or function alone: inside it they do not"""
        self.tables: dict[int, Mapping[str, Callable[..., Any]]] = {}
        self.of_op: dict[str, list[int]] = {}
        """Name of an op -> the copies that deviate there"""

    def forget(self) -> None:
        """Let go of all arrays: what runs this, and is run by it, goes round in a circle, which is collected late."""
        for kept in (self.apart, self.seen, self.tables, self.waiting, self.points, self.points.own):
            kept.clear()
        self.points.tile = None

    @property
    def candidate(self) -> Candidate:
        """All of these as one deviation of the run."""
        return Candidate("several", "", Change(self.params, self.parts, self.ops))

    def params(self, params: Tree) -> Tree:
        """The parameters; what copies have in their place is noted."""
        self.nodes = set(map(id, _levels(params)))
        leaves = list(tree.leaves(params))
        known = {id(array) for _, array in leaves}
        for i, other in enumerate(self.others):
            if other.change.params is None or i in self.failed:
                continue
            try:
                own = list(tree.leaves(other.change.params(params)))
            except CANNOT_BE_RUN:
                own = []
            if [name for name, _ in own] != [name for name, _ in leaves]:
                self.failed.add(i)
                continue
            for (_, common), (_, array) in zip(leaves, own):
                if array is not common:  # a copy of what is a parameter itself, and may have others in its place
                    its = np.array(array) if id(array) in known else array
                    self.apart.setdefault(id(common), (common, {}))[1][i] = its
        return params

    def ops(self, path: Paths) -> Mapping[str, Any]:
        """A replacement for every op."""
        for common, own in self.apart.values():
            for array in own.values():
                if not path(array):
                    path.also(array, path(common))
        for i, other in enumerate(self.others):
            if other.change.ops is not None and i not in self.failed:
                self.tables[i] = other.change.ops(path)
                for name in self.tables[i]:
                    self.of_op.setdefault(name, []).append(i)
        return _Whatever(self._op)

    def parts(self) -> Exchange:
        """For every method or function that a copy exchanges what does so for its rows."""
        owners: dict[Any, dict[int, Replacement]] = {}
        for i, other in enumerate(self.others):
            if other.change.parts is not None and i not in self.failed:
                own = {k: made for k, made in other.change.parts().items() if isinstance(k, str) or k in self.methods}
                for key, made in own.items():
                    owners.setdefault(key, {})[i] = made
                if _OF_FEATURES & own.keys():
                    owners.setdefault("fourier_features", {}).setdefault(i, _the_same)
                    own = {**own, "fourier_features": _the_same}
                if len(own) == 1 and other.change.ops is None and other.change.params is None:
                    self.simple.add(i)
        self.inner = owners.get("frequencies", {})
        for key in self.around:
            owners.setdefault(key, {})
        return {key: partial(self._part, key in self.around, of) for key, of in owners.items()}

    def _op(self, op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        if self.alone is not None:
            return self._own(self.alone, op, self.mine(self.alone, arguments), self.mine(self.alone, static))
        out = op(*arguments, **static)
        touched = [i for i in self.of_op.get(op.name, ()) if self._deviates(i, op.name)]
        touched += [i for i in self._carried((arguments, static)) if i not in touched]
        return self._with(out, touched, lambda i: self._own(i, op, self.mine(i, arguments), self.mine(i, static)))

    def _own(self, i: int, op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        made = self.tables.get(i, {}).get(op.name)
        return op(*arguments, **static) if made is None else made(op, arguments, static)

    def _deviates(self, i: int, name: str) -> bool:
        made = self.tables[i][name]
        return not isinstance(made, At) or made.is_here()

    def _part(
        self, around: bool, owners: Mapping[int, Replacement], original: Any, *arguments: Any, **options: Any
    ) -> Any:
        if self.alone is not None:
            made = owners.get(self.alone)
            return original(*arguments, **options) if made is None else made(original, *arguments, **options)
        if owners is self.inner:
            return original(*arguments, **options)
        before, passed = dict(self.points.counts), len(self.points)
        out = original(*arguments, **options)
        after, common = self.points.counts, list(self.points)[passed:]
        touched = [*owners, *(self._carried(arguments, levels=True) - owners.keys() if around else ())]

        def own(i: int) -> Any:
            self.points.counts, self.points.newest = dict(before), []
            given, chosen = self.mine(i, arguments, levels=around), self.mine(i, options)
            if i not in owners:
                return original(*given, **chosen)

            def known(*others: Any, **more: Any) -> Any:
                same = len(others) == len(given) and all(map(is_, others, given)) and more.keys() == chosen.keys()
                if same and all(more[name] is chosen[name] for name in more):
                    self.points.newest += common
                    return self.mine(i, out)
                return original(*others, **more)

            made = owners[i](known if i in self.simple else original, *given, **chosen)
            if self.points.newest != common:
                raise ValueError("other points, or in another order: what comes of them is not told by their names")
            return made

        out = self._with(out, touched, own, of_part=True)
        self.points.counts = after
        return out

    def _with(self, out: Any, touched: Sequence[int], own: Callable[[int], Any], *, of_part: bool = False) -> Any:
        """What all have, with that of copies which deviate in its place."""
        touched = [i for i in touched if i not in self.failed]
        if not touched:
            return out
        out = self._copied(out)
        for i in touched:
            try:
                with self.only(i):
                    made = own(i)
            except CANNOT_BE_RUN:
                self.failed.add(i)
                continue
            if not self._put(out, i, made):
                self.failed.add(i)
        if of_part and id(out) in self.apart:
            self.waiting[id(out)] = set(self.apart[id(out)][1])
        return out

    @contextmanager
    def only(self, i: int) -> Iterator[None]:
        """Within this context the rows of one copy are computed."""
        self.alone = i
        try:
            yield
        finally:
            self.alone = None

    def _copied(self, out: Any) -> Any:
        """The same with arrays that can be written to."""
        if isinstance(out, (tuple, list)):
            parts = [self._copied(part) for part in out]
            return type(out)(*parts) if hasattr(out, "_fields") else type(out)(parts)
        if isinstance(out, dict):
            return {name: self._copied(part) for name, part in out.items()}
        if not is_array(array_of(out)):
            return out
        made = np.array(array_of(out))
        if (known := self.apart.get(id(out))) is not None and known[0] is out:
            self.apart[id(made)] = (made, dict(known[1]))
            self.waiting.pop(id(out), None)
        return made

    def _put(self, out: Any, i: int, made: Any) -> bool:
        """Put what a copy has into its rows, or beside what has none; False where it does not fit."""
        made = array_of(made)
        if isinstance(out, (tuple, list)):
            fits = isinstance(made, (tuple, list)) and len(made) == len(out)
            return fits and all(self._put(part, i, own) for part, own in zip(out, made))
        if isinstance(out, dict):
            fits = isinstance(made, dict) and made.keys() == out.keys()
            return fits and all(self._put(part, i, made[name]) for name, part in out.items())
        if not is_array(out):
            return out is made or (type(out) is type(made) and isinstance(out, (int, float, str)) and out == made)
        block = self._rows(out, i)
        if block is None:
            self.apart.setdefault(id(out), (out, {}))[1][i] = made
            return is_array(made)
        if not is_array(made) or out[block].shape != made.shape:
            return False
        out[block] = made
        self.seen[id(out), i] = (out, made)
        self.reached.add(i)
        return True

    def mine(self, i: int, value: Any, *, levels: bool = False) -> Any:
        """Arguments as one copy has them: its rows, what it has in place of the common, and its share of lengths.

        `levels`: those of the parameters' tree, too.
        """
        kind = type(value)
        if kind is int:
            return value // self.copies if value > 0 and value % self.copies == 0 else value
        if kind is tuple or kind is list:
            known = not levels and id(value) in self.nodes
            return value if known else kind([self.mine(i, part, levels=levels) for part in value])
        if kind is dict:
            known = not levels and id(value) in self.nodes
            return value if known else {name: self.mine(i, part, levels=levels) for name, part in value.items()}
        data = array_of(value)
        if not is_array(data):
            return value
        own = self.apart.get(id(data))
        if own is not None and own[0] is data and i in own[1]:
            self.waiting.get(id(data), set()).discard(i)
            return own[1][i]
        if (seen := self.seen.get((id(data), i))) is not None:
            return seen[1]
        block = self._rows(data, i)
        if block is None:
            return value
        rows = data[block]
        self.seen[id(data), i] = (data, rows)
        return rows

    def _rows(self, array: np.ndarray, i: int) -> tuple[slice, ...] | None:
        """Where a copy's rows are; None for an array without rows."""
        for axis, length in enumerate(array.shape):
            if length and length % self.copies == 0:
                rows = length // self.copies
                return (*[slice(None)] * axis, slice(i * rows, (i + 1) * rows))
        return None

    def _carried(self, values: Any, *, levels: bool = False) -> set[int]:
        """The copies that have something else in the place of one of these values; of a part of it, they do not fit."""
        if isinstance(values, (tuple, list)):
            return set().union(*(self._carried(value, levels=levels) for value in values))
        if isinstance(values, dict):
            if not levels and id(values) in self.nodes:
                return set()
            return set().union(*(self._carried(value, levels=levels) for value in values.values()))
        data = array_of(values)
        known = self.apart.get(id(data))
        if known is not None and known[0] is data:
            return set(known[1])
        while (data := getattr(data, "base", None)) is not None:
            if (known := self.apart.get(id(data))) is not None and known[0] is data:
                self.failed.update(known[1])
        return set()


def _the_same(original: Any, *arguments: Any, **options: Any) -> Any:
    return original(*arguments, **options)


class _Whatever(dict[str, Any]):
    """The same value for every key."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def get(self, key: str, default: Any = None) -> Any:
        return self.value


def _levels(params: Tree) -> Iterator[Any]:
    if isinstance(params, (dict, list, tuple)):
        yield params
        for part in params.values() if isinstance(params, dict) else params:
            yield from _levels(part)
