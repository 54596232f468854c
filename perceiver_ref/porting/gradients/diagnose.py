"""Whether a case's gradients are the reference's, and if not, whose backward is wrong: `diagnose` for gradients.

Outputs come first: where they are right, or explained by a deviation, gradients are compared with those of the
reference with that deviation. What is more than rounding is traced to the step whose backward rule is wrong (`search`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.backend import to_host
from ...autograd.modes import kernels
from ...errors import InputError
from ..cases import TOLERANCES
from ..cases.compare import gradient_tolerance, largest_of
from ..deviations import Candidate, deviating
from ..rounding.grid import is_nearest
from ..subject import CANNOT_BE_RUN, Cause, Subject
from ..subject.large import LargeSubject
from ..tolerances import tolerances
from .graph import Graph, record
from .large import LargeSearch
from .large_target import LargeTarget
from .rounding import FACTOR, GradientRoundings
from .search import GradientSearch, explanation
from .target import Target, gradients_of, largest
from .two import two_wrongs

_DTYPES = ("float32", "tf32", "float16", "bfloat16")
HEAVY = 1 << 30
"""Bytes of all arrays of a run, of which a graph does not keep all where there are more"""
_LESS = 0.1
"""Two wrong rules are named in place of one that explains enough where they leave this part of what it leaves."""


@dataclass
class GradientDiagnosis:
    """What was found. `error` is the largest of all gradients, `errors` those of each, by "grad_param/<name>" and
    "grad_input/<name>"; `expected_rounding` the largest that rounding would make, by dtype."""

    verdict: str
    """"match", "rounding", "deviation", "unexplained", or "not checked" """
    first_divergence: str | None = None
    """The traced point of the first step, on the way back, that sends a wrong gradient"""
    step: str | None = None
    """That step in words: through which argument of which op"""
    affected: list[str] = field(default_factory=list)
    """The peer's names of the wrong gradients"""
    explanation: list[Cause] = field(default_factory=list)
    others: list[list[Cause]] = field(default_factory=list)
    error: float = 0.0
    errors: dict[str, float] = field(default_factory=dict)
    roundings: dict[str, dict[str, float]] = field(default_factory=dict)
    """dtype -> what rounding would make of each gradient"""
    dtype: str | None = None
    ours: Mapping[str, np.ndarray] = field(default_factory=dict)
    theirs: Mapping[str, np.ndarray] = field(default_factory=dict)
    target: Target | None = None
    """What was compared, where the difference was traced"""
    begins: int | None = None
    """The number in its graph of the step of `first_divergence`, where it is one"""
    under: list[str] = field(default_factory=list)
    """Causes of the outputs' difference, with which the reference was run"""

    @property
    def causes(self) -> list[str]:
        """Ids of what explains the difference, the best first."""
        return [cause.cause for cause in self.explanation]

    @property
    def expected_rounding(self) -> dict[str, float]:
        """By dtype, the largest error that rounding makes."""
        return {dtype: largest(limits.values()) for dtype, limits in self.roundings.items()}


def has_gradients(subject: Subject) -> bool:
    """Whether a case has gradients to compare."""
    case = subject.case
    return bool(case.cotangents and gradients_of(case)) and bool(case.meta.get("compare_gradients", True))


def gradient_rounding(subject: Subject, dtype: str) -> dict[str, tuple[float, np.ndarray]]:
    """By "grad_param/<name>" and "grad_input/<name>", the largest error of a few runs in `dtype`, and the gradient in
    float64."""
    target = Target(subject, _graph(subject, ()), dict)
    limits = GradientRoundings(lambda near: _graph(subject, (), near), target.by_name, target.named).at(dtype)
    return {name: (limit / FACTOR, target.named[name]) for name, limit in limits.items()}


def diagnose_gradients(
    subject: Subject, chosen: Sequence[Candidate] = (), dtype: str | None = None, *, search: bool = True
) -> GradientDiagnosis:
    """Compare gradients, under the deviations that explain the outputs. `dtype`: whose rounding the outputs have.

    Without `search` a difference is not traced, but called unexplained.
    """
    under = [candidate.cause for candidate in chosen]
    if isinstance(subject, LargeSubject):
        subject.forget()
    back: _Back = dict
    if any(candidate.change.params is not None and not candidate.change.straight for candidate in chosen):
        found = _through(subject, chosen)
        if found is None:
            return GradientDiagnosis("not checked", under=under)
        back = found
    try:
        graph = _graph(subject, chosen)
        if subject.is_large and back is dict:
            return _large(LargeTarget(subject, graph), under, dtype, search=search)
        target = Target(subject, graph, back)
    except CANNOT_BE_RUN as error:
        if isinstance(error, InputError) and not chosen:
            raise
        return GradientDiagnosis("not checked", under=under)
    roundings = GradientRoundings(
        lambda near: _graph(subject, chosen, near), target.by_name, target.named, once=subject.is_large
    )
    made = GradientDiagnosis("match", errors=target.errors(), under=under, roundings=roundings.known)
    made.ours, made.theirs = target.named, target.expected
    made.error = largest(made.errors.values())
    given = subject.case.meta["dtype"]
    limit = tolerances(subject.case)["gradient"]
    limits = _limits(target, limit, given)
    if given == "float64" and dtype is None and all(e <= limits[name] for name, e in made.errors.items()):
        roundings.at("float32")
        return made
    if dtype is None and _are_nearest(target, given):
        return made
    noise = roundings.at(dtype or given) if dtype or given != "float64" else {}
    for name in dict.fromkeys((*([dtype] if dtype else []), *([given] if given != "float64" else []), "float32")):
        within = all(e <= roundings.at(name)[n] for n, e in made.errors.items())
        if within and (name in (dtype, given) or roundings.holds(name, made.errors)):
            made.verdict, made.dtype = "rounding", name
            return made
    if not search:
        made.verdict = "unexplained"
        return made
    _search(made, target, noise, limits)
    if made.verdict == "unexplained":
        for name in _DTYPES:
            if roundings.holds(name, made.errors):
                made.verdict, made.dtype, made.first_divergence, made.step = "rounding", name, None, None
                made.affected = []
                break
    return made


