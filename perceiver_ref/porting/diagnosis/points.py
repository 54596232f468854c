"""The points of a diagnosis: each with its error, every measure, and, where it begins, how the difference looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..cases.compare import not_finite
from ..heads import Heads
from ..measures import is_logits, measures
from ..patterns import masks_of, patterns
from ..subject import Arrays, Subject
from ..tolerances import tolerances
from .envelope import Roundings


@dataclass(frozen=True)
class PointError:
    """One compared array: its error, and that which rounding to each dtype would make.

    `measures` by name (`porting.measures`); `found`: what the difference looks like (`porting.patterns`), of the first
    point that differs and of outputs.
    """

    name: str
    error: float
    rounding: Mapping[str, float]
    units: Mapping[str, float]
    """The error in units of the rounding of each dtype: up to 1 is no more than that; inf where nothing is rounded."""
    measures: Mapping[str, float] = field(default_factory=dict)
    found: tuple[tuple[str, str], ...] = ()


def points_of(
    subject: Subject,
    ours: Arrays,
    errors: Mapping[str, float],
    roundings: Roundings,
    heads: Heads,
    *,
    described: bool,
    first: str | None = None,
) -> list[PointError]:
    """Every compared array; `described`: with what differences look like, `first` being where they begin."""
    tolerance, masks = tolerances(subject.case)["output"], masks_of(subject.case.inputs)
    made = []
    for name, error in errors.items():
        theirs, mine = subject.expected[name], ours.get(name)
        if mine is None:
            made.append(PointError(name, error, roundings.of(name), roundings.units(name)))
            continue
        found = measures(theirs, mine, tolerance=tolerance, error=error, logits=is_logits(name, mine))
        alone = "; ".join(not_finite(mine, theirs, ("reference", "case"))) if error == np.inf else ""
        said: list[tuple[str, str]] = [("not-finite", alone)] if alone else []
        if described and (name == first or name.startswith("output/")):
            point = subject.points.get(name.removeprefix("trace/"), "")
            known = heads.of(point, mine.shape) if name.startswith("trace/") else None
            said += patterns(theirs, mine, tolerance, heads=known, masks=masks)
        made.append(PointError(name, error, roundings.of(name), roundings.units(name), found, tuple(said)))
    return made
