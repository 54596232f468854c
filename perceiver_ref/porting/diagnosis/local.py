"""The search in a large case with traced points: near the first point that differs, and then from point to point.

Only what lies between the last values that agree and that point is run again, in float64, from the case's own values,
and of rows that do not depend on each other a few. What sets the point right there is tried in the rest of the model:
wherever it could be, and there alone. Each of these runs goes on from the case's own values where they agree, and ends
at the first that does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, groupby, islice
from typing import NamedTuple

import numpy as np

from ...autograd.backend import to_host
from ...host.budget import in_time
from ...host.progress import steps
from ...models.tracing import where
from ..deviations import CAUSES, Candidate, Survey, candidates
from ..deviations.base import layer_of
from ..subject import course as courses
from ..subject.close import closeness
from ..subject.course import Part, rows_of
from ..subject.large import AGREES, ROOM, LargeSubject
from ..subject.memo import Memo

RIGHT = 0.01
"""A deviation sets a point right when it leaves at most this part of the difference there,"""
ROUNDED = 0.5
"""or at most this, and no more than rounding."""
MOST = 3
"""So many deviations are looked for, one after the other."""
_TIED = 3.0
"""Deviations that leave no more than so many times what the best leaves are tried in the rest of the model, too."""
_VARIANTS = 24
"""So many runs of the rest of the model at most, for one point"""
_BESIDE = 6
"""So many of what leaves little of a point's difference, and more than rounding, are each tried with a second there"""


_LABEL = re.compile(r", (everywhere|in .*|outside .*)$")
"""Where a deviation is, at the end of its variant"""
_NAMED_OTHERWISE = ("head-layout",)
"""Deviations that give values between two points other names, by parameters in another order: at those points between
they differ where the port does not"""


Found = tuple[tuple[Candidate, ...], str | None]
"""Deviations, and the first point or output that is apart with them"""


class Right(NamedTuple):
    """A deviation made only near a point, and what it leaves of the difference there. `hidden`: the points, by the last
    part of their names, at which it differs from what is right."""

    remaining: float
    candidate: Candidate
    hidden: frozenset[str] = frozenset()


