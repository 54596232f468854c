"""The pairs of deviations that are worth a run, and three of them at once, the most promising first.

Where points are traced, what sets the first of them right is followed by what sets the next right. Outputs alone tell
less: deviations are ranked as if what each does to the outputs added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np

from ...host.budget import in_time
from ...host.progress import steps
from ..cases.compare import difference
from ..deviations import Candidate
from ..subject import NOTHING, Arrays
from .at_once import AtOnce
from .fit import Fit
from .parts import SMALL, Parts
from .ranking import Chosen, Effect, ranked_pairs, some
from .rounds import Rounds, sampled

K = TypeVar("K")
V = TypeVar("V")

_RANKED, _LEADERS, _FITTING = 250, 6, 12
_EVERY = 10_000
"""So many pairs are run as far as the first point that differs"""
_MOSTLY = 0.3  # of the difference is left at most by a deviation beside which the other is a small one


@dataclass
class Several:
    """`candidates` are deviations that are not of precision, `parts` those that are; `left` is what is known of pairs
    that were run: the part of the difference that they leave."""

    fit: Fit
    candidates: Sequence[Candidate]
    parts: Parts
    left: dict[Chosen, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known: dict[Candidate, Effect | None] = {}
        self.made: dict[Chosen, np.ndarray] = {}
        """What pairs that were run gave, as `Rounds` takes it"""
        self.at_once = AtOnce(self.fit, self.candidates)
        self.by_stretches = False
        """Whether what traced points tell has been looked at stretch by stretch"""

    def note(self, candidate: Candidate, made: Arrays | None) -> None:
        """What a deviation alone gave, where that has been run to its end."""
        self._known[candidate] = None if made is None else self._effect(candidate, made)

    def note_far(self, candidate: Candidate) -> bool:
        """Note what a deviation alone gives, where many are run at once and it does not come near to explaining."""
        made = self.at_once.alone(candidate)
        if made is None or self.at_once.is_worth(made, self.fit.remaining(made)):
            return False
        self.note(candidate, made)
        return True

    def note_pair(self, pair: Chosen, made: Arrays | None, left: float) -> None:
        """What a pair leaves, and gave where that has been run."""
        self.left[pair] = left
        if made is not None and np.isfinite(left):
            self.made[pair] = sampled(self.fit, made)

    @cached_property
    def effects(self) -> list[Effect]:
        """What each deviation alone does, without those that do nothing or the same as another of their kind."""
        by_cause: dict[str, list[Effect]] = {}
        for candidate in in_time(steps(self.candidates, "measuring deviation")):
            if candidate not in self._known and not self.note_far(candidate):
                self.note(candidate, self.fit.subject.deviating((candidate,)))
            effect, of_cause = self._known[candidate], by_cause.setdefault(candidate.cause, [])
            if effect is not None and not any(np.abs(effect.change - e.change).max() <= 1e-12 for e in of_cause):
                of_cause.append(effect)
        order = {candidate: number for number, candidate in enumerate(self.candidates)}
        return sorted((e for of in by_cause.values() for e in of), key=lambda e: order[e.candidate])

    def _effect(self, candidate: Candidate, made: Arrays) -> Effect | None:
        ours, first = self.fit.ours, self.parts.first
        if any(name not in made or made[name].shape != array.shape for name, array in ours.items()):
            return None
        change = self.fit.flat(made) - self.fit.flat(ours)
        if not np.isfinite(change).all() or float(np.abs(change).max(initial=0.0)) <= 1e-12:
            return None
        at_first = some(made[first] - ours[first]) if self._traced and first is not None else None
        return Effect(candidate, change, self._left_at_first(made), self.fit.remaining(made), at_first)

    def __iter__(self) -> Iterator[Chosen]:
        """Two deviations of different kinds, or three."""
        leaders = sorted(self.effects, key=lambda effect: effect.remaining)
        fitting = [e.candidate for e in self.effects if self._fits_first(e)][:_FITTING] if self._traced else []
        if not self.by_stretches:
            yield from self._one_after_the_other([(candidate,) for candidate in fitting])
        few = [e.candidate for e in leaders[:3] if e.remaining <= _MOSTLY]
        yield from self._with_a_part([*fitting[:_LEADERS], *few])
        if not self.by_stretches:
            yield from self._at_the_first()
        yield from self._adding_up()
        yield from self._after_a_part()
        yield from Rounds(self.fit, self.effects, self.left, self.made, self.at_once)

    @property
    def _traced(self) -> bool:
        return self.parts.first is not None and self.parts.first.startswith("trace/")

    def _with_others(self, chosen: Chosen) -> Iterator[Chosen]:
        causes = {candidate.cause for candidate in chosen}
        for other in self.effects:
            if other.candidate.cause not in causes:
                yield (*chosen, other.candidate)

    def _left_at_first(self, made: Arrays) -> float:
        """What is left of the error at the first point that differs, 0 to 1 and more."""
        first = self.parts.first
        if first is None:
            return 1.0
        theirs = self.fit.subject.expected[first]
        return difference(made[first], theirs) / max(difference(self.fit.ours[first], theirs), 1e-300)

    def _fits_first(self, effect: Effect) -> bool:
        first = self.parts.first or ""
        error = difference(self.fit.ours[first], self.fit.subject.expected[first])
        return effect.first * error <= max(NOTHING * error, self.fit.noise.get(first, 0.0))

    def _gate(self, chosen: Chosen) -> Mapping[str, float] | None:
        """What is to hold at traced points beside these deviations: the next that is wrong with them comes right. None
        where all of them are right."""
        made = self.fit.subject.deviating(chosen)
        errors = {} if made is None else self.fit.subject.errors(made)
        wrong = (name for name, e in errors.items() if e > max(1e-9, self.fit.noise.get(name, 0.0)))
        return self.fit.gate(next(wrong, None), errors)

    def _one_after_the_other(self, found: Sequence[Chosen]) -> Iterator[Chosen]:
        """Deviations that set the first point right, and then one that sets the next right, and then a third."""
        for number in (2, 3):
            passed: list[Chosen] = []
            for chosen in found:
                gate = self._gate(chosen)
                for more in in_time(self._with_others(chosen)):
                    if gate is None or self.fit.subject.deviating(more, gate) is not None:
                        passed += [more] if gate is not None else []
                        yield more
            if number == 3 or any(len(chosen) > 2 for chosen in passed):
                return
            found = _best_of_each((tuple(c.cause for c in more), more) for more in passed)[:_LEADERS]

    def _at_the_first(self) -> Iterator[Chosen]:
        """Two that set the first point right together, as none does alone; and a third beside them."""
        first, gate = self.parts.first, self.fit.gate(self.parts.first, self.fit.subject.errors(self.fit.ours))
        if first is None or gate is None:
            return
        like = self._alike_at_first()
        target = some(self.fit.subject.expected[first] - self.fit.ours[first])
        changes = [np.asarray(effects[0].at_first) for effects in like]
        passed: list[Chosen] = []
        for pair in in_time(ranked_pairs([effects[0].candidate for effects in like], changes, target, _EVERY)):
            if self.fit.subject.deviating(pair, gate) is not None:
                one, two = (next(of for of in like if of[0].candidate is candidate) for candidate in pair)
                both = [(a.candidate, b.candidate) for a in one for b in two]
                yield from both
                passed += both
                if len({tuple(c.cause for c in pair) for pair in passed}) == _LEADERS:
                    break
        kept = _best_of_each((tuple(c.cause for c in pair), pair) for pair in passed)
        for chosen in kept:
            beyond = self._gate(chosen)
            for more in in_time(self._with_others(chosen)):
                if beyond is None or self.fit.subject.deviating(more, beyond) is not None:
                    yield more

    def _alike_at_first(self) -> list[list[Effect]]:
        """The deviations that change the first point, those of a cause together that do the same there."""
        like: list[list[Effect]] = []
        by_cause: dict[str, list[list[Effect]]] = {}
        for effect in self.effects:
            at = effect.at_first
            if at is None or not np.isfinite(at).all() or float(np.abs(at).max(initial=0.0)) <= 1e-12:
                continue
            of_cause = by_cause.setdefault(effect.candidate.cause, [])
            same = next((of for of in of_cause if np.abs(np.asarray(of[0].at_first) - at).max() <= 1e-12), None)
            if same is None:
                of_cause.append([effect])
                like.append(of_cause[-1])
            else:
                same.append(effect)
        return like

    def _with_a_part(self, found: Sequence[Candidate]) -> Iterator[Chosen]:
        """What one of these leaves may be rounding of a part in less precision."""
        for candidate in dict.fromkeys(found):
            part = self.parts.best((candidate,), rare=False) or self.parts.best((candidate,))
            if part is not None and part.repeated:
                yield part.chosen
                return

    def _after_a_part(self) -> Iterator[Chosen]:
        """A part in less precision that repeats the first point, or most of what differs, and another deviation."""
        if self.fit.size(self.fit.ours) > 4 * SMALL and not self._traced:
            return
        self.parts.best()
        parts = [p for p in self.parts.alone() if p.alike_first >= 0.5 or p.remaining <= _MOSTLY]
        for part in sorted(parts, key=lambda p: (-p.alike_first, p.remaining))[: _LEADERS // 2]:
            yield from self._with_others((part.chosen[0],))

    def _adding_up(self) -> Iterator[Chosen]:
        """Those whose effects on the outputs add up to the difference, as far as they do."""
        target = some(self.fit.flat(self.fit.subject.expected) - self.fit.flat(self.fit.ours))
        yield from ranked_pairs(
            [e.candidate for e in self.effects], [some(e.change) for e in self.effects], target, _RANKED
        )


def _best_of_each(found: Iterable[tuple[K, V]]) -> list[V]:
    """The first of each key."""
    first: dict[K, V] = {}
    for key, value in found:
        first.setdefault(key, value)
    return list(first.values())
