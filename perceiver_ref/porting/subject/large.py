"""A case of a large model under test: run once in its own dtype, from one traced point that agrees to the next.

Where a traced point agrees, the run goes on from the case's own value: rounding does not add up, and what comes after
can be run again from there. Our arrays are compared as they come, and only outputs and the first array that differs are
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import name as name_of
from ...autograd.backend import to_backend, to_host
from ...autograd.core import array_of
from ...models.tracing import trace, where
from ..cases import Case
from ..cases.execution import named_points, spread
from ..deviations import Candidate, deviating, survey
from ..deviations.base import layer_of
from ..exchange import exchanged_steps
from .close import Close, closeness
from .course import Course, Part
from .memo import Memo
from .subject import CANNOT_BE_RUN, Arrays, Subject, tamed

LARGE = 1 << 24
"""Cases with more numbers in parameters, inputs and traced values than this are large."""
ROOM = 1 << 30
"""Bytes that are kept of the results of a run without traced points, for the next ones"""
_MAP = 1 << 16
"""Weights of an attention with more elements, which are computed for a trace alone, are compared only where they lie
before the first difference."""
_LAZY = ("weights", "softmax", "flat")
AGREES = {"float64": 1e-11, "float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}
"""By dtype: two runs of the few ops between two traced points differ by less than this part of the values, in the root
mean square. Sums of a thousand float32 products leave 3e-7, an epsilon of 1e-5 in a norm 5e-6."""
_LARGEST = 10.0
"""And no element by more than so many times that part of the largest."""


class FoundError(Exception):
    """A run that need not go on: `value` is what it was for."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def is_large(case: Case) -> bool:
    """Whether a case is run as a large one."""
    return sum(a.size for arrays in (case.params, case.inputs, case.trace) for a in arrays.values()) > LARGE