@dataclass
class Local:
    """`tried` counts what was run, by where it was."""

    subject: LargeSubject

    def __post_init__(self) -> None:
        self.tried: dict[str, int] = {}
        self._every: dict[str, list[Candidate]] = {}
        """Of each cause that was asked for, the deviations in all of the model"""

    def run(self) -> tuple[Candidate, ...] | None:
        """The deviations with which all points and outputs agree; None where none are found."""
        chosen: tuple[Candidate, ...] = ()
        self.hidden: frozenset[str] = frozenset()
        self.subject.look_at_maps()
        name = self.subject.first
        while name is not None and len(chosen) < MOST:
            found = self._extended(chosen, name)
            if found is None:
                return None
            chosen, name = found
        return chosen if chosen and name is None else None

    def _extended(self, chosen: tuple[Candidate, ...], name: str, *, alone: bool = True) -> Found | None:
        """Deviations that set this point right too, and the next that is apart with them; two of them where none does
        `alone`."""
        near, tried = Near(self.subject, name, chosen), self.tried.get(name, 0)
        best: tuple[int, tuple[Candidate, ...], str | None] | None = None
        names, kept = list(self.subject.expected), self.hidden
        skipped: list[tuple[Candidate, frozenset[str]]] = []
        failed: set[tuple[str, str]] = set()
        """What is still wrong in the layer of the point, wherever else it is made"""
        for candidate, hidden in in_time(chain(self._variants(near.search()), skipped)):
            self.tried[name] = tried + near.tried
            kind = (candidate.cause, _LABEL.sub("", candidate.variant))
            if candidate in chosen or kind in failed:
                continue
            made, now = (*chosen, candidate), self.hidden | hidden
            first_look = (candidate, hidden) not in skipped and candidate.here is None
            if first_look and self._tail > near.begin and self.subject.closely(made, self._tail, hidden=now)[0]:
                skipped.append((candidate, hidden))  # what is wrong in the last layer is wrong, unless two things are
                continue
            wrong, outputs = self.subject.closely(made, near.begin, hidden=now)
            if wrong is None and near.begin and candidate.here is None:
                end = self.subject.stands_for.get(near.target, near.target)
                wrong, _ = self.subject.closely(made, 0, end, hidden=now)
            wrong = f"trace/{wrong}" if wrong is not None else self._wrong_output(outputs)
            place = len(names) if wrong is None else names.index(wrong)
            if wrong is not None and place > names.index(name) and near.is_of_layer(wrong):
                failed.add(kind)
            if place > names.index(name) and (best is None or place > best[0]):
                best, kept = (place, made, wrong), now
            if wrong is None:
                self.outputs = outputs
                break
        self.hidden = kept
        self.tried[name] = tried + near.tried
        if best is None and alone and len(chosen) + 1 < MOST:
            return self._beside(chosen, near)
        return None if best is None else best[1:]

    def _beside(self, chosen: tuple[Candidate, ...], near: Near) -> Found | None:
        """Two deviations between two points: one leaves little of the difference there, and another nothing of that."""
        found, before, names = sorted(near.found, key=lambda r: r.remaining), self.hidden, list(self.subject.expected)
        best, kept, furthest = None, before, -1
        for first, hidden in in_time(islice(self._variants(found), _BESIDE)):
            if first in chosen:
                continue
            self.hidden = before | hidden
            made = self._extended((*chosen, first), near.name, alone=False)
            place = -1 if made is None else len(names) if made[1] is None else names.index(made[1])
            if place > furthest:
                best, kept, furthest = made, self.hidden, place
            if place == len(names):
                break
        self.hidden = kept
        return best

    def _wrong_output(self, outputs: dict[str, np.ndarray]) -> str | None:
        for name, array in outputs.items():
            if not self.subject.agrees(closeness(array, self.subject.expected[name])):
                return name
        return None

    def _variants(self, right: Iterable[Right]) -> Iterator[tuple[Candidate, frozenset[str]]]:
        """What is tried in the rest of the model: of each cause that fits, groups of places, then the place alone."""
        given, count = set[int](), 0
        for _, local, hidden in right:
            every = self._every.setdefault(local.cause, candidates(self.subject.survey, (local.cause,)))
            start = local.variant.rpartition(", in ")[0]
            for rare in (False, True):
                for candidate in every:
                    same = candidate.rare == rare and candidate.variant.startswith(start)
                    if same and id(candidate) not in given:
                        given.add(id(candidate))
                        count += 1
                        if count <= _VARIANTS:
                            yield candidate, hidden
            yield local, hidden

    @cached_property
    def _tail(self) -> int:
        """The first step of the last layer."""
        steps = self.subject.course.steps
        last = layer_of(steps[-1].place)
        return min(i for i, step in enumerate(steps) if layer_of(step.place) == last)


