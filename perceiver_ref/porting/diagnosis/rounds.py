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
from .ranking import Effect, some

Chosen = tuple[Candidate, ...]
_FIRST = 32
"""The product of places that the first round goes to"""
_LOCAL, _RARE = 2, 6
"""So many times as far down are deviations in but a part of the model, and rare ones"""
_SAME = 1e-9
"""Two of the same causes that leave what differs by no more are one."""


class Rounds:
    """`left` is what pairs leave that were run, and is read while it grows."""

    def __init__(self, fit: Fit, effects: Sequence[Effect], left: Mapping[Chosen, float]) -> None:
        self.fit, self.effects, self.left = fit, effects, left
        self.given: set[frozenset[Candidate]] = {frozenset(chosen) for chosen in left}
        self._known: dict[Chosen, list[tuple[int, Candidate]]] = {}

    def __iter__(self) -> Iterator[Chosen]:
        if not self.effects:
            return
        reach = _FIRST
        while reach <= _RARE**2 * len(self.effects) ** 2:
            for places in (self._leaders, self._pairs()):
                for place, chosen in places:
                    if place <= reach:
                        yield from self._beside(chosen, reach // place)
            reach *= 2

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
        order = np.argsort([e.remaining * (1 - part) for e, part in zip(self.effects, share)], kind="stable")
        return [(place, (candidate,)) for place, candidate in self._placed(order)]

    def _placed(self, order: np.ndarray) -> list[tuple[int, Candidate]]:
        """In this order, those of each sort counted for themselves."""
        counts: dict[int, int] = {}
        placed = []
        for number in order:
            candidate = self.effects[number].candidate
            factor = _RARE if candidate.rare else _LOCAL if ", in " in candidate.variant else 1
            counts[factor] = counts.get(factor, 0) + 1
            placed.append((factor * counts[factor], candidate))
        return sorted(placed, key=lambda row: row[0])

    def _pairs(self) -> list[tuple[int, Chosen]]:
        """Pairs that were run, with their place: that of their two causes times that among pairs of these."""
        of: dict[frozenset[str], list[tuple[float, Chosen]]] = {}
        for pair, left in sorted(self.left.items(), key=lambda row: row[1]):
            same = of.setdefault(frozenset(c.cause for c in pair), [])
            if np.isfinite(left) and (not same or left - same[-1][0] > _SAME):
                same.append((left, pair))
        placed = [
            (place * number, pair)
            for place, same in enumerate(of.values(), 1)
            for number, (_, pair) in enumerate(same, 1)
        ]
        return sorted(placed, key=lambda row: row[0])

    def _beside(self, chosen: Chosen, most: int) -> Iterator[Chosen]:
        """With one more, to this place among those that should leave the least if each did what it does alone."""
        if chosen not in self._known:
            self._known[chosen] = self._ordered(chosen)
        for place, candidate in self._known[chosen]:
            if place > most:
                return
            both = frozenset((*chosen, candidate))
            if both not in self.given:
                self.given.add(both)
                yield (*chosen, candidate)

    def _ordered(self, chosen: Chosen) -> list[tuple[int, Candidate]]:
        made = self.fit.subject.deviating(chosen)
        if made is None or not np.isfinite(self.fit.remaining(made)):
            return []
        apart = some(self.fit.flat(self.fit.subject.expected) - self.fit.flat(made))
        left = np.einsum("ij,ij->i", self._changes, self._changes) - 2 * self._changes @ apart
        causes = {candidate.cause for candidate in chosen}
        others = [number for number, effect in enumerate(self.effects) if effect.candidate.cause not in causes]
        return self._placed(np.array(sorted(others, key=lambda number: float(left[number])), int))
