"""Why an implementation's outputs differ from the reference's: rounding, or a known deviation, and which.

The reference is run with each deviation of the table, then with pairs; what makes it give the outputs under test is the
cause. Where the case has traced points, a deviation is given up at the first of them that it does not explain.
Gradients are compared when the outputs are right or explained, and a wrong one is traced to its op (`gradients`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import input_errors
from ...host.budget import LARGE, SECONDS, Budget, spending
from ...host.files import AnyPath
from ..cases import Case, read_case
from ..compare.answers import answered
from ..deviations import Candidate
from ..gradients.diagnose import GradientDiagnosis, diagnose_gradients, has_gradients
from ..heads import Heads
from ..measures import measures
from ..subject import NOTHING, Arrays, Cause, Subject
from ..subject.large import LargeSubject, is_large
from ..tolerances import tolerances
from .envelope import Roundings
from .excerpt import backward_excerpt, forward_excerpt
from .formats import base_of
from .large import LargeRoundings, LargeSearch
from .parameters import ParameterUse, parameters_of
from .points import PointError, points_of
from .search import Search


@dataclass
class Diagnosis:
    """What `diagnose` found. `error` is the largest among outputs; `explanation` has the causes in order."""

    path: str
    verdict: str
    """"match", "rounding", "deviation" or "unexplained" """
    first_divergence: str | None
    explanation: list[Cause]
    error: float
    expected_rounding: dict[str, float]
    dtype: str | None = None
    """The format whose rounding explains the difference, for the verdict "rounding"; "<format> weights" where weights
    alone are in it, "<format> autocast" where products are."""
    unit: str = "float32"
    """The dtype in units of whose rounding errors are told: that of the verdict, or else the case's, or float32."""
    points: list[PointError] = field(default_factory=list)
    others: list[list[Cause]] = field(default_factory=list)
    """Further explanations, the best first."""
    excerpt: Arrays = field(default_factory=dict)
    """Where a difference begins, ours and theirs, and the case's inputs; where unexplained, also what the operation
    that begins it is given ("operation/<number>.<op>", `Subject.inputs_of`)."""
    excerpt_case: Case | None = None
    """Where unexplained: the operation that begins it as a case of its own (`excerpt`), what `diagnose` writes; None
    where no operation of ours makes that array."""
    gradients: GradientDiagnosis | None = None
    """What was found of the gradients, where the case has any; it decides where the outputs are right."""
    notes: list[str] = field(default_factory=list)
    """What is to be said beside the verdict, such as traced values that were not compared."""
    formats: list[tuple[str, float]] = field(default_factory=list)
    """Forms of lower precision that were tried, and what each leaves of the outputs' difference, the least first."""
    parameters: list[ParameterUse] = field(default_factory=list)
    """Of the case: whether they are used, and how wrong their gradients are."""
    tolerance: float = 0.0
    """What outputs of the case's dtype are held to."""
    heads: int | None = None
    """Of the first point that differs, where it is of attention."""
    stopped: bool = False
    """Whether the search ended because its time was spent"""
    tried: list[str] = field(default_factory=list)
    """Where the difference is unexplained: what was tried, in words"""

    @property
    def causes(self) -> list[str]:
        """Ids of what explains the difference, the best first."""
        return [cause.cause for cause in self.explanation]


def diagnose_file(
    path: AnyPath,
    mine: AnyPath | None = None,
    *,
    budget: float | None = None,
    backend: str = "numpy",
    read: Callable[[AnyPath], Case] = read_case,
) -> Diagnosis:
    """`diagnose` on a case; with `mine`, on what that file or folder answers in place of the case (`answered`).

    `read` makes the case of the file, where it is none of a known peer. Raises `InputError` for a case that cannot be
    run, `BackendError` where `backend` cannot compute here.
    """
    case = read(path)
    if mine is None:
        return diagnose(case, str(path), budget=budget, backend=backend)
    case, notes = answered(case, mine)
    found = diagnose(case, str(mine), budget=budget, backend=backend)
    found.notes = [*notes, *found.notes]
    return found


def diagnose(case: Case, path: str = "", *, budget: float | None = None, backend: str = "numpy") -> Diagnosis:
    """Compare a case's outputs with the reference's and explain the difference (see `Diagnosis`).

    `budget`: seconds that the search for a cause may take; by default 25, and for a large case more. `backend`: what
    the models run on, "numpy" or "cupy"; what they give is compared on the host, and so is everything in the result.
    """
    heads, large, began = Heads(), is_large(case), time.thread_time()
    with input_errors("the inputs do not fit the model"), heads.watching():
        subject = (LargeSubject if large else Subject)(case, backend)
    own = budget is None
    if budget is None:
        budget = max(SECONDS, LARGE * (time.thread_time() - began) if large else 0.0)
    with spending(Budget(budget, time.thread_time if own else time.monotonic)) as spent:
        made = _diagnosed(subject, path, heads)
    made.notes = list(made.notes)
    made.stopped = spent.stopped
    if made.stopped:
        made.notes.append(f"stopped after the budget of {budget:.3g} s; a larger one may find more (--budget)")
    return made


def _diagnosed(subject: Subject, path: str, heads: Heads) -> Diagnosis:
    case = subject.case
    made, explanations = _outputs(subject, path, heads)
    made.notes = subject.notes
    if has_gradients(subject):
        made.gradients = _gradients(made, subject, explanations)
        if made.verdict in ("match", "rounding") and made.gradients.verdict not in ("match", "not checked"):
            _decide(made, made.gradients, subject)
    made.tolerance = tolerances(case)["output"]
    made.parameters = parameters_of(subject, made.gradients)
    return made