class LargeSubject(Subject):
    """As `Subject`, with the `course` of the one run, `closeness` of all compared arrays, `first` the first that is
    apart, and `given`: the case's value for each of our points, where one can take its place."""

    is_large = True

    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.case.meta["dtype"] == "float64" else np.float32)

    def _wide(self, array: Any) -> Any:
        if array is None or array.dtype.kind != "f":
            return self.placed(array)
        return self.placed(array.astype(self.dtype, copy=False)[...] if array.ndim else array.astype(self.dtype))

    def _first_run(self, named: Mapping[str, Sequence[str]]) -> tuple[Mapping[str, Any], dict[str, Any]]:
        self.course = Course()
        self.closeness: dict[str, Close] = {}
        self.first: str | None = None
        self.given: dict[str, Any] = {}
        self._first_ours: Any = None
        self.peers: dict[str, list[str]] = {}
        """The peer's names of our points"""
        self._others: dict[str, list[str]] = {}
        """The same where they are meant only if a point before does not exist"""
        self._other_looks: list[tuple[str, str, Close, Any, Any]] = []
        self.stands_for: dict[str, str] = {}
        """A map of attention weights that was compared after the run -> our point that comes after it"""
        self.maps: list[str] = []
        """The peer's names of points that are too large to be compared all over"""
        for name, names in named.items():
            lazy = any(n.split(".")[-1] in _LAZY for n in names)
            is_map = lazy and self.case.trace[name].size > _MAP
            if is_map:
                self.maps.append(name)
            for place, ours in enumerate(names if not is_map else ()):
                (self._others if place else self.peers).setdefault(ours, []).append(name)
        self._last: tuple[Any, Arrays | None] | None = None
        self.memo = Memo(ROOM)
        for _, array in [*tree.leaves(self.params), *tree.leaves(self.inputs)]:
            self.memo.distinct(array)
        outputs: dict[str, Any] = {}

        def compared(ours: str, value: Any) -> Any:
            if ours in self.peers or ours in self._others:
                self._look(ours, value)
            return np.zeros(())

        def forced(ours: str, value: Any) -> Any:
            given = self.given.get(ours) if self.first is None else None
            if given is None:
                return value
            self.course.replaced(given)
            return given

        with (
            trace(frozenset({**self.peers, **self._others}), kept=compared) as traced,
            nullcontext() if named else self.memo.recording(),
            self.course.recording(traced.__len__),
            _at_points(self.peers, forced),
            np.errstate(all="ignore"),
        ):
            self.survey = survey(
                self.params, lambda: outputs.update(self.run(self.params, self.inputs)), traced.__len__
            )
        return traced, outputs

    def _look(self, ours: str, value: Any) -> None:
        """Compare a point as it comes."""
        mine = array_of(value)
        self.course.point(ours, value)
        for name in self._others.get(ours, ()):
            theirs = self._beside(mine, self.case.trace[name])
            shaped = spread(mine, theirs)
            close = closeness(shaped, theirs)
            self._other_looks.append((name, ours, close, shaped if self._first_ours is None else shaped[:0], theirs))
        for name in self.peers.get(ours, ()):
            theirs = self._beside(mine, self.case.trace[name])
            shaped = spread(mine, theirs)
            close = self.closeness[f"trace/{name}"] = closeness(shaped, theirs)
            self._can_replace(ours, theirs, mine.shape)
            if self.first is None and not self.agrees(close):
                self.first, self._first_ours = f"trace/{name}", to_host(shaped)

    def _beside(self, mine: Any, theirs: np.ndarray) -> Any:
        """The case's array where ours is, which may be the host whatever is computed on: of grids of positions."""
        return to_backend(theirs.astype(self.dtype, copy=False) if theirs.dtype.kind == "f" else theirs, name_of(mine))

    def _can_replace(self, ours: str, theirs: Any, shape: tuple[int, ...]) -> None:
        if theirs.shape == shape and ours not in self.given and theirs.dtype.kind == "f":
            self.given[ours] = theirs[...]

    def _settle(self, order: Sequence[str]) -> None:
        """Where a name's first point does not exist the next one is meant."""
        for name, ours, close, mine, theirs in self._other_looks:
            if self.points.get(name) == ours:
                self.closeness[f"trace/{name}"] = close
                self.peers.setdefault(ours, []).append(name)
                self._can_replace(ours, theirs, mine.shape)
                apart = self.first is None or order.index(ours) < order.index(self._place(self.first))
                if apart and not self.agrees(close):
                    self.first, self._first_ours = f"trace/{name}", to_host(mine)
        self._other_looks = []

    def _place(self, name: str) -> str:
        return self.points[name.removeprefix("trace/")]

    def agrees(self, close: Close) -> bool:
        """Whether what differs is no more than rounding between two points."""
        limit = AGREES[self.case.meta["dtype"]]
        return close.relative <= limit and close.error <= _LARGEST * limit

    @property
    def all_agree(self) -> bool:
        """Whether every compared array does."""
        return all(self.agrees(close) for close in self.closeness.values())

    def forget(self) -> None:
        """Free what is kept for further runs, once the outputs are told."""
        self.memo.kept.clear()
        self.memo.room = 0
        self.course.newest.clear()

    def _unknown(self, names: Sequence[str]) -> list[str]:
        told = super()._unknown([name for name in names if name not in self.maps])
        some = [name for name in names if name in self.maps]
        many = f"{len(some)} large maps of attention weights are compared only before the first difference"
        return [*told, *([many] if some else [])]

    def replaced(self, hidden: Collection[str] = ()) -> set[int]:
        """The steps whose results the case's own values take the place of, but for those of `hidden` points."""
        return {self.course.points.get(ours, -1) for ours in self.given if ours.rpartition(".")[2] not in hidden}

    def look_at_maps(self) -> None:
        """Compare the large maps of attention weights that lead to the first difference: one may be the first."""
        if self.first is None or not self.first.startswith("trace/"):
            return
        after = self._place(self.first)
        place = after.rpartition(".")[0]
        for name, names in named_points(self.rebuilt, self.maps).items():
            ours = next((o for o in names if o.rpartition(".")[0] in (place, after)), None)
            step = None if ours is None else self.step_of(ours)
            if ours is None or step is None:
                continue
            made = self.partly(Part(self.course.steps, self.course.needed([step]), self.dtype), ours)
            theirs = self.case.trace[name]
            made = None if made is None else to_host(made)
            if made is not None and not self.agrees(close := closeness(spread(made, theirs), theirs)):
                key = f"trace/{name}"
                self.points[name], self.stands_for[ours] = ours, after
                self.closeness[key], self.ours[key] = close, made
                expected = dict(self.expected)
                self.expected.clear()
                for other, array in expected.items():
                    if other == self.first:
                        self.expected[key] = theirs
                    self.expected[other] = array
                self.ours.pop(self.first, None)
                self.first = key
                return

    def step_of(self, ours: str) -> int | None:
        """The step that makes a point; of a map of attention weights the attention that has them."""
        if (step := self.course.points.get(ours, -1)) >= 0:
            return step
        place = ours.rpartition(".")[0]
        found = (i for i, s in enumerate(self.course.steps) if s.op == "attention" and s.place == place)
        return next(found, None)

    def _compare(self, traced: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self.numbers = {ours: number for number, ours in enumerate(traced)}
        self._settle(list(traced))
        self.ours = self.named({}, outputs)
        for name, array in self.ours.items():
            self.closeness[name] = closeness(array, self.expected[name])
            if self.first is None and not self.agrees(self.closeness[name]) and self.points:
                self.first = name
        if self.first is not None and self._first_ours is not None:
            self.ours = {self.first: np.array(self._first_ours), **self.ours}

    def errors(self, ours: Arrays) -> dict[str, float]:
        """The error of every compared array, as the run has found it."""
        if ours is self.ours:
            return {name: self.closeness[name].error for name in self.expected}
        return super().errors(ours)

    def closely(
        self,
        chosen: Sequence[Candidate],
        begin: int = 0,
        end: str | None = None,
        *,
        hidden: Collection[str] = (),
    ) -> tuple[str | None, Arrays]:
        """Run with deviations, from one point to the next: (the first point that is apart, {}) or (None, outputs).

        Points that are made before step `begin` are taken as they are in the case, `hidden` ones are left as they are.
        With `end`, one of our points, the run ends there, and all points before are right.
        """
        steps = self.course.steps
        needed = self.course.needed(range(begin, len(steps)), self.replaced(hidden))
        part = Part(steps, needed, self.dtype, begin)
        chosen = [replace(c, here=partial(_both, part.begun, c.here)) for c in chosen] if begin else chosen

        def forced(ours: str, value: Any) -> Any:
            if ours == end:
                raise FoundError(None)
            if ours.rpartition(".")[2] in hidden:
                return value
            if self.course.points.get(ours, -1) >= begin:
                mine = array_of(value)
                given = self.given.get(ours)
                names = self.peers[ours][: 1 if given is not None else None]
                for name in names:
                    theirs = self._beside(mine, self.case.trace[name]) if given is None else given
                    if not self.agrees(closeness(spread(mine, theirs), theirs)):
                        raise FoundError(name)
            return self.given.get(ours, value)

        try:
            with (
                part.running(),
                deviating(chosen, self.rebuilt.model, self.params) as (model, params),
                trace(frozenset()),
                _at_points(self.peers, forced),
                np.errstate(all="ignore"),
            ):
                outputs = self.run(params, self.inputs, model)
        except FoundError as found:
            return found.value, {}
        return None, {f"output/{n}": tamed(to_host(outputs[n])) for n in self.case.outputs if n in outputs}

    def ending(self, part: Part, *chosen: Candidate, model: Any = None, params: Any = None) -> Arrays | None:
        """The outputs, where deviations are made in a part at the end of the run alone; None where they do not fit.

        `model` and `params`: another model than the case's own, of which this is a part.
        """
        here = [replace(c, here=partial(_both, part.begun, c.here)) for c in chosen]
        try:
            with (
                part.running(),
                deviating(here, model or self.rebuilt.model, params or self.params) as (model, params),
                trace(frozenset()),
                np.errstate(all="ignore"),
            ):
                return self.named({}, self.run(params, self.inputs, model))
        except CANNOT_BE_RUN:
            return None

    def deviating(self, chosen: Sequence[Candidate], gate: Mapping[str, float] | None = None) -> Arrays | None:
        """As of `Subject`; what the last of these made is kept."""
        key = (tuple(chosen), tuple((gate or {}).items()))
        if self._last is None or self._last[0] != key:
            self._last = (key, super().deviating(chosen, gate))
        return self._last[1]

    def partly(self, part: Part, target: str, chosen: Sequence[Candidate] = (), hidden: set[str] | None = None) -> Any:
        """What a part of the run, with deviations, makes of `target`, one of our points or "output/<name>", from the
        case's own values, where it was computed; None where a deviation does not fit.

        With `hidden` points of the same layer stay as the deviation makes them where they are apart from the case's,
        and the last part of their names is added to it.
        """
        layer = layer_of(target)

        def reached(ours: str, value: Any) -> Any:
            if ours == target:
                raise FoundError(array_of(value))
            return np.zeros(())

        def forced(ours: str, value: Any) -> Any:
            given = self.given.get(ours)
            if given is None:
                return value
            if hidden is None or layer_of(ours) != layer:
                return given
            if self.agrees(closeness(array_of(value), given)):
                return given
            hidden.add(ours.rpartition(".")[2])
            return value

        limit = self.numbers.get(self.stands_for.get(target, target), len(self.numbers))
        before = {ours for ours, number in self.numbers.items() if number < limit}
        try:
            with (
                part.running(),
                deviating(chosen, self.rebuilt.model, self.params) as (model, params),
                trace(frozenset((target,)), kept=reached),
                _at_points(before, forced),
                np.errstate(all="ignore"),
            ):
                outputs = self.run(params, self.inputs, model)
        except FoundError as found:
            return found.value
        except CANNOT_BE_RUN:
            return None
        return outputs.get(target.removeprefix("output/"))


def _both(begun: Callable[[], bool], here: Callable[[], bool] | None) -> bool:
    """Where a deviation is made of which only a part of the model is run."""
    return begun() and (here is None or here())


def _at_points(names: Collection[str], forced: Callable[[str, Any], Any]) -> Any:
    """Within this context, `forced(name, value)` in place of the value of each of these points, where it is first."""
    done: set[str] = set()

    def point(original: Any, name: str, value: Any) -> Any:
        value = original(name, value)
        place = where()
        full = f"{place}.{name}" if place and name else place or name
        if full not in names or full in done:
            return value
        done.add(full)
        return forced(full, value)

    return exchanged_steps({"point": point})
