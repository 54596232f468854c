"""A case under test: the reference rebuilt for it, run with and without deviations, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np

from ...autograd import backend as backends
from ...autograd import tree
from ...autograd.backend import is_array, to_host
from ...autograd.core import array_of
from ...autograd.observing import Event, observe
from ...errors import InputError
from ...models.call import Call
from ...models.tracing import trace, where
from ..cases import Case
from ..cases.compare import difference
from ..cases.execution import named_points, rebuild, spread, unknown_points
from ..deviations import Candidate, deviating, survey
from ..deviations.base import Paths
from ..exchange import exchanged_steps
from ..patterns import patterns
from ..tolerances import tolerances
from .memo import Memo

Arrays = dict[str, np.ndarray]
_HUGE = 1e30  # a mask's "minus infinity", which each dtype has its own of
_LOWEST = 65504.0  # that of float16, which no other number of a mask comes to by chance
_LARGE = 6e4

CANNOT_BE_RUN = (ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError)
"""What a deviation raises in a model that it does not fit."""


class _GivenUpError(Exception):
    """A run that need not go on: a point is wrong."""


class _ReachedError(Exception):
    """A run that need not go on: all points asked for are right."""


class Subject:
    """`expected` are the case's arrays by "trace/<name>", in the order in which the reference computes them, and then
    "output/<name>"; `compute` gives the reference's under the same names.

    The model runs on `backend`, where parameters, inputs and all between them are; what is compared is on the host.
    """

    is_large = False
    """Whether a run of the model takes so long that few are made"""

    def __init__(self, case: Case, backend: str = "numpy") -> None:
        """Raises `BackendError` where the backend cannot compute here, `InputError` for a case that cannot be run."""
        self.library = backends.module(backend)
        self.backend = backend
        self.case = case
        self.rebuilt, self.arrays = rebuild(case)
        self.dtype = self._dtype()
        """What the reference computes in"""
        self.params, self.state = self.load(self.arrays)
        self.inputs = {name: self._wide(array) for name, array in case.inputs.items()}
        named = named_points(self.rebuilt, case.trace)
        self.kept = {ours for names in named.values() for ours in names}
        self.memo = Memo()
        self._from_given = False
        """Whether a run from the case's own values has been kept"""
        traced, outputs = self._first_run(named)
        self.survey.stored, self.survey.model = self.arrays, self.rebuilt.model
        self.survey.bound = {binding.path: (binding.name, binding.view) for binding in self.rebuilt.bindings}
        order = list(traced)
        self.points = {
            n: next(o for o in names if o in traced) for n, names in named.items() if set(names) & set(order)
        }
        self.notes = self._unknown([name for name in case.trace if name not in self.points])
        """What is to be said of the case beside the verdict."""
        self.expected: Arrays = {}
        for name in sorted(self.points, key=lambda n: order.index(self.points[n])):
            self.expected[f"trace/{name}"] = case.trace[name]
        for name, array in case.outputs.items():
            if name not in outputs:
                raise InputError(f"the reference gives no output {name!r}; it gives {', '.join(outputs)}")
            self.expected[f"output/{name}"] = tamed(array)
        self._compare(traced, outputs)
        for name, wanted in self.expected.items():
            if name in self.ours and self.ours[name].shape != wanted.shape:
                fits = patterns(wanted, self.ours[name], tolerances(case)["output"])[0].said.partition(": ")[2]
                raise InputError(
                    f"{name} has shape {wanted.shape}, but the reference's has {self.ours[name].shape}: {fits}"
                )

    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def _unknown(self, names: Sequence[str]) -> list[str]:
        return unknown_points(names)

    def _first_run(self, named: Mapping[str, Sequence[str]]) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """What is traced, in its order, and the outputs; what ran is noted, and its results are kept."""
        for _, array in [*tree.leaves(self.params), *tree.leaves(self.inputs)]:
            self.memo.distinct(array)
        outputs: dict[str, Any] = {}
        with trace(self.kept) as traced, self.memo.recording(), np.errstate(all="ignore"):
            self.survey = survey(
                self.params, lambda: outputs.update(self.run(self.params, self.inputs)), traced.__len__
            )
        return traced, outputs

    def _compare(self, traced: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self.numbers = {ours: self.memo.number(array) for ours, array in traced.items()}
        """Of our traced points, in their order: the number that tells a run's array from another's"""
        self.ours = self.named(traced, outputs)
        """The reference's arrays, by the names of `expected`."""

    @cached_property
    def base(self) -> dict[str, float]:
        """The errors of our traced points without any deviation."""
        return {ours: self._error(f"trace/{n}", self.ours[f"trace/{n}"]) for n, ours in self.points.items()}

    def load(self, arrays: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
        """(parameters, running statistics) in the dtype that is computed in from the peer's arrays."""
        params, state = self.rebuilt.load(arrays, self.case.name)
        return tree.map(self._wide, params), tree.map(self._wide, state)

    def _wide(self, array: Any) -> Any:
        """An array of the case in the dtype and on the backend that is computed in."""
        return self.placed(array.astype(self.dtype) if array is not None and array.dtype.kind == "f" else array)

    def placed(self, array: Any) -> Any:
        """An array on the backend that is computed on; None stays."""
        return None if array is None else backends.to_backend(array, self.backend)

    def compute(self, params: Any = None, inputs: Any = None, model: Any = None) -> Arrays:
        """Traced points and outputs by the peer's names, as `expected` has them, in float64."""
        params, inputs = self.params if params is None else params, self.inputs if inputs is None else inputs
        with trace(self.kept) as traced, np.errstate(all="ignore"):
            outputs = self.run(params, inputs, model)
        return self.named(traced, outputs)

    def named(self, traced: Mapping[str, Any], outputs: Mapping[str, Any]) -> Arrays:
        """Our points' values and outputs by the names of `expected`."""
        made: Arrays = {}
        for name, ours in self.points.items():
            if ours in traced:
                made[f"trace/{name}"] = spread(to_host(traced[ours]), self.case.trace[name])
        for name in self.case.outputs:
            if name in outputs:
                made[f"output/{name}"] = tamed(to_host(outputs[name]))
        return made

    def deviating(self, chosen: Sequence[Candidate], gate: Mapping[str, float] | None = None) -> Arrays | None:
        """The same with deviations; None where they cannot be applied, or leave more at a point than `gate` allows."""
        try:
            return self._deviated(chosen, gate or {})
        except (_GivenUpError, *CANNOT_BE_RUN):
            return None

    def reaches(self, candidate: Candidate, gate: Mapping[str, float]) -> bool:
        """Whether a deviation leaves no more at any of these points than `gate` allows."""
        try:
            self._deviated((candidate,), gate, stop=True)
        except _ReachedError:
            return True
        except (_GivenUpError, *CANNOT_BE_RUN):
            pass
        return False

    def _deviated(self, chosen: Sequence[Candidate], gate: Mapping[str, float], *, stop: bool = False) -> Arrays:
        deviated = deviating(chosen, self.rebuilt.model, self.params)
        with self.memo.replaying(), deviated as (model, params), self._gated(gate, stop=stop):
            return self.compute(params, model=model)

    def from_given(self, chosen: Sequence[Candidate], limit: tuple[str, float] | None = None) -> Arrays | None:
        """As `deviating`, but from each traced point the run goes on with the case's own value there, so that an array
        has only the error of what lies between it and the points before. `limit`: a compared array, and the error that
        it may have at most."""
        gate = limit if limit is not None and limit[0].startswith("trace/") else None
        own = self.points[gate[0].removeprefix("trace/")] if gate else ""
        seen: dict[str, int] = {}

        def point(original: Any, name: str, value: Any) -> Any:
            value, place = original(name, value), where()
            full = f"{place}.{name}" if place and name else place or name
            times = seen[full] = seen.get(full, -1) + 1
            given = self.given.get(f"{full}@{times}" if times else full)
            if gate and full == own and not times:
                error = self._error(gate[0], spread(to_host(array_of(value)), self.expected[gate[0]]))
                if not error <= gate[1]:
                    raise _GivenUpError
            return value if given is None or given.shape != value.shape else given

        deviated = deviating(chosen, self.rebuilt.model, self.params)
        kept = self.memo.replaying() if self._from_given else self.memo.recording()
        self._from_given = True
        try:
            with kept, deviated as (model, params), exchanged_steps({"point": point}):
                return self.compute(params, model=model)
        except (_GivenUpError, *CANNOT_BE_RUN):
            return None

    @cached_property
    def given(self) -> dict[str, Any]:
        """The case's values, by our names of the points, where they are not the reference's own."""
        errors = self.errors(self.ours)
        found = {
            ours: self.placed(self.case.trace[name].astype(self.dtype))
            for name, ours in self.points.items()
            if errors[f"trace/{name}"] > 1e-12
        }
        for array in found.values():
            self.memo.distinct(array)
        return found

    def inputs_of(self, name: str) -> Arrays:
        """What the ops between a compared array ("trace/..." or "output/...") and the traced point before it are given
        from outside: by number and op, without parameters."""
        order, path = list(self.numbers), Paths(self.params)
        ours = self.points.get(name.removeprefix("trace/"))
        before = order.index(ours) if ours in order else len(order)
        made: Arrays = {}
        known: dict[int, Any] = {}
        """Every array seen, kept so that its identity stays its own"""

        def watch(event: Event) -> None:
            for argument in event.arguments if len(traced) == before else ():
                if is_array(argument) and id(argument) not in known and not path(argument):
                    made[f"operation/{len(made)}.{event.op.name}"] = to_host(argument)
                    known[id(argument)] = argument
            if len(traced) == before:
                known.update((id(array), array) for array in event.outputs)

        with trace(self.kept) as traced, observe(watch), np.errstate(all="ignore"):
            self.run(self.params, self.inputs)
        return made

    def errors(self, ours: Arrays) -> dict[str, float]:
        """The error of every compared array, in the order of `expected`."""
        return {name: self._error(name, ours[name]) if name in ours else float("inf") for name in self.expected}

    def _error(self, name: str, made: np.ndarray) -> float:
        """How far the array under test is from one that was made, in units of the reference's without deviations."""
        return difference(self.expected[name], made, self.ours.get(name))

    def run(self, params: Any, inputs: Any, model: Any = None) -> dict[str, Any]:
        """Outputs by the peer's names, on arrays or `Tensor`s; of the class's own model, or of another."""
        call = Call(training=bool(self.case.meta["call"].get("is_training", False)), state=self.state)
        return self.rebuilt.run(model or self.rebuilt.model, params, dict(inputs), self.case.meta["call"], call)

    def _gated(self, gate: Mapping[str, float], *, stop: bool = False) -> Any:
        """Give up at the first point whose error is above its limit; `stop` after all of them, if right."""
        limits = {
            self.points[name.removeprefix("trace/")]: (name, limit)
            for name, limit in gate.items()
            if name.startswith("trace/")
        }
        if not limits:
            return nullcontext()

        def point(original: Any, name: str, value: Any) -> Any:
            value = original(name, value)
            place = where()
            full = f"{place}.{name}" if place and name else place or name
            if full in limits:
                known, limit = limits.pop(full)
                if self.memo.number(array_of(value)) == self.numbers[full]:
                    error = self.base[full]
                else:
                    error = self._error(known, spread(to_host(value), self.expected[known]))
                if not error <= limit:
                    raise _GivenUpError
                if stop and not limits:
                    raise _ReachedError
            return value

        return exchanged_steps({"point": point})


def tamed(array: np.ndarray) -> np.ndarray:
    """A mask to be added holds each dtype's own lowest number: any that is as good as infinite is one."""
    if array.dtype.kind != "f" or not array.size:
        return array
    largest = float(np.abs(array).max())
    if not (largest >= min(_HUGE, float(np.finfo(array.dtype).max)) or largest == _LOWEST):
        return array
    made: np.ndarray = np.clip(array, -_LARGE, _LARGE)
    return made
