"""Pairs of deviations and three at once by their outputs alone, in rounds that each go twice as far as the one before.

What two deviations do seldom adds up, so that the right pair may be thousands of places down a list of sums. But one of
a pair, or two of three, mostly leave little by themselves, and beside them every other is worth a run: the further down
one of them is, the fewer beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice

import numpy as np

from ...host.budget import in_time
from ..deviations import Candidate
from ..subject import Arrays
from .at_once import AtOnce
from .fit import Fit
from .ranking import Chosen, Effect, in_rounds, placed, some

_MOST = 1 << 20
"""Further down no round goes: time is over long before"""
_ELEMENTS = 512
"""Ranking looks at no more of the outputs' numbers"""
_SAME = 1e-9
"""Two of the same causes that leave what differs by no more are one."""
_APART = 8
"""So many times as far down are those that cannot be run at once with others"""
_POSITIONS = ("fourier-frequencies", "fourier-order", "position-axes", "position-grid", "position-use")
"""Causes that are of encodings of positions"""
_LATER = 3
"""So many times as far down are three at once"""
_KEPT = 20_000
"""Of so many pairs it is known what they gave"""


class Rounds:
    """`left` is what pairs leave that were run, `made` what they gave: both are read while they grow."""

    def __init__(
        self,
        fit: Fit,
        effects: Sequence[Effect],
        left: dict[Chosen, float],
        made: dict[Chosen, np.ndarray],
        at_once: AtOnce,
    ) -> None:
        self.fit, self.effects, self.left, self.made, self.at_once = fit, effects, left, made, at_once
        self._with: dict[Candidate, dict[int, np.ndarray]] = {}
        self._stacked: dict[Candidate, tuple[np.ndarray, np.ndarray]] = {}
        self._seen = 0
        self.given: set[frozenset[Candidate]] = {frozenset(chosen) for chosen in left}

    def __iter__(self) -> Iterator[Chosen]:
        if not self.effects:
            return
        if self.at_once.number > 1:
            yield from self._of_positions()
        groups = [lambda: self._leaders, self._pairs]
        for chosen, others in in_time(in_rounds(groups, self._beside, _MOST, self.at_once.number)):
            if self.at_once.fits(chosen):  # else it comes beside each of the others
                yield from self._worth(chosen, [other for other in others if self._is_new((*chosen, other))])

    def _of_positions(self) -> Iterator[Chosen]:
        """Every two of what makes encodings of positions: what one does there tells nothing of what both do. On a
        grid of few points frequencies may even do nothing by themselves."""
        of = [candidate for candidate in self.at_once.candidates if candidate.cause in _POSITIONS]
        for place, one in enumerate(of):
            others = [other for other in of[place + 1 :] if other.cause != one.cause and self._is_new((one, other))]
            yield from self._worth((one,), others)

    def _is_new(self, chosen: Chosen) -> bool:
        """Whether these have not come before, in whatever order; from now on they have."""
        key = frozenset(chosen)
        new = key not in self.given
        self.given.add(key)
        return new

    def _worth(self, chosen: Chosen, others: Sequence[Candidate]) -> Iterator[Chosen]:
        """Of these beside the chosen those that are worth a run of their own, the most promising of each turn first."""
        found: list[tuple[float, Chosen]] = []
        for number, (other, made) in enumerate(self.at_once.beside(chosen, others), 1):
            left = 0.0 if made is None else self.fit.remaining(made)
            if made is not None and len(chosen) == 1 and other in self._number and chosen[0] in self._number:
                self._note((*chosen, other), made, left)
            if made is None or self.at_once.is_worth(made, left):
                found.append((left, (*chosen, other)))
            if number % self.at_once.number == 0 or number == len(others):
                yield from (more for _, more in sorted(found, key=lambda row: row[0]))
                found = []

    def _note(self, pair: Chosen, made: Arrays, left: float) -> None:
        self.left[pair] = left
        if np.isfinite(left) and len(self.made) < _KEPT:
            self.made[pair] = sampled(self.fit, made)

    @cached_property
    def _ours(self) -> np.ndarray:
        return sampled(self.fit, self.fit.ours)

    @cached_property
    def _target(self) -> np.ndarray:
        target: np.ndarray = sampled(self.fit, self.fit.subject.expected) - self._ours
        return target

    @cached_property
    def _changes(self) -> np.ndarray:
        return np.stack([some(effect.change, _ELEMENTS) for effect in self.effects])

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
            if pair in self.made and all(c in self._number for c in pair) and (not same or left - same[-1][0] > _SAME):
                same.append((left, pair))
        rows = [
            (place * number, left, pair)
            for place, same in enumerate(of.values(), 1)
            for number, (left, pair) in enumerate(same, 1)
        ]
        return _weighed([(_LATER * place, pair) for place, _, pair in rows], [left for _, left, _ in rows])

    def _beside(self, chosen: Chosen) -> list[tuple[int, Candidate]]:
        """The others with their place: first what should leave the least, if each does what it does alone, or, as far
        as that is known, beside one of these."""
        apart = self._target - self._change(chosen)
        left = _left(apart, self._changes)
        for candidate in chosen if len(chosen) > 1 else ():
            numbers, changes = self._changes_beside(candidate)
            left[numbers] = np.minimum(left[numbers], _left(apart, changes))
        causes = {candidate.cause for candidate in chosen}
        others = (self.effects[number].candidate for number in np.argsort(left, kind="stable"))
        order = placed([candidate for candidate in others if candidate.cause not in causes])
        if self.at_once.number == 1:
            return order
        apart = ((p * (1 if self.at_once.told(c) else _APART), c) for p, c in order)
        return sorted(apart, key=lambda row: row[0])

    @cached_property
    def _number(self) -> dict[Candidate, int]:
        return {effect.candidate: number for number, effect in enumerate(self.effects)}

    def _change(self, chosen: Chosen) -> np.ndarray:
        """What these do to the outputs."""
        alone = len(chosen) == 1
        change: np.ndarray = self._changes[self._number[chosen[0]]] if alone else self.made[chosen] - self._ours
        return change

    def _changes_beside(self, candidate: Candidate) -> tuple[np.ndarray, np.ndarray]:
        """Of the others that were run with a deviation their numbers, and what they do beside it."""
        for pair in islice(self.made, self._seen, None):
            for one, other in (pair, pair[::-1]):
                if one in self._number and other in self._number:
                    self._with.setdefault(one, {})[self._number[other]] = self._change(pair) - self._change((one,))
        self._seen = len(self.made)
        own = self._with.get(candidate, {})
        known = self._stacked.get(candidate)
        if own and (known is None or len(known[0]) != len(own)):
            self._stacked[candidate] = (np.array(list(own), int), np.stack(list(own.values())))
        return self._stacked.get(candidate, (np.zeros(0, int), self._changes[:0]))


def sampled(fit: Fit, arrays: Arrays) -> np.ndarray:
    """As many of all outputs' numbers, in a row, as rounds look at."""
    return some(fit.flat(arrays), _ELEMENTS)


def _left(apart: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """What each change leaves of what is apart."""
    left: np.ndarray = np.square(apart - changes).sum(axis=-1)
    return left


def _weighed(rows: Sequence[tuple[int, Chosen]], left: Sequence[float]) -> list[tuple[int, Chosen]]:
    """Further down what leaves many times as much as the best: by the square of how many."""
    best = max(min(left, default=1.0), 1e-12)
    weighed = [(max(place, int(min((each / best) ** 2, 1e9))), chosen) for (place, chosen), each in zip(rows, left)]
    return sorted(weighed, key=lambda row: row[0])
