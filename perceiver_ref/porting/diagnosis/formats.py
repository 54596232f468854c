"""Which format the numbers under test were computed in: each is tried, and the one that repeats the errors is named.

Errors of a few units of a format's rounding can come of many formats. What tells them apart is what is the same in
every run: weights and inputs are rounded first, and in the same way each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import numpy as np

from ...host.budget import in_time
from ...host.progress import steps
from ..deviations import Candidate
from ..deviations.precision import everything
from ..deviations.quantized import family
from ..deviations.weights import FLOATING, form_of
from .envelope import FEW, Roundings
from .fit import Fit

REPEATS = 0.1
"""Weights in a form are found where they leave at most this: next to nothing, but for a number here and there that lies
in the middle of two of the form's, and of which one is off by a whole step."""
SELDOM, MANY = 1e-3, 400
"""Of so many forms, about as many as are tried, one may come so near by chance in so many of all cases: a random change
of n numbers, about as large as the difference, leaves the part x of it with a probability of x^n."""
CERTAIN = 1e-3
"""One that leaves so little is not compared with others."""
FOUND = 0.9
"""Weights in a form leave more than this of the difference when they were in another."""
BETTER = 0.8
"""One format fits better than another where it leaves this part of what the other leaves, or less."""
FITS = 0.7
"""And it fits at all where it leaves at most this: rounding of whole models by another library leaves half, mostly."""
FAR = 50.0
"""No form is looked for whose bits change the outputs this many times as much as they differ."""
NARROW = ("bfloat16", "float16")
"""Formats that whole models are run in"""


@dataclass
class Formats:
    """`candidates` are those of cause "dtype" for a whole model: weights stored in fewer bits, and autocast."""

    fit: Fit
    roundings: Roundings
    candidates: Sequence[Candidate]
    known: dict[Candidate, float] = field(default_factory=dict)

    @cached_property
    def stored(self) -> tuple[Candidate, float] | None:
        """The form of weights, or of what goes into linear maps, that repeats the difference, and what it leaves; None
        where none does."""
        found: tuple[Candidate, float] | None = None
        chosen = [candidate for candidate in self.candidates if candidate.change.straight]
        first = [candidate for candidate in chosen if not candidate.rare]
        near = {kind for kind, of in groupby(in_time(first), self._family) if self._could_be(next(of))}
        likely: set[str] = set()
        every = [*(c for c in first if self._family(c) in near), *(c for c in chosen if c.rare)]
        for candidate in in_time(steps(every, "trying form of weights")):
            if candidate.rare and form_of(candidate) not in likely:
                continue
            left = self._left(candidate)
            if left <= FOUND:
                likely.add(form_of(candidate))
            if found is None or left < found[1]:
                found = candidate, left
            if left <= CERTAIN:
                break
        return found if found is not None and found[1] <= self._least else None

    @property
    def _least(self) -> float:
        """`REPEATS`, or of few numbers what one of so many forms leaves by chance only so seldom."""
        apart = self.fit.flat(self.fit.subject.expected) - self.fit.flat(self.fit.ours)
        return float(min(REPEATS, (SELDOM / MANY) ** (1 / max(int((apart != 0).sum()), 1))))

    @staticmethod
    def _family(candidate: Candidate) -> str:
        return family(form_of(candidate))

    def _could_be(self, candidate: Candidate) -> bool:
        """Whether a form of so many bits changes the outputs by about as much as they differ: what it leaves of a
        difference that is r times smaller, and not its own, is the root of 1 + r^2."""
        return 1e-3 < abs(self._left(candidate) - 1) < FAR

    def tried(self) -> list[tuple[str, float]]:
        """What each form of numbers that was run leaves of the difference, the least first: a form of weights, or of
        products, of its sets of arrays and manners the best; formats of everything."""
        left: dict[str, tuple[str, float]] = {}
        for candidate, remaining in self.known.items():
            form = form_of(candidate)
            if np.isfinite(remaining) and remaining < left.get(form, ("", np.inf))[1]:
                left[form] = candidate.variant, remaining
        whole = [
            (f"everything in {dtype}", min(made)) for dtype in self.roundings.known if (made := self._whole_left(dtype))
        ]
        return sorted([*left.values(), *whole], key=lambda row: row[1])

    def _whole_left(self, dtype: str) -> list[float]:
        return [left for left in self.roundings.left(dtype) if np.isfinite(left)]

    def cast(self, dtype: str) -> float:
        """What autocast to this format leaves at best."""
        return min(
            (self._left(c) for c in self.candidates if is_autocast(c) and f" in {dtype}" in c.variant), default=1.0
        )

    def whole(self, dtype: str) -> float:
        """What everything in this format leaves at best, of a few ways of computing."""
        subject = self.fit.subject
        left = [self._left(candidate) for candidate in everything(subject.survey, dtype)] if dtype in NARROW else []
        return min([*left, *self.roundings.left(dtype)], default=1.0)

    def is_of_weights(self, dtype: str) -> bool:
        """Whether a form of weights repeats the difference, and everything in this format does not as well."""
        return self.stored is not None and self.stored[1] <= BETTER * self.whole(dtype)

    def better(self, dtype: str) -> str | None:
        """Autocast to a format, where that fits better than everything in this one."""
        best = min(NARROW, key=self.cast)
        left = self.cast(best)
        return f"{best} autocast" if left <= FITS and left <= BETTER * self.whole(dtype) else None

    def fitting(self, errors: dict[str, float]) -> str | None:
        """Where numbers are on no format's grid: the format whose run repeats the errors best, if one does."""
        made = {name: self.whole(name) for name in ("tf32", *NARROW) if self.roundings.holds(name, errors)}
        for name in NARROW:
            if all(e <= self.roundings.at(name).get(n, 0.0) for n, e in errors.items()):
                made[f"{name} autocast"] = self.cast(name)
        if not made:
            return None
        best = min(made, key=lambda name: made[name])
        size = sum(a.size for n, a in self.fit.subject.expected.items() if n.startswith("output/"))
        return best if made[best] <= FITS or (size < FEW and " " not in best) else None

    def _left(self, candidate: Candidate) -> float:
        if candidate not in self.known:
            made = self.fit.subject.deviating((candidate,))
            self.known[candidate] = np.inf if made is None else self.fit.remaining(made)
        return self.known[candidate]


def is_autocast(candidate: Candidate) -> bool:
    """Whether a candidate is the whole model under autocast."""
    return candidate.cause == "dtype" and candidate.variant.startswith("autocast in ")


def name_of(candidate: Candidate) -> str | None:
    """What rounding is called that comes of autocast, or of weights in a format that libraries compute in."""
    if is_autocast(candidate):
        return next(f"{name} autocast" for name in NARROW if f" in {name}" in candidate.variant)
    form = form_of(candidate) if candidate.change.straight else ""
    return f"{form} weights" if form in FLOATING else None


def base_of(dtype: str) -> str:
    """The format that such a rounding is measured in: that of what is computed."""
    return "float32" if dtype.endswith(" weights") else dtype.split()[0]
