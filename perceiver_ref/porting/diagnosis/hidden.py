"""A deviation in a model of lower precision, whose errors are no larger than rounding can make them.

Rounding repeats itself: weights and inputs are rounded first, in every run alike. So the reference run in that format
leaves less of the numbers under test than float64 does, and the reference with what is planted in them less again.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...host.budget import in_time
from ...host.progress import steps
from ..deviations import Candidate
from ..subject import CANNOT_BE_RUN, Arrays
from .envelope import FEW, Roundings
from .fit import Fit
from .several import Several

ALONG = 0.3
"""Only deviations are run in the format whose direction, in float64, has this part of what the reference leaves there.
With so many outputs as are looked at, hardly any that is not the cause has."""
SIZES = (0.5, 2.0)
"""And whose size fits within these factors"""
MOST = 12
MANY, LEAVES_OF_MANY, LEAVES = 50, 0.6, 0.15
"""One is the cause where it leaves this part of what the reference leaves in the format: of many numbers more than of
few, which may come right by chance. Of correct models none is (tests/heavy/never_accused.py)."""


def hidden(fit: Fit, dtype: str, several: Several) -> tuple[Candidate, float] | None:
    """The deviation that the reference in `dtype` has to have to repeat the outputs, and what it leaves of the
    difference in float64; None where none does, or where outputs are too few."""
    expected = fit.flat(fit.subject.expected)
    if expected.size < FEW:
        return None
    without = _runs(fit, dtype, fit.ours, ())
    if not without:
        return None
    least = min(without, key=lambda row: _size(row - expected))
    apart, limit = expected - least, LEAVES_OF_MANY if expected.size >= MANY else LEAVES
    found: list[tuple[float, Candidate]] = []
    for candidate in in_time(steps(_likely(several, apart), f"trying deviation in {dtype}")):
        made = fit.subject.deviating((candidate,))
        left = [_size(row - expected) for row in _runs(fit, dtype, made or {}, (candidate,))] if made else []
        if left and max(left) <= limit * _size(apart):  # in one run it may be by chance
            found.append((max(left), candidate))
    if not found:
        return None
    _, best = min(found, key=lambda row: row[0])
    made = fit.subject.deviating((best,))
    return (best, fit.remaining(made)) if made is not None else None


def _likely(several: Several, apart: np.ndarray) -> list[Candidate]:
    """The deviations whose effect in float64 is most like what is apart."""
    rows = []
    total = float(apart @ apart)
    for effect in several.effects:
        own, along = float(effect.change @ effect.change), float(effect.change @ apart)
        if own and total and along > 0 and along**2 >= ALONG * own * total and SIZES[0] <= along / own <= SIZES[1]:
            rows.append((along**2 / own, effect.candidate))
    return [candidate for _, candidate in sorted(rows, key=lambda row: -row[0])[:MOST]]


def _runs(fit: Fit, dtype: str, made: Arrays, chosen: Iterable[Candidate]) -> list[np.ndarray]:
    """The outputs of the runs that the rounding is measured by, each in a row: where a model makes much of little, they
    differ."""
    try:
        rows = [fit.flat(run) for run in Roundings(fit.subject, made, tuple(chosen)).runs(dtype)]
    except CANNOT_BE_RUN:
        return []
    return [row for row in rows if np.isfinite(row).all()]


def _size(row: np.ndarray) -> float:
    return float(np.linalg.norm(row))