class Near:
    """What lies between the values that agree and the point `name` ("trace/..." or "output/...")."""

    def __init__(self, subject: LargeSubject, name: str, chosen: Sequence[Candidate] = ()) -> None:
        self.subject, self.name, self.chosen = subject, name, tuple(chosen)
        self.target = subject.points.get(name.removeprefix("trace/"), name)
        course = subject.course
        end = subject.step_of(self.target)
        self.end = len(course.steps) - 1 if end is None else end
        self.before = subject.numbers.get(subject.stands_for.get(self.target, self.target), len(subject.numbers))
        self.layer = layer_of(self.target)
        self.tried = 0
        self.found: list[Right] = []
        """What `search` gave so far"""
        self.theirs = subject.expected[name].astype(np.float64)
        agreed = {course.points[o] for o, n in subject.numbers.items() if n < self.before and o in subject.given}
        self.leading = course.needed([self.end], agreed - {self.end})
        self.agreed = {i for i in agreed if i != self.end and layer_of(course.steps[i].place) != self.layer}
        own = {i for i in range(self.end + 1) if layer_of(course.steps[i].place) == self.layer}
        own |= {i for i in range(self.end + 1) if course.steps[i].passed == self.before}
        self.inside = self.leading | own
        self.all_needed = course.needed(self.inside, self.agreed)
        self.begin = min(i for i in self.inside if i >= min(own | {self.end}))

    def is_of_layer(self, name: str) -> bool:
        """Whether another point is of the same layer."""
        return layer_of(self.subject.points.get(name.removeprefix("trace/"), "")) == self.layer

    def search(self) -> Iterator[Right]:
        """Deviations made only here that set the point right; of each cause the best first."""
        course, given = self.subject.course, set[tuple[str, str]]()
        for chosen in (self.leading, self.inside):
            for right in self._search(chosen, course.needed(chosen, self.agreed)):
                key = (right.candidate.cause, right.candidate.variant)
                if key not in given:
                    given.add(key)
                    self.found.append(right)
                    yield right

    def _search(self, inside: set[int], needed: set[int]) -> Iterator[Right]:
        subject = self.subject
        few, rows = subject.course.sampled(self.end)
        part = Part(subject.course.steps, needed, np.dtype(np.float64), min(inside), few, rows)
        shape = self.theirs.shape
        self.cut = bool(few) and len(shape) > 1 and shape[-2] == rows > courses.ROWS
        if self.cut:
            ours = subject.ours.get(self.name)
            apart = self.theirs if ours is None or ours.shape != shape else ours - self.theirs
            part.chosen = rows_of(apart)
        else:
            part.few = ()
        memo = Memo(ROOM // 2)
        part.kept = memo.record
        base = self._left(part, ())
        if base is None or not base > AGREES[subject.case.meta["dtype"]] / 4:
            return
        known, part.kept = dict(part.wide), memo.once
        survey = self._survey(inside)
        places = {used.place for used in survey.events}

        def here() -> bool:
            place = where()
            return place in places or layer_of(place) == self.layer

        limit = AGREES[subject.case.meta["dtype"]]
        every = candidates(survey, (cause for cause in CAUSES if cause != "dtype"))
        in_order = sorted(every, key=lambda c: (c.rare, [e.cause for e in every].index(c.cause)))
        for _, of_cause in groupby(in_time(steps(in_order, "trying near the first difference")), lambda c: c.cause):
            found: list[Right] = []
            for candidate in of_cause:
                variant = f"{candidate.variant.removesuffix(', everywhere')}, in {self.layer or 'the model'}"
                local = replace(candidate, variant=variant, here=here)
                part.wide = dict(known)
                hidden: set[str] | None = set() if candidate.cause in _NAMED_OTHERWISE else None
                part.needed = needed if hidden is None else self._behind(inside)
                left = self._left(part, (local,), hidden)
                self.tried += 1
                if left is None or not (left <= RIGHT * base or (left <= ROUNDED * base and left <= limit)):
                    continue
                if hidden is not None:
                    part.needed = self.all_needed
                    self._left(part, (local,), hidden)  # which of the other points differ
                found.append(Right(left / base, local, frozenset(hidden or ())))
            found.sort(key=lambda right: right.remaining)
            yield from (right for right in found if right.remaining <= _TIED * max(found[0].remaining, 1e-6))

    def _behind(self, inside: set[int]) -> set[int]:
        """What is needed where other points of the layer do not stand for what makes them."""
        course = self.subject.course
        if inside != self.leading:
            return course.needed(inside, self.agreed)
        values = course.points.get(f"{self.target.rpartition('.')[0]}.value")
        unused = {values} if self.target in self.subject.stands_for else set()  # weights are made of queries and keys
        return course.needed(self.inside - unused, self.agreed)

    def _left(self, part: Part, local: Sequence[Candidate], hidden: set[str] | None = None) -> float | None:
        """What is apart at the point, relative, in the root mean square."""
        made = self.subject.partly(part, self.target, (*self.chosen, *local), hidden)
        if made is None or made.shape != self.theirs.shape:
            return None
        theirs = self.theirs
        if self.cut:
            made, theirs = made[..., part.chosen, :], theirs[..., part.chosen, :]
        made = to_host(made)
        left = float(np.linalg.norm((made - theirs).reshape(-1))) / max(float(np.linalg.norm(theirs)), 1e-300)
        return left if np.isfinite(left) else None

    def _survey(self, inside: set[int]) -> Survey:
        events = self.subject.survey.events
        maps = {events[i].place for i in inside if events[i].op == "attention_weights"}
        inside = inside | {i for i, used in enumerate(events) if used.op == "attention" and used.place in maps}
        return replace(self.subject.survey, events=[events[i] for i in sorted(inside)], partial=True)
