"""The search for what explains a difference: single deviations, a part in less precision, rounding, pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..vectors.compare import difference
from .deviations import Candidate, candidates
from .rounding import DIGITS, arithmetic, rounded_tree
from .roundings import Roundings
from .subject import Arrays, Subject

EXPLAINED = 0.01
"""A deviation is the cause when it leaves at most this part of the difference."""
NOTHING = 1e-6
"""What is left is nothing: float64 leaves less, and two deviations that both leave so little cannot be told apart."""
PARTLY = 0.6
"""As `EXPLAINED`, for a part in less precision, whose rounding errors cannot all be repeated, where it is known to be a
part: another deviation leaves it, or traced points before it agree."""
REPEATED = 0.1
"""As `PARTLY`, where rounding of everything is as likely: rounding of a part then repeats what was rounded."""
_RANKED, _LEADERS = 250, 6


@dataclass(frozen=True)
class Cause:
    """A deviation with the variant that fits and what its explanation leaves of the difference, 0 to 1."""

    cause: str
    variant: str
    remaining: float


class _Score(NamedTuple):
    remaining: float
    chosen: tuple[Candidate, ...]


class _Effect(NamedTuple):
    """What a deviation alone does to the outputs, and what it leaves at the first point that differs and in all."""

    candidate: Candidate
    change: np.ndarray
    first: float
    remaining: float


class Search:
    """`run` gives the verdict; `others` are further explanations, `dtype` the format of the verdict "rounding"."""

    def __init__(self, subject: Subject, ours: Arrays, errors: dict[str, float], roundings: Roundings) -> None:
        self.subject, self.ours, self.errors, self.roundings = subject, ours, errors, roundings
        self.given = subject.case.meta["dtype"]
        self.noise: Mapping[str, float] = {} if self.given == "float64" else roundings.at(self.given)
        self.found = candidates(subject.survey)
        self.first = next((n for n, e in errors.items() if e > max(1e-9, self.noise.get(n, 0.0))), None)
        self.scores: list[_Score] = []
        self.others: list[list[Cause]] = []
        self.dtype: str | None = None

    def first_divergence(self) -> str | None:
        """The peer's name of the first traced point that differs."""
        traced = self.first is not None and self.first.startswith("trace/")
        return self.first.removeprefix("trace/") if traced and self.first else None

    def run(self) -> tuple[str, list[Cause]]:
        """(verdict, explanation)."""
        if self.noise and self.roundings.holds(self.given, self.errors):
            return self._rounding(self.given)
        best = self._single() or self._single(gated=False)
        if best and best.remaining <= NOTHING:
            return self._deviation()
        if best is not None:
            self._second(best)
            return self._deviation()
        part = self._part(())
        if part is None and self.roundings.holds("float32", self.errors):
            return self._rounding("float32")
        if part is not None:
            self.scores.append(part)
            return self._deviation()
        for pair in self._pairs():
            if self._try(pair) and self.scores[-1].remaining <= NOTHING:
                break
        if self.scores:
            return self._deviation()
        for dtype in ("tf32", "float16", "bfloat16"):
            if self.roundings.holds(dtype, self.errors):
                return self._rounding(dtype)
        return "unexplained", []

    def _rounding(self, dtype: str) -> tuple[str, list[Cause]]:
        self.dtype = dtype
        return "rounding", []

    def _deviation(self) -> tuple[str, list[Cause]]:
        """The best explanation so far; among equally good ones the shorter, and the first of the table."""
        floor = min(score.remaining for score in self.scores)
        good = sorted(
            self.scores,
            key=lambda s: (0.0 if s.remaining <= max(10 * floor, NOTHING) else s.remaining, len(s.chosen)),
        )
        made = [[Cause(c.cause, c.variant, score.remaining) for c in score.chosen] for score in good]
        kept: list[list[Cause]] = []
        for causes in made:
            if [c.cause for c in causes] not in [[c.cause for c in other] for other in kept]:
                kept.append(causes)
        self.others = kept[1:]
        return "deviation", kept[0]

    def remaining(self, made: Arrays) -> float:
        """The part of the difference in the outputs that is left, 0 to about 1."""
        left = total = 0.0
        for name, expected in self.subject.expected.items():
            if not name.startswith("output/"):
                continue
            if name not in made or made[name].shape != expected.shape or not np.isfinite(made[name]).all():
                return float("inf")
            scale = max(float(np.abs(expected).max(initial=0.0)), 1.0)
            left += float((np.square((made[name] - expected) / scale)).sum())
            total += float((np.square((self.ours[name] - expected) / scale)).sum())
        return float(np.sqrt(left / total)) if total else 0.0

    def _explains(self, remaining: float, made: Arrays) -> bool:
        """Whether what is left is little, or rounding of the case's dtype."""
        if remaining <= EXPLAINED:
            return True
        left = self.subject.errors(made)
        return bool(self.noise) and all(e <= self.noise.get(name, 0.0) for name, e in left.items())

    def _try(self, chosen: tuple[Candidate, ...], gate: Mapping[str, float] | None = None) -> bool:
        """Note deviations that explain the difference."""
        made = self.subject.deviating(chosen, gate)
        if made is None:
            return False
        remaining = self.remaining(made)
        explained = self._explains(remaining, made)
        if explained:
            self.scores.append(_Score(remaining, chosen))
        return explained

    def _gate(self, point: str | None, errors: Mapping[str, float], part: float = 0.1) -> dict[str, float] | None:
        """The first point that differs must come right, and those before it stay so."""
        if point is None or not point.startswith("trace/"):
            return None
        names = list(errors)
        limits = {n: max(1e-9, self.noise.get(n, 0.0), errors[n]) for n in names[: names.index(point)]}
        return limits | {point: max(part * errors[point], self.noise.get(point, 0.0))}

    def _single(self, *, gated: bool = True) -> _Score | None:
        gate = self._gate(self.first, self.errors) if gated else None
        if not gated and self._gate(self.first, self.errors) is None:
            return None
        for rare in (False, True):
            for candidate in self.found:
                if candidate.rare != rare or candidate.cause == "dtype":
                    continue
                if self._try((candidate,), gate) and self.scores[-1].remaining <= NOTHING:
                    return self.scores[-1]
            if self.scores:
                return min(self.scores, key=lambda score: score.remaining)
        return None

    def _second(self, best: _Score) -> None:
        """What the best single deviation leaves may be a second one, of another kind or of precision."""
        for candidate in self.found:
            if candidate.cause not in ("dtype", best.chosen[0].cause):
                self._try((*best.chosen, candidate))
                if self.scores[-1].remaining <= NOTHING:
                    return
        if (part := self._part(best.chosen)) is not None and part.remaining <= PARTLY * best.remaining:
            self.scores = [part, best]

    def _part(self, chosen: tuple[Candidate, ...]) -> _Score | None:
        """A part in less precision, where it repeats the difference and better than everything in less precision."""
        best: _Score | None = None
        limit = PARTLY * (min(score.remaining for score in self.scores) if chosen else 1.0)
        for rare in (False, True):
            if best is not None and best.remaining <= limit:
                break
            for candidate in self.found:
                if candidate.cause == "dtype" and candidate.rare == rare:
                    made = self.subject.deviating((*chosen, candidate))
                    remaining = float("inf") if made is None else self.remaining(made)
                    if best is None or remaining < best.remaining:
                        best = _Score(remaining, (*chosen, candidate))
        if chosen:
            return best
        if best is None or not best.remaining <= (PARTLY if self._begins_late() else REPEATED):
            return None
        for dtype in ("float32", "bfloat16", "float16"):
            params, inputs = (rounded_tree(t, DIGITS[dtype]) for t in (self.subject.params, self.subject.inputs))
            with arithmetic(dtype):
                whole = self.subject.compute(params, inputs)
            if self.remaining(whole) <= 3 * best.remaining:
                return None
        return best

    def _begins_late(self) -> bool:
        """Whether traced points before the first that differs agree to the last digits."""
        names = list(self.errors)
        before = names[: names.index(self.first)] if self.first in names else []
        return any(name.startswith("trace/") and self._computed(name) for name in before)

    def _computed(self, name: str) -> bool:
        """Whether rounding could change a point at all: parameters passed on are exact in any case."""
        return self.roundings.at("float32").get(name, 0.0) > 1e-9

    def _pairs(self) -> Iterator[tuple[Candidate, ...]]:
        """Pairs of deviations of different kinds, the most promising first."""
        effects = self._effects()
        yield from self._one_after_the_other(effects)
        yield from self._adding_up(effects)
        leaders = sorted(effects, key=lambda effect: effect.remaining)[:_LEADERS]
        for leader in leaders:
            for other in effects:
                if other.candidate.cause != leader.candidate.cause:
                    yield (leader.candidate, other.candidate)

    def _effects(self) -> list[_Effect]:
        """What each deviation alone does, without those that do nothing or the same as another of their kind."""
        effects: list[_Effect] = []
        for candidate in self.found:
            made = None if candidate.cause == "dtype" else self.subject.deviating((candidate,))
            if made is None or any(name not in made for name in self.ours):
                continue
            if any(made[name].shape != array.shape for name, array in self.ours.items()):
                continue
            change = self._flat(made) - self._flat(self.ours)
            if not np.isfinite(change).all() or float(np.abs(change).max(initial=0.0)) <= 1e-12:
                continue
            same = (np.abs(change - e.change).max() <= 1e-12 for e in effects if e.candidate.cause == candidate.cause)
            if not any(same):
                effects.append(_Effect(candidate, change, self._left_at_first(made), self.remaining(made)))
        return effects

    def _left_at_first(self, made: Arrays) -> float:
        """What is left of the error at the first point that differs, 0 to 1 and more."""
        if self.first is None:
            return 1.0
        left = difference(made[self.first], self.subject.expected[self.first])
        return left / max(self.errors[self.first], 1e-300)

    def _one_after_the_other(self, effects: list[_Effect]) -> Iterator[tuple[Candidate, ...]]:
        """A deviation that sets the first point right, and then one that sets the next right."""
        if self._gate(self.first, self.errors) is None:
            return
        for effect in [e for e in effects if e.first <= NOTHING][: 2 * _LEADERS]:
            made = self.subject.deviating((effect.candidate,))
            errors = {} if made is None else self.subject.errors(made)
            point = next((name for name, e in errors.items() if e > 1e-9), None)
            gate = self._gate(point, errors)
            for other in effects:
                if other.candidate.cause != effect.candidate.cause:
                    pair = (effect.candidate, other.candidate)
                    if self.subject.deviating(pair, gate) is not None:
                        yield pair

    def _adding_up(self, effects: list[_Effect]) -> Iterator[tuple[Candidate, ...]]:
        """Those whose effects on the outputs add up to the difference, as far as they do."""
        if not effects:
            return
        target = self._flat(self.subject.expected) - self._flat(self.ours)
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

    def _flat(self, arrays: Arrays) -> np.ndarray:
        parts = []
        for name, expected in self.subject.expected.items():
            if name.startswith("output/"):
                scale = max(float(np.abs(expected).max(initial=0.0)), 1.0)
                parts.append(np.asarray(arrays[name], np.float64).reshape(-1) / scale)
        return np.concatenate(parts)
