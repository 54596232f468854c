"""Many runs with deviations in one: the batch is repeated, and each copy of it deviates by itself.

A run of a small model is Python's time, not arithmetic's: many copies of its batch cost little more than one. Ops run
once for all copies; where a deviation changes one, it is computed again for the rows of that copy. Rows are told by
their axis, whose length a prime number of copies divides as nothing else of the model's. Values without rows, such as
changed parameters, are kept beside the common ones until they meet rows.

Results are for choosing what to run by itself: sums over more rows may round otherwise, and what cannot be told here
is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import is_array
from ...autograd.core import Op, array_of
from ...autograd.handlers import handle
from ...autograd.observing import Event, observe
from ...models.tracing import trace, tracing
from ..deviations import Candidate, deviating
from ..exchange import exchanged_steps
from .subject import CANNOT_BE_RUN, Arrays, Subject, tamed
from .tile import Points, Tile

COPIES = (61, 59, 53, 47, 43, 41, 37, 31, 29, 23, 19, 17)
"""Numbers of copies, of which the first that fits is taken"""
NUMBERS = 1 << 22
"""So many numbers all ops of a run make at most"""
_OTHER = 1.25
"""The numbers of one copy are so many times those of the others, to see that it is by itself."""
_SAME = 1e-9
"""Copies that nothing deviates in agree within this part of the values: float64's rounding, in another order."""


