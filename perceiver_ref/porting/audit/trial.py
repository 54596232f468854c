"""What every known deviation does to one case: the difference that each makes, in units of the case's tolerances."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...autograd.handlers import handle
from ...host.progress import steps
from ..cases import Case
from ..cases.compare import gradient_tolerance, largest_of
from ..deviations import Candidate, candidates
from ..gradients.backward import ROWS, Wrong, flows, padding, scaled, shared
from ..gradients.diagnose import has_gradients
from ..gradients.graph import Graph, record
from ..gradients.target import Target
from ..rounding.arithmetic import DIGITS
from ..subject import Arrays, Subject
from ..tolerances import tolerances
from .once import once

PLAINLY = 100.0
"""A case tells a deviation apart that makes a difference of more than so many of its tolerances."""
NARROW = "dtype"
"""The cause whose variants are parts in less precision."""
OF_FLOAT32 = 1.0
"""As `PLAINLY`, for a part in float32 of what is otherwise float64: its rounding is 600 tolerances of an output at
most, 6 of a gradient, and a check fails at one."""
_ELEMENTS = 64
"""Of each array so many, evenly spread, are kept to tell deviations from each other."""

_NONE = np.zeros((0, 0, 0))

Key = tuple[str, str]
"""Cause and variant."""
Wanted = Callable[[Key], bool]


class Trial(NamedTuple):
    """One deviation on one case.

    `tolerances` is the largest difference of an array, in its tolerances; infinite for another shape, and for what is
    not finite. `touched` tells whether anything was computed otherwise: no deviation of what a case has not got does.
    `marks`: differences of some elements in tolerances, by which two deviations are told from each other.
    """

    key: Key
    tolerances: float
    touched: bool
    marks: np.ndarray

    @property
    def told(self) -> bool:
        """Whether the case tells it apart."""
        return self.tolerances > enough(self.key)


def enough(key: Key) -> float:
    """The tolerances beyond which a deviation is told apart."""
    return OF_FLOAT32 if key[0] in (NARROW, "gradient-dtype") and "float32" in key[1] else PLAINLY


class Clock:
    """The time that a case may take; `skipped` counts the deviations that were left out when it was over."""

    def __init__(self, seconds: float | None = None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds
        self.skipped: list[Key] = []

    def over(self, key: Key) -> bool:
        """Whether there is no time for this one."""
        if self.end is None or time.monotonic() < self.end:
            return False
        self.skipped.append(key)
        return True


class CaseUnderAudit:
    """A case rebuilt once for all deviations of its outputs (`forward`) and of its gradients (`backward`)."""

    def __init__(self, case: Case, *, gradients: bool = True) -> None:
        self.case = replace(case, trace={})
        self.gradients = gradients
        with once():
            self.subject = Subject(self.case)
        self.dtype: str = case.meta["dtype"]

    def forward(self, wanted: Wanted, clock: Clock) -> Iterator[Trial]:
        """Every deviation of the table that the case's model could have, on its outputs."""
        subject, limit = self.subject, tolerances(self.case)["output"]
        ours = {name: array for name, array in subject.ours.items() if name.startswith("output/")}
        units = {name: limit * max(_largest(array), 1.0) for name, array in ours.items()}
        ruler = Ruler(ours, units)
        finer = tuple(f" in {name}" for name, n in DIGITS.items() if n >= DIGITS.get(self.dtype, 53))
        seen: dict[Key, bool] = {}
        for candidate in steps(candidates(subject.survey), "deviation"):
            key = (candidate.cause, candidate.variant)
            if seen.get(key) or not wanted(key) or clock.over(key):
                continue
            if key[0] == NARROW and any(name in key[1] for name in finer):
                continue  # as precise as the case is
            computed, made = self._deviated(candidate)
            if made is None:
                continue
            found = ruler.trial(key, computed, {n: made.get(n, _NONE) for n in ours if made.get(n) is not ours[n]})
            seen[key] = touched = computed or found.tolerances > 0
            yield found._replace(touched=touched)

    def _deviated(self, candidate: Candidate) -> tuple[bool, Arrays | None]:
        """Whether an op was computed anew, and the outputs."""
        count = 0

        def counted(op: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
            nonlocal count
            count += 1
            return op(*arguments, **options)

        with handle(counted):
            made = self.subject.deviating((candidate,))
        return count > 0, made

    def backward(self, wanted: Wanted, clock: Clock) -> Iterator[Trial]:
        """Every wrong backward rule, and every gradient that stops, on its gradients."""
        if not self.gradients or not has_gradients(self.subject):
            return
        subject = self.subject
        cotangents = {name: np.asarray(c, np.float64) for name, c in self.case.cotangents.items()}
        with np.errstate(all="ignore"):
            graph = record(subject.run, subject.params, subject.inputs, cotangents)
            target = Target(subject, graph, dict)
            limit, scale = tolerances(self.case)["gradient"], largest_of(target.named, cotangents)
            units = {
                name: gradient_tolerance(limit, self.dtype, a, a, scale) * max(_largest(a), 1.0)
                for name, a in target.named.items()
            }
            ruler = Ruler(target.named, units)
            seen: set[Key] = set()
            for wrong in steps(list(wrongs(graph)), "wrong backward"):
                key = (wrong.cause, wrong.variant)
                if key in seen or not wanted(key) or clock.over(key):
                    continue
                try:
                    made = target.changed(graph.again(wrong.changes))
                except (ValueError, TypeError, IndexError):  # the rule does not fit the shapes here
                    continue
                seen.add(key)
                yield ruler.trial(key, True, made)


def wrongs(graph: Graph) -> Iterator[Wrong]:
    """Every wrong backward pass of the table; of gradients on their way those that stop."""
    tokens = {int(t) for _, s in graph.steps if s.op.name == "take" for t in np.unique(s.residuals[0])}
    for row in (*ROWS, *padding(sorted(tokens))):
        yield from row.candidates(graph)
    yield from shared(graph)
    for flow in flows(graph):
        yield Wrong("gradient-stopped", flow.variant, flow.places, scaled(flow.places, 0.0))


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) if array.dtype.kind == "f" else 1.0


