"""The order in which deviations of a large case without traced points are run: by what they do to the last layers.

A run of the whole model for each would take hours. Whatever is wrong everywhere is wrong in the last layers, too, and
there it moves the outputs towards those under test. Only these layers are run for each deviation, from what the
reference has before them, and for a few rows of the outputs; those that point the way are run first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...autograd import tree
from ...host.budget import is_half_spent
from ...host.progress import steps
from ..deviations import Candidate
from ..subject import Arrays
from ..subject.course import Part
from ..subject.large import ROOM, LargeSubject
from ..subject.memo import Memo

LAYERS = 2
"""So many of the last layers with attention are run."""
ROWS = 96
"""So many rows of the outputs are compared, where each is made by itself."""
CHANCE = 2.0
"""An effect that points this many times further than noise of its size would is one to be followed."""
SURE = 0.15
"""One that points so far, and five times as far as noise, is run at once."""
LARGEST = 3.0
"""What the last layers do alone is at most so many times the difference, and mostly a part of it."""
_NEARLY_ALL = 0.99
"""One is not run at once where others that point the same way tell that it leaves more than this."""
_ALIKE = 0.9
"""Effects that point the same way grow alike in the rest of the model."""
GROUP = re.compile(r",? (everywhere|in [a-z' .-]*|outside [a-z' ]*)$")
_PARTLY = 0.9
"""A deviation that leaves less than this everywhere is tried in parts of the model, too."""


class Effect(NamedTuple):
    """What a deviation of the last layers does to the rows that are looked at, without what is along the reference's
    own outputs: its size, and the cosine between it and the difference."""

    change: np.ndarray
    size: float
    cosine: float


class Screen:
    """Iterating gives all candidates in their order; `told` says what a run of the whole model made of the newest."""

    def __init__(self, subject: LargeSubject, candidates: Sequence[Candidate], most: int = LAYERS) -> None:
        self.subject, self.candidates = subject, candidates
        course = subject.course
        layers: list[str] = []
        for step in reversed(course.steps):
            if step.op == "attention" and step.place.rpartition(".")[0] not in layers:
                layers.append(step.place.rpartition(".")[0])
        last = tuple(layers[:most])
        self.last = layers[0] if layers else ""
        """The last layer with attention"""
        begins = [i for i, s in enumerate(course.steps) if s.place.startswith(last)] if last else []
        self.begin = max(0, _first_of_the_end(begins))
        few, rows = course.sampled(len(course.steps) - 1, self.begin)
        known = {i: made for i, made in course.newest.items() if i < self.begin}
        needed = course.needed(range(self.begin, len(course.steps)), known)
        self.part = Part(course.steps, needed, subject.dtype, self.begin, few, rows, known=known)
        self.part.chosen = np.unique(np.linspace(0, max(rows - 1, 0), ROWS).astype(int))
        if rows <= ROWS:
            self.part.few = ()
        memo = Memo(ROOM // 4)
        for _, array in tree.leaves(subject.params):
            memo.distinct(array)
        for made in known.values():
            for array in made if isinstance(made, tuple) else (made,):
                memo.distinct(array)
        self.part.kept = memo.record
        subject.ending(self.part)
        self.part.kept = memo.replay
        self.ours = self._row(subject.ours)
        self.wanted = self._apart(self._row(subject.expected) - self.ours)
        self.length = float(np.linalg.norm(self.wanted))
        self.known: dict[Candidate, Effect] = {}
        self.grown: list[tuple[Effect, float]] = []
        """Effects of those that were run, and how many times as large they are of the whole model"""
        self.sure = True
        """Whether the newest candidate points so far that it is run at once"""
        self._left = 1.0
        self._newest: Candidate | None = None

    def _row(self, made: Mapping[str, np.ndarray]) -> np.ndarray:
        """What is looked at of all outputs, in one row: of each column without its mean."""
        parts = []
        for name, wanted in self.subject.expected.items():
            array = made[name]
            if array.shape != wanted.shape:
                return np.zeros(0)
            if array.ndim > 1 and array.shape[-2] == self.part.rows and self.part.few:
                array = array[..., self.part.chosen, :]
            array = array.astype(np.float64)
            if array.ndim > 1 and array.shape[-2] > 1:
                array = array - array.mean(-2, keepdims=True)
            parts.append(array.reshape(-1) / max(float(np.abs(wanted).max(initial=0.0)), 1.0))
        return np.concatenate(parts)

    def _apart(self, change: np.ndarray) -> np.ndarray:
        """A change without its part along our outputs: whatever breaks the model takes that away."""
        own = float(self.ours @ self.ours)
        return change - self.ours * (float(self.ours @ change) / own) if own else change

    def _effect(self, candidate: Candidate) -> Effect | None:
        made = self.subject.ending(self.part, candidate)
        if made is None or any(name not in made for name in self.subject.expected):
            return None
        row = self._row(made)
        if row.shape != self.ours.shape or not np.isfinite(row).all():
            return None
        change = self._apart(row - self.ours)
        size = float(np.linalg.norm(change))
        if size <= 1e-7 * float(np.linalg.norm(self.ours)):
            return None
        return Effect(change, size, float(change @ self.wanted) / (size * max(self.length, 1e-300)))

    def __iter__(self) -> Iterator[Candidate]:
        kinds = [c for c in self.candidates if _everywhere(c) or not GROUP.search(c.variant)]
        given: set[int] = set()
        deviation = 1 / max(float(np.sqrt(self.wanted.size)), 1.0)
        for candidate in steps(kinds, "looking at the last layers"):
            if is_half_spent():
                break
            if (effect := self._effect(candidate)) is None:
                continue
            self.known[candidate] = effect
            if effect.cosine > max(SURE, 5 * deviation) and self._is_likely(effect):
                given.add(id(candidate))
                self._newest = candidate
                yield candidate
        self.sure = False
        likely = [
            c for c, effect in self.known.items() if effect.cosine > CHANCE * deviation and self._could_be(effect)
        ]
        waiting = [c for c in likely if id(c) not in given]
        others = [c for c in self.candidates if c not in self.known]  # their effect is not of the last layers
        while waiting:
            best = min(waiting, key=lambda c: self._leaves(self.known[c]))
            waiting.remove(best)
            given.add(id(best))
            self._newest, self._left = best, 1.0
            yield best
            if self._left < _PARTLY:
                for candidate in self._parts(best):
                    if id(candidate) not in given:
                        given.add(id(candidate))
                        self._newest = None
                        yield candidate
        for candidate in (*others, *self.candidates):
            if id(candidate) not in given:
                given.add(id(candidate))
                self._newest = None
                yield candidate

    def _parts(self, candidate: Candidate) -> list[Candidate]:
        kind = GROUP.sub("", candidate.variant)
        return [
            c
            for c in self.candidates
            if c is not candidate and c.cause == candidate.cause and GROUP.sub("", c.variant) == kind
        ]

    def _leaves(self, effect: Effect) -> float:
        """What is left of the difference, where the effect of the whole model points as that of its end does.

        How much larger it is, effects that point the same way tell that were run.
        """
        left = float(np.sqrt(max(1.0 - effect.cosine**2, 0.0)))
        for known, times in self.grown:
            alike = float(known.change @ effect.change) / (known.size * effect.size)
            if alike > _ALIKE:
                made = times * effect.size / self.length
                left = max(left, float(np.sqrt(max(1.0 - 2 * made * effect.cosine / alike + made**2, 0.0))))
        return left

    def _is_likely(self, effect: Effect) -> bool:
        return self._could_be(effect) and self._leaves(effect) < _NEARLY_ALL

    def _could_be(self, effect: Effect) -> bool:
        """Whether the last layers alone do not do much more than all of the model."""
        return effect.size <= LARGEST * self.length

    def told(self, made: Arrays | None, remaining: float) -> None:
        """What a run of the whole model made with the newest candidate, and what that leaves of the difference."""
        self._left = remaining
        if made is None or self._newest is None:
            return
        row = self._row(made)
        if row.shape == self.ours.shape and np.isfinite(row).all():
            effect = self.known[self._newest]
            self.grown.append((effect, float(np.linalg.norm(self._apart(row - self.ours))) / effect.size))


def _everywhere(candidate: Candidate) -> bool:
    return candidate.variant.endswith("everywhere")


def _first_of_the_end(numbers: Sequence[int]) -> int:
    """The first of the last run of numbers: layers that run again and again are meant where they do so last."""
    for k in range(len(numbers) - 1, 0, -1):
        if numbers[k] - numbers[k - 1] > _GAP:
            return numbers[k]
    return numbers[0] if numbers else 0


_GAP = 8
"""Steps between layers, at most"""