class Tiles:
    """`run` gives the outputs with `first` and each of `others` beside; it needs `usable`."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.copies = 0 if subject.backend != "numpy" or subject.is_large else self._number()
        self.inputs = {} if not self.copies else self._tiled()
        classes = {cls for module in subject.survey.modules for cls in type(module).__mro__}
        self.methods = {method for cls in classes for method in vars(cls).values() if callable(method)}
        """Those of the model's parts"""
        self.usable = bool(self.copies) and self._agrees()

    def run(
        self, first: Sequence[Candidate], others: Sequence[Candidate], given: Mapping[str, Any] | None = None
    ) -> list[Arrays | None]:
        """Of each other the outputs, by the names of `expected`; None where they cannot be told.

        With `given`, values by our names of points, the traced points too, and the run goes on from these values
        (`Subject.from_given`).
        """
        made: list[Arrays | None] = []
        for start in range(0, len(others), self.most):
            made += self._of_one_tile(first, others[start : start + self.most], given)
        return made

    @property
    def most(self) -> int:
        """So many others are run at once, beside a copy in which `first` is alone."""
        return self.copies - 1

    def _of_one_tile(
        self, first: Sequence[Candidate], others: Sequence[Candidate], given: Mapping[str, Any] | None
    ) -> list[Arrays | None]:
        points = Points(frozenset() if given is None else self.subject.kept, given or {})
        tile = Tile(self.copies, others, self.methods, points)
        tile.around = {
            k for c in first if c.change.parts is not None for k in c.change.parts() if not isinstance(k, str)
        }
        points.tile = tile
        try:
            outputs = self._outputs((*first, tile.candidate), points)
            tile.failed.update(*tile.waiting.values())
            return [self._of_copy(i, tile, points, outputs) for i in range(len(others))]
        except CANNOT_BE_RUN:
            return [None] * len(others)
        finally:
            tile.forget()

    def _of_copy(self, i: int, tile: Tile, points: Points, outputs: Arrays) -> Arrays | None:
        """What one copy has, in arrays of its own."""
        if i in tile.failed or (i not in tile.reached and tile.others[i].change.ops is None):
            return None
        own = {name: self._block(array, i) for name, array in outputs.items()}
        return {name: np.array(array) for name, array in self.subject.named(points.of(i), own).items()}

    def _outputs(self, chosen: Sequence[Candidate], points: Points, inputs: Mapping[str, Any] | None = None) -> Arrays:
        subject = self.subject
        with (
            deviating(chosen, subject.rebuilt.model, subject.params) as (model, params),
            tracing(points),
            exchanged_steps({"point": points.passed}) if points.given else nullcontext(),
            np.errstate(all="ignore"),
        ):
            outputs = subject.run(params, inputs or self.inputs, model)
        return {name: array_of(outputs[name]) for name in subject.case.outputs}

    def _block(self, array: np.ndarray, i: int) -> np.ndarray:
        rows = len(array) // self.copies
        return array[i * rows : (i + 1) * rows]

    def _number(self) -> int:
        """How many copies: a prime that divides no length, of arrays or asked for. 0: none fits."""
        known: set[int] = set()
        size = 0

        def watch(event: Event) -> None:
            nonlocal size
            for array in (*event.arguments, *event.outputs):
                known.update(getattr(array, "shape", ()))
            known.update(_integers(event.options))
            known.update(_integers(event.arguments))
            size += sum(array.size for array in event.outputs if is_array(array))

        subject = self.subject
        with observe(watch), trace(lambda name: False), np.errstate(all="ignore"):
            subject.run(subject.params, subject.inputs)
        for array in (*subject.inputs.values(), *(array for _, array in tree.leaves(subject.params))):
            known.update(array.shape)
        fit = (n for n in COPIES if n * size <= NUMBERS and not any(k and k % n == 0 for k in known))
        return next(fit, 0)

    def _tiled(self) -> dict[str, Any]:
        """The inputs, of which all with the outputs' number of examples are taken to have a row for each."""
        lengths = {array.shape[:1] for array in self.subject.case.outputs.values()}
        return {
            name: np.concatenate([array] * self.copies) if array.shape[:1] in lengths and array.ndim else array
            for name, array in self.subject.inputs.items()
        }

    def _another(self) -> dict[str, Any]:
        """The inputs of one copy with other numbers."""
        return {
            name: array
            if self.inputs[name] is array
            else array * _OTHER
            if array.dtype.kind == "f"
            else np.roll(array, 1, -1)
            for name, array in self.subject.inputs.items()
        }

    def _agrees(self) -> bool:
        """Whether each copy gives what the model gives, one of other inputs, too, and every op of it for that one's
        rows alone."""
        ours = {n.removeprefix("output/"): a for n, a in self.subject.ours.items() if n.startswith("output/")}
        if not ours or any(not array.ndim or not array.size for array in ours.values()):
            return False
        points = Points(frozenset(), {})
        tile, right, another = Tile(self.copies, (), (), points), True, self._another()
        inputs = {name: np.array(array) for name, array in self.inputs.items()}
        for name, array in another.items():
            if self.inputs[name] is not self.subject.inputs[name]:
                self._block(inputs[name], 1)[...] = array

        def checked(op: Op, arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
            nonlocal right
            out = op(*arguments, **static)
            if tile.alone is None and right:
                with tile.only(1):
                    own = op(*tile.mine(1, arguments), **tile.mine(1, static))
                right = _alike(own, tile.mine(1, out))
            return out

        try:
            with handle(checked):
                outputs = self._outputs((), points, inputs)
            with np.errstate(all="ignore"):
                other = self.subject.run(self.subject.params, another)
        except CANNOT_BE_RUN:
            return False
        return right and all(
            len(outputs[name]) == len(array) * self.copies
            and not _apart(self._block(outputs[name], 1), array_of(other[name]))
            and all(not _apart(tamed(self._block(outputs[name], i)), array) for i in (0, self.copies - 1))
            for name, array in ours.items()
        )


def _integers(value: Any) -> Iterator[int]:
    if type(value) is int:
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _integers(part)
    elif isinstance(value, dict):
        yield from _integers(list(value.values()))


def _apart(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays differ by more than rounding."""
    if one.shape != other.shape:
        return True
    if one.dtype.kind != "f":
        return not np.array_equal(one, other)
    size = float(np.abs(other[np.isfinite(other)]).max(initial=0.0))
    return not np.allclose(one, other, rtol=0.0, atol=_SAME * max(size, 1e-300), equal_nan=True)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(_alike, one, other))
    return not _apart(array_of(one), array_of(other))
