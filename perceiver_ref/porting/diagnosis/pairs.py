"""The pairs of deviations that are worth a run, the most promising first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ...host.budget import in_time
from ...host.progress import steps
from ..cases.compare import difference
from ..deviations import Candidate
from ..subject import NOTHING, Arrays
from .fit import Fit
from .parts import SMALL, Parts

_RANKED, _LEADERS = 250, 6
_MOSTLY = 0.3  # of the difference is left at most by a deviation beside which the other is a small one


class Effect(NamedTuple):
    """What a deviation alone does to the outputs, and what it leaves at the first point that differs and in all."""

    candidate: Candidate
    change: np.ndarray
    first: float
    remaining: float


@dataclass
class Pairs:
    """`candidates` are deviations that are not of precision, `parts` those that are."""

    fit: Fit
    candidates: Sequence[Candidate]
    parts: Parts

    @cached_property
    def effects(self) -> list[Effect]:
        """What each deviation alone does, without those that do nothing or the same as another of their kind."""
        effects: list[Effect] = []
        ours = self.fit.ours
        for candidate in in_time(steps(self.candidates, "measuring deviation")):
            made = self.fit.subject.deviating((candidate,))
            if made is None or any(name not in made for name in ours):
                continue
            if any(made[name].shape != array.shape for name, array in ours.items()):
                continue
            change = self.fit.flat(made) - self.fit.flat(ours)
            if not np.isfinite(change).all() or float(np.abs(change).max(initial=0.0)) <= 1e-12:
                continue
            same = (np.abs(change - e.change).max() <= 1e-12 for e in effects if e.candidate.cause == candidate.cause)
            if not any(same):
                effects.append(Effect(candidate, change, self._left_at_first(made), self.fit.remaining(made)))
        return effects

    def __iter__(self) -> Iterator[tuple[Candidate, ...]]:
        """Pairs of deviations of different kinds."""
        leaders = sorted(self.effects, key=lambda effect: effect.remaining)[:_LEADERS]
        fitting = [e for e in self.effects if e.first <= NOTHING][: 2 * _LEADERS] if self._traced else []
        yield from self._one_after_the_other(fitting)
        yield from self._with_a_part([*fitting[:_LEADERS], *(e for e in leaders[:3] if e.remaining <= _MOSTLY)])
        yield from self._adding_up()
        yield from self._after_a_part()
        for leader in leaders:
            yield from self._with_others(leader.candidate)

    @property
    def _traced(self) -> bool:
        return self.parts.first is not None and self.parts.first.startswith("trace/")

    def _with_others(self, candidate: Candidate) -> Iterator[tuple[Candidate, ...]]:
        for other in self.effects:
            if other.candidate.cause != candidate.cause:
                yield (candidate, other.candidate)

    def _left_at_first(self, made: Arrays) -> float:
        """What is left of the error at the first point that differs, 0 to 1 and more."""
        first = self.parts.first
        if first is None:
            return 1.0
        theirs = self.fit.subject.expected[first]
        return difference(made[first], theirs) / max(difference(self.fit.ours[first], theirs), 1e-300)

    def _one_after_the_other(self, fitting: Sequence[Effect]) -> Iterator[tuple[Candidate, ...]]:
        """A deviation that sets the first point right, and then one that sets the next right."""
        for effect in fitting:
            made = self.fit.subject.deviating((effect.candidate,))
            errors = {} if made is None else self.fit.subject.errors(made)
            gate = self.fit.gate(next((name for name, e in errors.items() if e > 1e-9), None), errors)
            for pair in in_time(self._with_others(effect.candidate)):
                if self.fit.subject.deviating(pair, gate) is not None:
                    yield pair

    def _with_a_part(self, effects: Sequence[Effect]) -> Iterator[tuple[Candidate, ...]]:
        """What one of these leaves may be rounding of a part in less precision."""
        for candidate in dict.fromkeys(effect.candidate for effect in effects):
            part = self.parts.best((candidate,), rare=False) or self.parts.best((candidate,))
            if part is not None and part.repeated:
                yield part.chosen
                return

    def _after_a_part(self) -> Iterator[tuple[Candidate, ...]]:
        """A part in less precision that repeats the first point, or most of what differs, and another deviation."""
        if self.fit.size(self.fit.ours) > 4 * SMALL and not self._traced:
            return
        self.parts.best()
        parts = [p for p in self.parts.alone() if p.alike_first >= 0.5 or p.remaining <= _MOSTLY]
        for part in sorted(parts, key=lambda p: (-p.alike_first, p.remaining))[: _LEADERS // 2]:
            yield from self._with_others(part.chosen[0])

    def _adding_up(self) -> Iterator[tuple[Candidate, ...]]:
        """Those whose effects on the outputs add up to the difference, as far as they do."""
        effects = self.effects
        if not effects:
            return
        target = self.fit.flat(self.fit.subject.expected) - self.fit.flat(self.fit.ours)
        matrix = np.stack([effect.change for effect in effects])
        products, against = matrix @ matrix.T, matrix @ target
        alone = np.diag(products) - 2 * against
        left = alone[:, None] + alone[None, :] + 2 * products
        kinds = np.array([effect.candidate.cause for effect in effects])
        left[kinds[:, None] == kinds[None, :]] = np.inf
        left[np.tril_indices(len(effects))] = np.inf
        for flat in np.argsort(left, axis=None)[:_RANKED]:
            i, j = divmod(int(flat), len(effects))
            if np.isfinite(left[i, j]):
                yield (effects[i].candidate, effects[j].candidate)
