"""Why an implementation's outputs differ from the reference's: rounding, or a known deviation, and which.

The reference is run with each deviation of the table, then with pairs; what makes it give the outputs under test is the
cause. Where the case has traced points, a deviation is given up at the first of them that it does not explain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import input_errors
from ..files import AnyPath
from ..vectors import TOLERANCES, Case, read_case
from .roundings import Roundings
from .search import Cause, Search
from .subject import Arrays, Subject


@dataclass(frozen=True)
class PointError:
    """One compared array: its error, and that which rounding to each dtype would make."""

    name: str
    error: float
    rounding: Mapping[str, float]

    @property
    def units(self) -> dict[str, float]:
        """The error in units of the rounding of each dtype: up to 1 is no more than that; inf where there is none."""
        no_rounding = 0.0 if self.error == 0 else float("inf")
        return {dtype: self.error / limit if limit else no_rounding for dtype, limit in self.rounding.items()}


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
    """The format whose rounding explains the difference, for the verdict "rounding"."""
    unit: str = "float32"
    """The dtype in units of whose rounding errors are told: that of the verdict, or else the case's, or float32."""
    points: list[PointError] = field(default_factory=list)
    others: list[list[Cause]] = field(default_factory=list)
    """Further explanations, the best first."""
    excerpt: Arrays = field(default_factory=dict)
    """Where a difference begins, ours and theirs, and the case's inputs."""

    @property
    def causes(self) -> list[str]:
        return [cause.cause for cause in self.explanation]


def diagnose_file(path: AnyPath) -> Diagnosis:
    """`diagnose` on a case file. Raises `InputError` for one that cannot be run."""
    return diagnose(read_case(path), str(path))


def diagnose(case: Case, path: str = "") -> Diagnosis:
    """Compare a case's outputs with the reference's and explain the difference (see `Diagnosis`)."""
    with input_errors("the inputs do not fit the model"):
        subject = Subject(case)
    ours = subject.ours
    errors, roundings = subject.errors(ours), Roundings(subject, ours)
    error = max(e for name, e in errors.items() if name.startswith("output/"))
    limit = {**TOLERANCES[case.meta["dtype"]], **case.meta["tolerance"]}["output"]
    if case.meta["dtype"] == "float64" and max(errors.values()) <= limit:
        return Diagnosis(path, "match", None, [], error, roundings.outputs())
    search = Search(subject, ours, errors, roundings)
    verdict, explanation = search.run()
    made = Diagnosis(path, verdict, None, explanation, error, roundings.outputs(), search.dtype, others=search.others)
    given = case.meta["dtype"]
    made.unit = search.dtype or (given if given != "float64" else "float32")
    made.points = [PointError(name, e, roundings.of(name)) for name, e in errors.items()]
    if verdict in ("deviation", "unexplained"):
        made.first_divergence = search.first_divergence()
    if verdict in ("deviation", "unexplained"):
        name = search.first or max(errors, key=lambda n: errors[n])
        made.excerpt = {
            "point": np.array(name),
            "reference": ours.get(name, np.zeros(0)),
            "candidate": subject.expected[name],
            **{f"input/{n}": array for n, array in case.inputs.items()},
        }
    return made