def _large(target: LargeTarget, under: list[str], dtype: str | None, *, search: bool) -> GradientDiagnosis:
    """As of others, with what `check` allows for rounding, which no run is made for."""
    given = target.subject.case.meta["dtype"]
    made = GradientDiagnosis("match", errors=target.errors(), under=under, affected=target.affected)
    made.error, made.roundings = largest(made.errors.values()), {given: target.limits}
    if target.is_right:
        if given != "float64" or dtype is not None:
            made.verdict, made.dtype = "rounding", dtype or given
        return made
    best, wrong = None, LargeSearch(target)
    if search:
        with np.errstate(all="ignore"):
            best = wrong.run()
        places = best.places if best else wrong.begins()
        made.first_divergence, made.step = wrong.where(places) if places else (None, None)
    made.verdict, made.explanation = "deviation" if best else "unexplained", explanation(best) if best else []
    made.ours = {name: ours for name, ours, _ in target.some()}
    made.theirs = {name: target.expected[name] for name in made.ours}
    return made


def _limits(target: Target, usual: float, dtype: str) -> dict[str, float]:
    """By name, what `check` holds each gradient to."""
    expected, named = target.expected, target.named
    scale = largest_of(expected, target.subject.case.cotangents)
    return {
        n: gradient_tolerance(usual, dtype, named[n], a, scale) if n in named else usual for n, a in expected.items()
    }


def _are_nearest(target: Target, dtype: str) -> bool:
    """Whether all gradients are the reference's, rounded once to `dtype` or closer."""
    floors = _limits(target, TOLERANCES["float64"]["gradient"], "float64")
    return all(is_nearest(wanted, target.named[name], dtype, floors[name]) for name, wanted in target.expected.items())


def _search(made: GradientDiagnosis, target: Target, noise: Mapping[str, float], limits: Mapping[str, float]) -> None:
    less = target.shrinking()
    noise, limits = ({name: less * limit for name, limit in given.items()} for given in (noise, limits))
    target.compare({name: noise.get(name, limits[name]) for name in made.errors}, noise)
    made.affected = target.affected
    search = GradientSearch(target, noise)
    with np.errstate(all="ignore"):
        best = search.run()
        two = two_wrongs(search) if best is None or best in search.partial else []
        if best is not None and two and two[0][0].remaining > _LESS * best.remaining:
            two = []
        best = None if two else best
        places = best.places if best else two[0][0].places if two else search.begins()
    made.verdict = "deviation" if best or two else "unexplained"
    pairs = [[cause for guess in pair for cause in explanation(guess)] for pair in two]
    made.explanation = pairs[0] if pairs else []
    made.others = [pair for pair in pairs[1:] if pair != pairs[0]]
    if best:
        made.explanation = explanation(best)
        made.others = [explanation(guess) for guess in search.others(best)]
    made.first_divergence, made.step = search.where(places) if places else (None, None)
    made.target, made.begins = target, max(places)[0] if places else None


def _graph(subject: Subject, chosen: Sequence[Candidate], near: Callable[[Any], Any] = lambda values: values) -> Graph:
    """The reference's graph, with deviations, on parameters and inputs that `near` may round."""
    cotangents = {n: subject.placed(np.asarray(c, subject.dtype)) for n, c in subject.case.cotangents.items()}
    # what a deviation calls goes past the handlers inside of its own
    with kernels("plain"), deviating(chosen, subject.rebuilt.model, near(subject.params)) as (model, params):
        light = isinstance(subject, LargeSubject) and subject.course.size > HEAVY
        return record(partial(subject.run, model=model), params, near(subject.inputs), cotangents, light=light)


_Back = Callable[[dict[str, Any]], dict[str, Any]]


def _through(subject: Subject, chosen: Sequence[Candidate]) -> _Back | None:
    """From gradients of changed parameters to those of the parameters: where the change moves elements or zeroes them.

    What moved where is seen by changing arrays that hold the number of each element. None for any other change.
    """
    numbers, count = {}, 1
    for name, array in subject.arrays.items():
        numbers[name] = np.arange(count, count + array.size, dtype=np.float64).reshape(array.shape)
        count += array.size
    survey, stored = subject.survey, subject.survey.stored
    try:
        own, _ = subject.load(numbers)
        survey.stored = numbers
        moved: Any = own
        for candidate in chosen:
            if candidate.change.params is not None and not candidate.change.straight:
                moved = candidate.change.params(moved)
    except CANNOT_BE_RUN:
        return None
    finally:
        survey.stored = stored
    before, ids = ({path: to_host(a) for path, a in tree.flatten(part).items()} for part in (own, moved))
    if any(
        not np.array_equal(a, np.round(a)) or a.min(initial=0) < 0 or a.max(initial=0) >= count for a in ids.values()
    ):
        return None

    def back(gradients: dict[str, Any]) -> dict[str, Any]:
        total = np.zeros(count)
        for path, array in ids.items():
            np.add.at(total, array.astype(int), gradients[path])
        total[0] = 0.0  # what is zero came from nowhere
        shared: set[int] = set()
        made = dict(gradients)
        for path, array in before.items():
            first = int(np.asarray(array).flat[0]) if np.size(array) else 0
            made[path] = np.zeros(array.shape) if first in shared else total[np.asarray(array).astype(int)]
            shared.add(first)
        return made

    return back
