"""Deviations beside the same others run many at once (`subject.tiles`): few are then worth a run of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from ...host.budget import is_over
from ..deviations import Candidate
from ..subject import Arrays
from ..subject.tiles import Tiles
from .fit import Fit
from .ranking import Chosen

_OF_DIFFERENCE, _MOSTLY = 0.02, 0.5
"""What is worth a run of its own leaves at most so much of the difference; or so much, if that may be rounding"""
_TIMES = 10.0
"""So many times the limit of the right model's rounding may be that of one with deviations"""


class AtOnce:
    """`candidates` are all that come alone, in their order; `counted` has by their number how many were run at once."""

    def __init__(self, fit: Fit, candidates: Sequence[Candidate]) -> None:
        self.fit, self.candidates = fit, candidates
        self.counted: dict[int, int] = {}
        self._told: dict[Candidate, bool] = {}
        self._waiting: dict[Candidate, Arrays] = {}
        """What candidates gave that were run with one that was asked for"""

    @cached_property
    def tiles(self) -> Tiles:
        """What runs them."""
        return Tiles(self.fit.subject)

    @property
    def number(self) -> int:
        """So many are run at once; 1 for a model that is too large or does not allow it."""
        return self.tiles.most if self.tiles.usable else 1

    def told(self, candidate: Candidate) -> bool:
        """Whether this one can be run at once with others."""
        if candidate not in self._told:
            others = [c for c in self.candidates if c not in self._told and c is not candidate]
            few = [candidate, *others[: self.number - 1]]
            self._told.update(dict.fromkeys(few, False))
            if self.tiles.usable:
                for one, made in zip(few, self.tiles.run((), few, {} if self.fit.subject.points else None)):
                    if made is not None:
                        self._told[one], self._waiting[one] = True, made
                self._count((), few)
        return self._told[candidate]

    def alone(self, candidate: Candidate) -> Arrays | None:
        """The traced points and outputs with this one, told once; None where it has to be run by itself."""
        return self._waiting.pop(candidate, None) if self.told(candidate) else None

    def beside(
        self, chosen: Chosen, others: Sequence[Candidate], *, given: bool = False
    ) -> Iterator[tuple[Candidate, Arrays | None]]:
        """Each other, as long as there is time, with the outputs beside the chosen; None where it has to be run.

        `given`: traced points, too, each from the case's own values before it.
        """
        usable = self.tiles.usable and self.fits(chosen) and all(c.cause != "dtype" for c in chosen)
        for start in range(0, len(others), self.number):
            few = others[start : start + self.number]
            if is_over():
                return
            points = self.fit.subject.given if given else None
            made = self.tiles.run(chosen, few, points) if usable else [None] * len(few)
            if usable and (not given or chosen):
                self._count(chosen, few)
            yield from zip(few, made)

    def is_worth(self, made: Arrays, left: float) -> bool:
        """Whether what leaves this part of the difference, or little beside rounding, is worth a run of its own."""
        if left <= _OF_DIFFERENCE or not self.fit.noise or not left <= _MOSTLY:
            return left <= _OF_DIFFERENCE
        errors = self.fit.subject.errors({**self.fit.ours, **made})
        return all(e <= _TIMES * self.fit.noise.get(n, 0.0) for n, e in errors.items() if n.startswith("output/"))

    def fits(self, chosen: Chosen) -> bool:
        """Whether others can be run at once beside these: not where one puts off an op of an array that it knows."""
        return self.number == 1 or not any(candidate.change.keeps for candidate in chosen)

    def _count(self, chosen: Chosen, together: Sequence[Candidate]) -> None:
        if together:
            self.counted[len(chosen) + 1] = self.counted.get(len(chosen) + 1, 0) + len(together)