class Ruler:
    """Measures arrays against those of the reference: `units` has what one tolerance of each is."""

    def __init__(self, ours: Mapping[str, np.ndarray], units: Mapping[str, float]) -> None:
        self.ours = {name: array.astype(np.float64) for name, array in ours.items()}
        self.units = units
        self.finite = {name: bool(np.isfinite(array).all()) for name, array in self.ours.items()}
        self.places = {name: _some(array.size) for name, array in ours.items()}
        self.none = {name: np.zeros(len(places)) for name, places in self.places.items()}

    def trial(self, key: Key, touched: bool, made: Mapping[str, np.ndarray]) -> Trial:
        """What these arrays are away from the reference's; those that are not there are the same."""
        error, marks = 0.0, dict(self.none)
        for name, other in made.items():
            array = self.ours[name]
            if other.shape != array.shape:
                return Trial(key, float("inf"), touched, np.full(1, np.inf))
            with np.errstate(all="ignore"):
                apart = (other - array).reshape(-1) / self.units[name]
                if not self.finite[name]:
                    apart[(other == array).reshape(-1) | np.isnan(array).reshape(-1)] = 0.0
            if apart.size:
                largest = max(float(apart.max()), -float(apart.min()))
                error = max(error, largest) if np.isfinite(largest) else float("inf")
                marks[name] = apart[self.places[name]]
        every = np.concatenate(list(marks.values()))
        return Trial(key, error, touched, np.nan_to_num(every, nan=1e300, posinf=1e300, neginf=-1e300))


def _some(size: int) -> np.ndarray:
    """The places of the elements that are kept of an array."""
    return np.linspace(0, max(size - 1, 0), min(size, _ELEMENTS)).astype(int)
