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

_OF_DIFFERENCE, _OF_NOISE = 0.02, 0.5
"""What is worth a run of its own leaves at most so much of the difference; and where that has rounding in it"""


class AtOnce:
    """`candidates` are all that come alone, in their order; `counted` has by their number how many were run at once."""

    def __init__(self, fit: Fit, candidates: Sequence[Candidate]) -> None:
        self.fit, self.candidates = fit, candidates
        self.counted: dict[int, int] = {}
        self._alone: dict[Candidate, Arrays | None] = {}

    @cached_property
    def tiles(self) -> Tiles:
        """What runs them."""
        return Tiles(self.fit.subject)

    @property
    def number(self) -> int:
        """So many are run at once; 1 for a model that is too large or does not allow it."""
        return self.tiles.most if self.tiles.usable else 1

    def alone(self, candidate: Candidate) -> Arrays | None:
        """The outputs with this one; None where it has to be run by itself."""
        if candidate not in self._alone:
            waiting = [c for c in self.candidates if c not in self._alone and c is not candidate]
            few = [candidate, *waiting[: self.number - 1]]
            self._alone.update(dict.fromkeys(few))
            if self.tiles.usable:
                self._alone.update(zip(few, self.tiles.run((), few)))
                self._count((), few)
        return self._alone[candidate]

    def beside(self, chosen: Chosen, others: Sequence[Candidate]) -> Iterator[tuple[Candidate, Arrays | None]]:
        """Each other, as long as there is time, with the outputs beside the chosen; None where it has to be run."""
        keeps = any(candidate.change.keeps for candidate in chosen)
        usable = self.tiles.usable and all(candidate.cause != "dtype" for candidate in chosen)
        for start in range(0, len(others), self.number):
            few = others[start : start + self.number]
            if is_over():
                return
            together = [other for other in few if usable and not (keeps and _of_ops(other))]
            made = dict(zip(together, self.tiles.run(chosen, together)))
            self._count(chosen, together)
            yield from ((other, made.get(other)) for other in few)

    def is_worth(self, left: float) -> bool:
        """Whether what leaves so much of the difference is worth a run of its own."""
        return left <= (_OF_NOISE if self.fit.noise else _OF_DIFFERENCE)

    def _count(self, chosen: Chosen, together: Sequence[Candidate]) -> None:
        if together:
            self.counted[len(chosen) + 1] = self.counted.get(len(chosen) + 1, 0) + len(together)


def _of_ops(candidate: Candidate) -> bool:
    """Whether it changes an op or what that is given: among many it would miss one that is put off."""
    return candidate.change.ops is not None or candidate.change.params is not None
