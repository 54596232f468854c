"""The search for the step whose backward is wrong: by what its gradients reach, and then by walking back with it wrong.

A wrong backward rule leaves right all that is not upstream of it. Candidates that would reach a right gradient, or not
all wrong ones, are left aside; the others are walked, each only upstream of what it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...host.budget import in_time
from ..subject import EXPLAINED, NOTHING, Cause
from .backward import ROWS, Place, Wrong, described, factor_said, flows, narrowed, padding, scaled, shared
from .finishing import finishes
from .graph import Ran
from .target import Target

_SAME = 1e-5
"""Factors are the same number when they differ by less: a float64 run leaves 1e-9."""
_LOOSE = 60
"""So many of the candidates that reach gradients which seem right are walked, the fewest first."""
_NEWTON, _HOPELESS = 6, 0.8
"""Steps at most, and what a factor may leave at first for more to be tried"""
_NARROW = 2.0**-6
"""Rounding to bfloat16 makes no larger differences."""


class Guess(NamedTuple):
    """A wrong backward pass that explains the difference, and where it is."""

    remaining: float
    cause: str
    variant: str
    places: tuple[Place, ...]


class GradientSearch:
    """`run` gives the best guess, or None; `where` the place to name in either case."""

    def __init__(self, target: Target, noise: Mapping[str, float]) -> None:
        self.target, self.graph, self.noise = target, target.graph, noise
        self.guesses: list[Guess] = []
        self.factors: list[Guess] = []
        self.partial: set[Guess] = set()
        """Those that leave more than rounding"""

    def run(self) -> Guess | None:
        """The best guess."""
        for strict in (True, False):
            for stage in (self._flows, self._rows, self._factors, self._rest):
                stage(strict)
                if found := self._best():
                    return found
        return None

    def _best(self) -> Guess | None:
        """The first of those that leave as little as any."""
        if not self.guesses:
            return None
        floor = max(3 * min(guess.remaining for guess in self.guesses), NOTHING)
        return next(guess for guess in self.guesses if guess.remaining <= floor)

    def others(self, best: Guess) -> list[Guess]:
        """Further guesses of other causes, the best first."""
        ranked = sorted(self.guesses, key=lambda guess: guess.remaining)
        return [g for k, g in enumerate(ranked) if g.cause not in {best.cause, *(h.cause for h in ranked[:k])}]

    def _note(
        self, remaining: float, made: Mapping[str, np.ndarray], guess: tuple[str, str, tuple[Place, ...]]
    ) -> bool:
        """Keep a guess that explains the difference; true when it leaves nothing."""
        if not self.explains(remaining, made):
            return False
        self.guesses.append(self._kept(Guess(remaining, *guess), made))
        return remaining <= NOTHING

    def _kept(self, guess: Guess, made: Mapping[str, np.ndarray]) -> Guess:
        if guess.remaining > NOTHING and not self._is_rounding(made):
            self.partial.add(guess)
        return guess

    def _is_rounding(self, made: Mapping[str, np.ndarray]) -> bool:
        return bool(self.noise) and all(e <= self.noise[n] for n, e in self.target.errors(made).items())

    def explains(self, remaining: float, made: Mapping[str, np.ndarray]) -> bool:
        """Whether little is left, or no more than rounding."""
        if remaining <= EXPLAINED or not remaining <= 0.5:
            return remaining <= EXPLAINED
        return self._is_rounding(made)

    def reached(self, places: Iterable[Place]) -> int:
        """The leaves, as bits, that gradients of these places go to."""
        reached = 0
        for i, position in places:
            reached |= self.graph.reached(i, position)
        return reached

    def _fits(self, places: Iterable[Place], strict: bool) -> bool:
        reached = self.reached(places)
        return self.target.covers(reached) and self.target.strictly(reached) is strict

    def _chosen(self, wrongs: Iterable[Wrong], strict: bool) -> Iterator[Wrong]:
        fitting = [wrong for wrong in wrongs if self._fits(wrong.places, strict)]
        if strict:
            return in_time(fitting)

        def strangers(wrong: Wrong) -> int:
            return (self.reached(wrong.places) & self.target.right).bit_count()

        return in_time(sorted(fitting, key=strangers)[:_LOOSE])

    def _flows(self, strict: bool) -> None:
        """Gradients stopped, or of the other sign; other factors are kept for `_factors`."""
        self.factors = []
        for wrong in self._chosen(flows(self.graph), strict):
            stopped = self._walked(wrong.places, 0.0)
            cause = "gradient-stopped"
            if all(self._shared(place) for place in wrong.places):
                cause = "gradient-not-accumulated"
            if self._note(self.target.left(stopped), stopped, (cause, wrong.variant, wrong.places)):
                return
            factor = self.target.factor(stopped)
            if factor < 0 or (len(wrong.places) > 1 and strict):
                turned = self._walked(wrong.places, -1.0)
                if self._note(self.target.left(turned), turned, ("gradient-sign", wrong.variant, wrong.places)):
                    return
            if np.isfinite(factor):
                self._factor(wrong, factor)

    def _walked(self, places: Sequence[Place], factor: float) -> dict[str, np.ndarray]:
        return self.target.changed(self.graph.again(scaled(places, factor)))

    def _shared(self, place: Place) -> bool:
        """Whether a gradient goes to a parameter that other steps use, too."""
        source = next(e.node.serial for e in self.graph.edges(place[0]) if e.position == place[1])
        leaf = self.graph.nodes[source]
        own = isinstance(leaf, str) and not leaf.startswith("input/")
        return own and len(self.graph.consumers[source]) > 1

    def _factor(self, wrong: Wrong, factor: float) -> None:
        """The factor that fits best; where one step is upstream of another, by Newton's method."""
        before = _HOPELESS * self.target.left({})
        for _ in range(_NEWTON):
            made = self._walked(wrong.places, factor)
            remaining = self.target.left(made)
            if remaining <= EXPLAINED * NOTHING or len(wrong.places) == 1 or not remaining < before:
                break
            before = remaining
            factor += self._newton(wrong, factor, made)
        if self.explains(remaining, made):
            said = factor_said(self.graph, wrong.places, factor, max(_SAME, 3 * remaining))
            guess = Guess(remaining, "gradient-factor", f"{said}, {wrong.variant}", wrong.places)
            self.factors.append(self._kept(guess, made))

    def _newton(self, wrong: Wrong, factor: float, made: Mapping[str, np.ndarray]) -> float:
        """The step to the least difference, were the gradients linear in the factor."""
        step = 1e-4 * max(abs(factor), 1e-3)
        near = self._walked(wrong.places, factor + step)
        above = below = 0.0
        for name, array in near.items():
            slope = (array - made[name]) / step / self.target.scales[name]
            above += float((slope * (self.target.expected[name] - made[name]) / self.target.scales[name]).sum())
            below += float(np.square(slope).sum())
        return above / below if below else 0.0

    def _rows(self, strict: bool) -> None:
        for wrong in self._chosen(self.candidates(), strict):
            if self._try(wrong):
                return

    def candidates(self) -> Iterator[Wrong]:
        """The rules of the tables, in the order in which they are tried."""
        yield from shared(self.graph)
        tokens = {int(t) for _, s in self.graph.steps if s.op.name == "take" for t in np.unique(s.residuals[0])}
        for row in (*ROWS, *padding(sorted(tokens)[:64])):
            yield from row.candidates(self.graph)

    def _try(self, wrong: Wrong) -> bool:
        try:
            with np.errstate(all="ignore"):
                again = self.graph.again(wrong.changes)
        except (ValueError, TypeError, IndexError):  # the rule does not fit the shapes here
            return False
        made = self.target.changed(again)
        return self._note(self.target.left(made), made, (wrong.cause, wrong.variant, wrong.places))

    def _factors(self, strict: bool) -> None:
        """Constant factors: on gradients on their way, and on the loss."""
        for name in {"", *(name for given in self.graph.loss.values() for _, _, name in given)} if strict else ():
            factor = self.target.factor(self.target.changed(self.graph.again({}, {name: 0.0} if name else 0.0)))
            made = self.target.changed(self.graph.again({}, {name: factor} if name else factor))
            starts = tuple(
                (i, 0) for i, given in self.graph.loss.items() if not name or name in [n for _, _, n in given]
            )
            said = factor_said(self.graph, starts, factor, _SAME)
            clipped = next(finishes(self.target, norm=factor), None)
            cause, variant = ("gradient-factor", f"{said}, of the loss{f' of {name}' if name else ''}")
            if abs(factor + 1) <= _SAME:
                cause = "gradient-sign"
            if clipped and not name:
                cause, variant = clipped[0], clipped[1]
            self._note(self.target.left(made), made, (cause, variant, starts))
        self.guesses += self.factors

    def _rest(self, strict: bool) -> None:
        """Finished gradients clipped or rounded; gradients on their way in a narrower format."""
        if strict:
            for cause, variant, made in finishes(self.target):
                self._note(self.target.left(made), made, (cause, variant, ()))
        if self.guesses or not strict or self.target.relative > _NARROW:
            return
        for wrong in self._chosen(flows(self.graph), strict):
            for narrow in narrowed(wrong):
                if self._try(narrow):
                    return

    def where(self, places: Sequence[Place]) -> tuple[str, str]:
        """The first step, in the order of the way back, of some places: its point, and what it is in words."""
        if not places:
            return "", ""
        i, position = max(places)
        step = self.graph.nodes[i]
        if not isinstance(step, Ran):
            return step, step
        names = " and ".join(step.argument(p) for n, p in sorted(places) if n == i)
        only = len([p for n, p in places if n == i]) == 1
        return step.point, described(self.graph, i, position) if only else f"through {names} of {step.op.name}"

    def begins(self) -> tuple[Place, ...]:
        """The last step of the run that leads to all wrong gradients and, as far as can be, to no right one."""
        best: tuple[float, tuple[Place, ...]] = (float("inf"), ())
        for i, step in reversed(self.graph.steps):
            sent = [(i, edge.position) for edge in step.edges]
            own = [place for place in sent if self.target.strictly(self.reached([place]))] or sent
            reached = self.reached(own)
            missed = sum(not reached & bits for bits in self.target.wrong)
            badness = 1000.0 * missed + (reached & self.target.right).bit_count()
            if badness < best[0]:
                best = (badness, tuple(own))
        return best[1]


def explanation(guess: Guess) -> list[Cause]:
    """A guess as the causes of a diagnosis are given."""
    return [Cause(guess.cause, guess.variant, guess.remaining)]
