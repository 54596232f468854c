"""What a run of the reference did, op by op, so that a part of it can be run again alone, on the case's own values.

Only what leads to a point is computed again: what comes before is taken from the traced points of the case, whatever
else ran gives an array of the right shape without any numbers. Of large arrays whose rows do not depend on each other
(queries of attention, rows of linear maps and norms) a few rows are computed, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from ...autograd.backend import is_array, xp
from ...autograd.core import Op, array_of
from ...autograd.handlers import handle
from ...models.tracing import where
from .memo import Run

ROWS = 48
"""So many rows are looked at of those that do not depend on each other."""
MANY = 1024
"""Of fewer rows all are computed, unless they attend to many."""
HEAVY = 1 << 20
"""Attention with more logits than this is computed for a few queries."""
NEWEST = 96
"""Of so many steps, at the end, the results are kept: those of two layers and more"""
_ELEMENTWISE = frozenset(("add", "multiply", "subtract", "divide"))
_ACTIVATIONS = ("gelu_erf", "gelu_tanh", "relu", "silu", "squared_relu")
_BY_ROWS = _ELEMENTWISE | {"linear", "layer_norm", "rms_norm", *_ACTIVATIONS}
_CUT_AS = {"attention_weights": "attention"}
_MOVING = frozenset(("reshape", "transpose"))


class Step(NamedTuple):
    """An op as it ran. `sources`: the steps that made its arguments, in their order, and -1 for any other; `shapes`,
    dtypes and libraries of its results, `several` if they are a tuple; `passed`: the points traced before it."""

    op: str
    place: str
    sources: tuple[int, ...]
    shapes: tuple[tuple[tuple[int, ...], Any, ModuleType], ...]
    several: bool
    passed: int


@dataclass
class Course:
    """`recording` notes what runs; `points` has of each of our points the step that made it, or -1."""

    steps: list[Step] = field(default_factory=list)
    points: dict[str, int] = field(default_factory=dict)
    newest: dict[int, Any] = field(default_factory=dict)
    """Of the last steps what they made"""
    _known: dict[int, tuple[ref[Any], int]] = field(default_factory=dict)

    @contextmanager
    def recording(self, passed: Callable[[], int]) -> Iterator[None]:
        """Within this context ops are noted; `passed` tells the number of points traced so far."""

        def run(op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
            sources = tuple(self.source(a) for a in _flat(arguments))
            out = op(*arguments, **static)
            made = out if isinstance(out, tuple) else (out,)
            shapes = tuple((tuple(a.shape), a.dtype, xp(a)) for a in made)
            for array in made:
                self._note(array, len(self.steps))
            self.newest[len(self.steps)] = out
            self.newest.pop(len(self.steps) - NEWEST, None)
            self.steps.append(Step(op.name, where(), sources, shapes, isinstance(out, tuple), passed()))
            return out

        with handle(run):
            yield
        self._known = {}

    @property
    def size(self) -> int:
        """Bytes of all that the steps made."""
        return sum(int(np.prod(shape)) * np.dtype(d).itemsize for step in self.steps for shape, d, _ in step.shapes)

    def source(self, value: Any) -> int:
        """The step that made an array; -1 for any other value."""
        value = array_of(value)
        found = self._known.get(id(value))
        return found[1] if found is not None and found[0]() is value else -1

    def point(self, name: str, value: Any) -> None:
        """Note which step made the value of a point."""
        self.points.setdefault(name, self.source(value))

    def replaced(self, given: Any) -> None:
        """Note that an array comes from outside, whatever had its identity before."""
        self._known.pop(id(given), None)

    def _note(self, array: Any, number: int) -> None:
        if is_array(array):
            self._known[id(array)] = (ref(array), number)

    def needed(self, chosen: Iterable[int], given: Collection[int] = ()) -> set[int]:
        """These steps, and those that they depend on, without what lies behind the results of the `given` steps."""
        found = set(chosen)
        waiting = list(found)
        while waiting:
            for source in self.steps[waiting.pop()].sources:
                if source >= 0 and source not in found and source not in given:
                    found.add(source)
                    waiting.append(source)
        return found

    def sampled(self, end: int, begin: int = 0) -> tuple[set[str], int]:
        """The ops, from step `begin` on, of which a few rows are enough for what step `end` makes, and the number of
        all rows."""
        shape = self.steps[end].shapes[0][0]
        rows = shape[-2] if len(shape) > 1 else 0
        few, all_of, chosen = {end}, set[int](), set[str]()
        for i in range(end, -1, -1):
            if i not in few and i not in all_of:
                continue
            step = self.steps[i]
            made = step.shapes[0][0]
            by_rows = i in few and i not in all_of and not step.several
            aligned = by_rows and len(made) > 1 and made[-2] == rows
            inner = [s for s in step.sources if s >= 0]
            if aligned and step.op in _BY_ROWS:
                few.update(inner)
                chosen.add(step.op)
            elif aligned and step.op == "attention":
                few.update(s for s in step.sources[:1] if s >= 0)
                all_of.update(s for s in step.sources[1:] if s >= 0)
                chosen.add(step.op)
            elif by_rows and step.op in _MOVING and rows in made:
                few.update(inner)
            else:
                all_of.update(inner)
        full = {self.steps[i].op for i in all_of if i >= begin and rows in self.steps[i].shapes[0][0]}
        return chosen - full, rows


def rows_of(apart: np.ndarray) -> np.ndarray:
    """The rows of a difference (..., N, C) that are looked at: those where it is largest, and some from all over."""
    count = apart.shape[-2]
    each = np.square(apart).sum(-1).reshape(-1, count).max(0)
    largest = np.argsort(each)[::-1][: ROWS // 2]
    return np.unique([*largest, *np.linspace(0, count - 1, min(ROWS // 2, count)).astype(int)])


@dataclass
class Part:
    """A run of which steps in `needed` are computed, in `dtype`; up to where it runs otherwise, from where on all are.

    `few`: ops that are computed for the rows `chosen` of `rows` alone, where these are many.
    """

    steps: Sequence[Step]
    needed: set[int]
    dtype: Any
    begin: int = 0
    few: Collection[str] = ()
    rows: int = 0
    chosen: Any = None
    wide: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    """Arrays in `dtype`, kept for the next run"""
    known: Mapping[int, Any] = field(default_factory=dict)
    """What steps before `begin` made, where that is known"""
    kept: Callable[[Op, tuple[Any, ...], dict[str, Any], Run], Any] | None = None
    """What computes an op, given what does so otherwise: `Memo.record` or `once`"""
    number: int = -1
    """Of the newest step"""
    maps: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """Maps of attention weights of the last run, whose rows that are not looked at are zero: the next run fills them"""

    def begun(self) -> bool:
        """Whether the next step is one of those from where on all are computed."""
        return self.number + 1 >= self.begin

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this context the model runs as this part."""
        self.number, in_step = -1, True
        self._free = dict(self.maps)

        def run(op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
            nonlocal in_step
            self.number += 1
            if in_step and self.number < len(self.steps):
                step = self.steps[self.number]
                in_step = step.op == op.name and (self.number < self.begin or step.place == where())
                if in_step and self.number not in self.needed:
                    return self._dummy(step)
            if self.kept is not None and op.name != "attention_weights":
                return self.kept(op, arguments, static, self._computed)
            return self._computed(op, arguments, static)

        with handle(run):
            yield

    def _dummy(self, step: Step) -> Any:
        if self.number in self.known:
            return self.known[self.number]
        made = tuple(
            library.broadcast_to(library.zeros((), self._dtype(dtype)), shape) for shape, dtype, library in step.shapes
        )
        return made if step.several else made[0]

    def _dtype(self, dtype: Any) -> Any:
        return self.dtype if np.dtype(dtype).kind == "f" else dtype

    def widened(self, value: Any) -> Any:
        """An argument in the dtype that is computed in."""
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.widened, value))
        data = array_of(value)
        if not is_array(data) or data.dtype.kind != "f" or data.dtype == self.dtype:
            return value
        if data.size < 2:
            return data.astype(self.dtype)
        known = self.wide.get(id(data))
        if known is None or known[0] is not data:
            known = self.wide[id(data)] = (data, data.astype(self.dtype))
        return known[1]

    def _computed(self, op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        arguments = tuple(map(self.widened, arguments))
        first: Any = array_of(arguments[0]) if arguments else None
        by_rows = _CUT_AS.get(op.name, op.name) in self.few
        if not by_rows or not is_array(first) or first.ndim < 2 or first.shape[-2] != self.rows:
            return op(*arguments, **static)
        if op.name in ("attention", "attention_weights"):
            keys = arguments[1].shape[-2]
            if first.size // first.shape[-1] * keys <= HEAVY:
                return op(*arguments, **static)
            return self._spread(op, (first, *arguments[1:]), self._cut(static), (0, 3))
        if self.rows < MANY:
            return op(*arguments, **static)
        return self._spread(op, arguments, static, range(len(arguments) if op.name in _ELEMENTWISE else 1))

    def _cut(self, static: dict[str, Any]) -> dict[str, Any]:
        mask = static.get("mask")
        if mask is None or mask.ndim < 2 or mask.shape[-2] != self.rows:
            return static
        return {**static, "mask": mask[..., self.chosen, :]}

    def _spread(self, op: Op, arguments: Sequence[Any], static: dict[str, Any], cut: Any) -> Any:
        """What the op gives for the rows that are looked at, with zeros in all others."""

        def part(i: int, value: Any) -> Any:
            data = array_of(value)
            if i in cut and is_array(data) and data.ndim > 1 and data.shape[-2] == self.rows:
                return data[..., self.chosen, :]
            return value

        made = op(*(part(i, a) for i, a in enumerate(arguments)), **static)
        shape = (*made.shape[:-2], self.rows, made.shape[-1])
        full = self._free.pop((shape, made.dtype), None) if op.name == "attention_weights" else None
        if full is None:
            full = xp(made).zeros(shape, made.dtype)
        if op.name == "attention_weights":
            self.maps[shape, made.dtype] = full
        full[..., self.chosen, :] = made
        return full


def _flat(arguments: Sequence[Any]) -> list[Any]:
    """Arguments, those of sequences too."""
    made: list[Any] = []
    for value in arguments:
        made += value if isinstance(value, (list, tuple)) else (value,)
    return made
