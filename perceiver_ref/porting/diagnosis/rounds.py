"""Pairs of deviations and three at once by their outputs alone, in rounds that each go twice as far as the one before.

What two deviations do seldom adds up, so that the right pair may be thousands of places down a list of sums. But one of
a pair, or two of three, mostly leave little by themselves, and beside them every other is worth a run: the further down
one of them is, the fewer beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from ..deviations import Candidate
from .fit import Fit
from .ranking import Chosen, Effect, in_rounds, placed, some

_MOST = 1 << 20
"""Further down no round goes: time is over long before"""
_SAME = 1e-9
"""Two of the same causes that leave what differs by no more are one."""


class Rounds:
    """`left` is what pairs leave that were run, and is read while it grows."""

    def __init__(self, fit: Fit, effects: Sequence[Effect], left: Mapping[Chosen, float]) -> None:
        self.fit, self.effects, self.left = fit, effects, left
        self.given: set[frozenset[Candidate]] = {frozenset(chosen) for chosen in left}

    def __iter__(self) -> Iterator[Chosen]:
        if not self.effects:
            return
        for chosen in in_rounds([lambda: self._leaders, self._pairs], self._beside, _MOST):
            if frozenset(chosen) not in self.given:
                self.given.add(frozenset(chosen))
                yield chosen

    @cached_property
    def _target(self) -> np.ndarray:
        return some(self.fit.flat(self.fit.subject.expected) - self.fit.flat(self.fit.ours))

    @cached_property
    def _changes(self) -> np.ndarray:
        return np.stack([some(effect.change) for effect in self.effects])

    @cached_property
    def _leaders(self) -> list[tuple[int, Chosen]]:
        """Each alone with its place: by what it leaves, of as much the less the more numbers it sets right."""
        off = np.abs(self._target) > _SAME
        right = np.abs(self._target - self._changes)[:, off] <= _SAME
        share = right.mean(axis=1) if off.any() else np.zeros(len(self.effects))
        left = np.array([effect.remaining for effect in self.effects]) * (1 - share)
        by = {effect.candidate: float(each) for effect, each in zip(self.effects, left)}
        order = placed(sorted(by, key=lambda candidate: by[candidate]))
        return _weighed([(place, (candidate,)) for place, candidate in order], [by[c] for _, c in order])

    def _pairs(self) -> list[tuple[int, Chosen]]:
        """Pairs that were run, with their place: that of their two causes times that among pairs of these."""
        of: dict[frozenset[str], list[tuple[float, Chosen]]] = {}
        for pair, left in sorted(self.left.items(), key=lambda row: row[1]):
            same = of.setdefault(frozenset(c.cause for c in pair), [])
            if np.isfinite(left) and (not same or left - same[-1][0] > _SAME):
                same.append((left, pair))
        rows = [
            (place * number, left, pair)
            for place, same in enumerate(of.values(), 1)
            for number, (left, pair) in enumerate(same, 1)
        ]
        return _weighed([(place, pair) for place, _, pair in rows], [left for _, left, _ in rows])

    def _beside(self, chosen: Chosen) -> list[tuple[int, Candidate]]:
        """The others with their place: first what should leave the least if each did what it does alone."""
        made = self.fit.subject.deviating(chosen)
        if made is None or not np.isfinite(self.fit.remaining(made)):
            return []
        apart = some(self.fit.flat(self.fit.subject.expected) - self.fit.flat(made))
        left = np.einsum("ij,ij->i", self._changes, self._changes) - 2 * self._changes @ apart
        causes = {candidate.cause for candidate in chosen}
        others = (self.effects[number].candidate for number in np.argsort(left, kind="stable"))
        return placed([candidate for candidate in others if candidate.cause not in causes])


def _weighed(rows: Sequence[tuple[int, Chosen]], left: Sequence[float]) -> list[tuple[int, Chosen]]:
    """Further down what leaves many times as much as the best: by the square of how many."""
    best = max(min(left, default=1.0), 1e-12)
    weighed = [(max(place, int(min((each / best) ** 2, 1e9))), chosen) for (place, chosen), each in zip(rows, left)]
    return sorted(weighed, key=lambda row: row[0])