def _gradients(made: Diagnosis, subject: Subject, explanations: list[tuple[Candidate, ...]]) -> GradientDiagnosis:
    """Those of the reference with what explains the outputs; of several explanations the first that they fit."""
    if made.verdict == "unexplained":
        return GradientDiagnosis("not checked")
    if made.verdict != "deviation":
        stored = explanations[0] if explanations else ()
        return diagnose_gradients(subject, stored, made.dtype and base_of(made.dtype))
    for chosen in explanations[1:]:
        if diagnose_gradients(subject, explanations[0], search=False).verdict in ("match", "rounding", "not checked"):
            break
        if diagnose_gradients(subject, chosen, search=False).verdict in ("match", "rounding"):
            kept = [Cause(c.cause, c.variant, made.explanation[0].remaining) for c in chosen]
            made.others.insert(0, made.explanation)
            made.others = [causes for causes in made.others if [c.cause for c in causes] != [c.cause for c in kept]]
            made.explanation = kept
            return diagnose_gradients(subject, chosen)
    return diagnose_gradients(subject, explanations[0])


def _decide(made: Diagnosis, found: GradientDiagnosis, subject: Subject) -> None:
    """Where outputs are right but for rounding, the verdict is that of the gradients."""
    if found.verdict == "rounding":
        made.dtype = made.dtype if made.verdict == "rounding" else found.dtype
        made.verdict = "rounding"
        return
    made.verdict, made.dtype, made.first_divergence = found.verdict, None, found.first_divergence
    made.explanation, made.others = found.explanation, found.others
    limits = {name: {d: of[name] for d, of in found.roundings.items()} for name in found.errors}
    for n, error in found.errors.items():
        told: Mapping[str, float] = {}
        if n in found.ours:  # of a large case a few are kept
            limit = tolerances(subject.case)["gradient"]
            told = measures(found.theirs[n], found.ours[n], tolerance=limit, error=error)
        made.points.append(PointError(n, error, limits[n], _units(error, limits[n]), told))
    name = max((n for n in found.affected if n in found.ours), key=lambda n: found.errors[n])
    made.excerpt = {
        "point": np.array(name),
        "reference": found.ours[name],
        "candidate": found.theirs[name],
        **{f"input/{n}": array for n, array in subject.case.inputs.items()},
    }
    if found.verdict == "unexplained" and found.target is not None:
        made.excerpt_case = backward_excerpt(subject, found.target, found.affected, found.begins)


def _units(error: float, limits: Mapping[str, float]) -> dict[str, float]:
    none = 0.0 if error == 0 else float("inf")
    return {dtype: error / limit if limit else none for dtype, limit in limits.items()}


def _outputs(subject: Subject, path: str, heads: Heads) -> tuple[Diagnosis, list[tuple[Candidate, ...]]]:
    """What is found of outputs and traces, and the deviations that explain them, the best first."""
    case, ours = subject.case, subject.ours
    large = isinstance(subject, LargeSubject) and (bool(subject.points) or subject.all_agree)
    errors, roundings = subject.errors(ours), (LargeRoundings if large else Roundings)(subject, ours)
    error = max(e for name, e in errors.items() if name.startswith("output/"))
    limit = tolerances(case)["output"]
    if case.meta["dtype"] == "float64" and max(errors.values()) <= limit:
        made = Diagnosis(path, "match", None, [], error, roundings.outputs())
        made.points = points_of(subject, ours, errors, roundings, heads, described=False)
        return made, []
    search: Search | LargeSearch
    search = LargeSearch(subject) if large else Search(subject, ours, errors, roundings)  # type: ignore[arg-type]
    verdict, explanation = search.run()
    if large:
        errors = subject.errors(ours)  # of a map of weights too, where it is the first that differs
    made = Diagnosis(path, verdict, None, explanation, error, roundings.outputs(), search.dtype, others=search.others)
    given = case.meta["dtype"]
    made.unit = base_of(search.dtype) if search.dtype else given if given != "float64" else "float32"
    if verdict in ("match", "rounding"):
        roundings.at(made.unit)
    differs = verdict in ("deviation", "unexplained")
    made.points = points_of(subject, ours, errors, roundings, heads, described=differs, first=search.first)
    made.formats = search.tried_formats()
    made.tried = search.tried if verdict == "unexplained" else []
    if differs:
        made.first_divergence = search.first_divergence()
        name = search.first or max(errors, key=lambda n: errors[n])
        made.heads = heads.of(subject.points.get(name.removeprefix("trace/"), ""), subject.expected[name].shape)
        made.excerpt = {
            "point": np.array(name),
            "reference": ours.get(name, np.zeros(0)),
            "candidate": subject.expected[name],
            **{f"input/{n}": array for n, array in case.inputs.items()},
        }
    if verdict == "unexplained":
        made.excerpt |= subject.inputs_of(name)
        made.excerpt_case = forward_excerpt(subject, name)
    if search.weights is not None:
        return made, [(search.weights,)]
    said = [(cause.cause, cause.variant) for cause in explanation]
    scores: Sequence[Any] = search.scores
    ranked = sorted(scores, key=lambda s: [(c.cause, c.variant) for c in s.chosen] != said)
    return made, [score.chosen for score in ranked if score.remaining <= max(NOTHING, ranked[0].remaining)]
