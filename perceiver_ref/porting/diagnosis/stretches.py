"""Several deviations where points are traced: every stretch between two points is judged by itself.

The reference goes on from the case's own value at each traced point. What is wrong in one stretch then does not reach
the next, and deviations that are not of the same stretch do not mix: each is measured once, alone. One belongs to an
explanation only where it sets wrong stretches right, and no right one wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from ...host.budget import in_time, is_half_spent
from ...host.progress import steps
from ..deviations import Candidate
from ..subject import Arrays
from .at_once import AtOnce
from .fit import Fit
from .parts import EXACT, SMALL, Parts
from .ranking import Chosen, in_rounds, placed, ranked_pairs, some

RIGHT = 1e-9
"""A stretch is right whose end has at most this error: float64 leaves less."""
MOST = 3
"""So many deviations at once are looked for."""
_KEPT = 6
"""So many ways to go on are followed"""
_BESIDE = 250
"""So many are run beside others that change the same stretch"""
_PAIRS, _REACH = 200, 512
"""So many pairs are run of those that change a stretch: such as add up, and to this product of places others"""
_AS_FAR_AT_ONCE = 8
"""So many times as far where many are run at once"""
_AS_FAR = 2
"""Where some set every stretch right, others that may be as good come before so many times their place"""
_MOSTLY = 0.3
"""Beside a part in less precision a deviation leaves at most this of a stretch"""
_ELEMENTS = 512
"""Ranking looks at no more of an array"""
_PART_BESIDE = 6
"""Beside so many choices of deviations a part in less precision is looked for"""


Beside = tuple[Chosen, list[Candidate]]
"""Deviations, and those that are run beside them"""


class Alone(NamedTuple):
    """What a deviation does by itself: the error at the end of each stretch, and of wrong ones that it changes how."""

    candidate: Candidate
    errors: np.ndarray
    changes: dict[int, np.ndarray]


class State(NamedTuple):
    """Deviations, and the error of each stretch with them."""

    chosen: Chosen
    errors: np.ndarray


@dataclass
class Stretches:
    """Iterating gives the deviations, up to `MOST`, with which every stretch is right; of those that leave rounding the
    last is a part in less precision."""

    fit: Fit
    candidates: Sequence[Candidate]
    parts: Parts
    at_once: AtOnce
    alone: list[Alone] = field(default_factory=list)
    confirmed: bool = False
    """Set by who iterates, where one of those given leaves nothing of the outputs either: others as good are looked for
    no further than among what is on the way."""

    def __post_init__(self) -> None:
        self.names = list(self.fit.subject.expected)
        self.limits = np.full(len(self.names), RIGHT)

    @cached_property
    def base(self) -> np.ndarray:
        """The error of each stretch without any deviation."""
        return self._errors(self.ours)

    @cached_property
    def ours(self) -> Arrays:
        """What the reference makes of the case's own values."""
        return self.fit.subject.from_given(()) or {}

    def __iter__(self) -> Iterator[Chosen]:
        if not self.base[self.base > RIGHT].size:
            return
        for rare in (False, True):
            self._measure([c for c in self.candidates if c.rare == rare])
            found = False
            for solved in (self._solved(), self._with_a_part()):
                for chosen in solved:
                    found = True
                    yield chosen
                if found:
                    return

    def _errors(self, made: Arrays) -> np.ndarray:
        return np.array(list(self.fit.subject.errors(made).values()))

    def _measure(self, candidates: Sequence[Candidate]) -> None:
        """Note what each does alone, where that is of use; of a cause each effect once."""
        wrong = self.base > RIGHT
        known = {(one.candidate.cause, _told(one.changes)) for one in self.alone}
        found = self.at_once.beside((), candidates, given=True)
        for candidate, many in in_time(steps(found, "measuring deviation between points", len(candidates))):
            made = self.fit.subject.from_given((candidate,)) if many is None else many
            errors = None if made is None else self._errors(made)
            if made is None or errors is None or np.isnan(errors).any() or (errors[~wrong] > RIGHT).any():
                continue
            if any(self.names[i] not in made for i in np.flatnonzero(wrong)):
                continue
            differences = {int(i): made[self.names[i]] - self.ours[self.names[i]] for i in np.flatnonzero(wrong)}
            changes = {i: some(d, _ELEMENTS) for i, d in differences.items() if np.abs(d).max(initial=0.0) > 1e-12}
            key = (candidate.cause, _told(changes))
            if changes and key not in known:
                known.add(key)
                self.alone.append(Alone(candidate, errors, changes))

    def _solved(self, most: int = MOST) -> Iterator[Chosen]:
        """What sets every stretch right: first by deviations that do so to some stretches alone, then by others."""
        known: list[State] = []
        seen: set[frozenset[Candidate]] = set()

        def grown(states: Iterable[State]) -> Iterator[Chosen]:
            waiting = list(states)
            while waiting:
                waiting.sort(key=self._wrong)
                state = waiting.pop(0)
                if frozenset(state.chosen) in seen:
                    continue
                seen.add(frozenset(state.chosen))
                if not self._wrong(state):
                    yield state.chosen
                else:
                    known.append(state)
                    waiting += self._clear(state) if len(state.chosen) < most else []

        yield from grown([State((), self.base)])
        for expand, more in ((self._mixed, 1), (self._paired, 2)):
            able = [state for state in known if len(state.chosen) + more <= most]
            for state in in_time(sorted(able, key=self._wrong)[:_KEPT]):
                if self.confirmed:
                    return
                yield from grown(expand(state))

    def _wrong(self, state: State) -> int:
        return int((state.errors > self.limits).sum())

    def _clear(self, state: State) -> list[State]:
        """With one more that sets stretches right which none of the others changes: first those that set most of them
        right and change the fewest others."""
        open_ = (state.errors > self.limits) & ~self._changed(state.chosen)
        rows: dict[tuple[str, bytes, tuple[int, ...]], tuple[int, int, Candidate]] = {}
        for one in self._others(state.chosen):
            right = open_ & (one.errors <= self.limits)
            if right.any():
                row = (-int(right.sum()), len(one.changes), one.candidate)
                rows.setdefault((one.candidate.cause, right.tobytes(), tuple(one.changes)), row)
        best = sorted(rows.values(), key=lambda row: row[:2])[: 2 * _KEPT]
        return self._extended(state, [((), [candidate for _, _, candidate in best])])

    def _mixed(self, state: State) -> list[State]:
        """With one more that sets a stretch right which one of the others changes as well."""
        both = np.flatnonzero((state.errors > self.limits) & self._changed(state.chosen))
        if not both.size:
            return []
        where = int(both[0])
        of = [one for one in self._others(state.chosen) if where in one.changes]
        target = self._target(state, where)
        of.sort(key=lambda one: float(np.square(target - one.changes[where]).sum()))
        return self._extended(state, [((), [one.candidate for one in of[:_BESIDE]])], where)

    def _paired(self, state: State) -> list[State]:
        """With two more that set a stretch right together: such whose changes add up, and each of those that leave
        least with those whose change is then nearest."""
        open_ = np.flatnonzero((state.errors > self.limits) & ~self._changed(state.chosen))
        if not open_.size:
            return []
        where = int(open_[0])
        of = [one for one in self._others(state.chosen) if where in one.changes]
        changes, target = [one.changes[where] for one in of], self._target(state, where)
        pairs: dict[Candidate, list[Candidate]] = {}
        for one, other in ranked_pairs([one.candidate for one in of], changes, target, _PAIRS):
            pairs.setdefault(one, []).append(other)
        return self._extended(state, self._in_rounds(of, np.stack(changes), target, pairs), where) if of else []

    def _in_rounds(
        self, of: Sequence[Alone], changes: np.ndarray, target: np.ndarray, first: Mapping[Candidate, list[Candidate]]
    ) -> Iterator[Beside]:
        """These first, and then beside what leaves least of a stretch such as should leave the least with it."""
        given: set[frozenset[Candidate]] = set()
        sizes = np.square(changes).sum(axis=1)
        which = {one.candidate: number for number, one in enumerate(of)}

        def ordered(chosen: Chosen) -> list[tuple[int, Candidate]]:
            left = target if not chosen else target - changes[which[chosen[0]]]
            order = np.argsort(sizes - 2 * changes @ left, kind="stable")
            causes = {candidate.cause for candidate in chosen}
            return placed([of[i].candidate for i in order if of[i].candidate.cause not in causes])

        leaders = [(place, (candidate,)) for place, candidate in ordered(())]
        reach = _REACH * (_AS_FAR_AT_ONCE if self.at_once.number > 1 else 1)
        found = in_rounds([lambda: leaders], ordered, reach, self.at_once.number)
        for chosen, others in chain((((one,), others) for one, others in first.items()), found):
            new = [other for other in others if frozenset((*chosen, other)) not in given]
            given.update(frozenset((*chosen, other)) for other in new)
            if is_half_spent():
                return
            yield chosen, new

    def _others(self, chosen: Chosen) -> list[Alone]:
        causes = {c.cause for c in chosen}
        return [one for one in self.alone if one.candidate.cause not in causes]

    def _changed(self, chosen: Chosen) -> np.ndarray:
        """Which stretches one of these changes."""
        changed = np.zeros(len(self.names), bool)
        for one in self.alone:
            if one.candidate in chosen:
                changed[list(one.changes)] = True
        return changed

    def _target(self, state: State, where: int) -> np.ndarray:
        """What is apart at the end of a stretch."""
        name = self.names[where]
        made = self.fit.subject.from_given(state.chosen) or self.ours
        return some(self.fit.subject.expected[name] - made[name], _ELEMENTS)

    def _extended(self, state: State, others: Iterable[Beside], where: int | None = None) -> list[State]:
        """Those beside which fewer stretches are wrong, and none that was right; `where`: with this one right."""
        found: list[State] = []
        right = state.errors <= self.limits
        limit = None if where is None else (self.names[where], float(self.limits[where]))
        last = np.inf
        made_beside = (
            ((*state.chosen, *more, other), made)
            for more, each in others
            for other, made in self.at_once.beside((*state.chosen, *more), each, given=True)
        )
        for number, (chosen, many) in enumerate(in_time(made_beside)):
            if number >= last:
                break
            made = self.fit.subject.from_given(chosen, limit) if many is None else many
            if made is None:
                continue
            errors = self._errors(made)
            if (where is None or errors[where] <= self.limits[where]) and not (
                errors[right] > self.limits[right]
            ).any():
                found.append(State(chosen, errors))
                if not self._wrong(found[-1]):
                    last = min(last, max(_PAIRS, _AS_FAR * number))
            if where is not None and len(found) == _KEPT:
                break
        before = self._wrong(state)
        return [made for made in sorted(found, key=self._wrong)[:_KEPT] if self._wrong(made) < before]

    def _with_a_part(self) -> Iterator[Chosen]:
        """Deviations that leave no more than rounding could, and the part in less precision whose rounding it is."""
        self.limits = np.where(self.base <= SMALL, SMALL, np.minimum(SMALL, _MOSTLY * self.base))
        try:
            choices = [c for c, _ in zip(self._solved(MOST - 1), range(_PART_BESIDE))]
        finally:
            self.limits = np.full(len(self.names), RIGHT)
        for chosen in choices:
            made = self.fit.subject.from_given(chosen)
            left = self._errors(made) if made is not None else None
            if not chosen or left is None or not (left > RIGHT).any():
                continue
            where = int(np.flatnonzero(left > RIGHT)[0])
            limit = self.names[where], max(RIGHT, EXACT * float(left[where]))
            for part in in_time(sorted(self.parts.candidates, key=lambda c: c.rare)):
                again = self.fit.subject.from_given((*chosen, part), limit)
                if again is not None and self._repeats(self._errors(again), left):
                    yield (*chosen, part)

    def _repeats(self, errors: np.ndarray, left: np.ndarray) -> bool:
        """Whether a part's rounding, repeated, is nearly all that was left of every stretch."""
        return bool((errors <= np.maximum(RIGHT, EXACT * left)).all())


def _told(changes: dict[int, np.ndarray]) -> tuple[tuple[int, bytes], ...]:
    """What tells a deviation from others that do the same."""
    return tuple((i, (np.round(change, 11) + 0.0).tobytes()) for i, change in changes.items())
