"""Two wrong backward rules at once, found one after the other on the way back from the loss.

Up to the second the first alone is at work, so that it is told by the first wrong gradients of the way back, which it
sets right; with it in place, the wrong gradients that are left are those of the second. A candidate is walked no
further than these first wrong gradients, unless it sets one right. What is done to finished gradients comes after
both, and is tried beside one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ...host.budget import in_time
from ...host.progress import steps
from ..subject import NOTHING
from .backward import Wrong, factor_said, scaled
from .backward.base import composed
from .candidates import EXACT, candidates, unmoved
from .finishing import Finish, clipped_by_norm, finished_alike
from .search import GradientSearch, Guess
from .target import Target
from .together import Together, ready_of

_RIGHT = 1e-8
"""A wrong gradient has come right where so little of it is left."""
_FRONT = 6
"""So many of the wrong gradients, in the order of the way back, tell the first wrong rule."""
_SAME = 1e-5
"""Factors are the same number when they differ by less than this part."""

_FACTORS = ("gradient-factor", "gradient-stopped", "gradient-sign", "attention-scale-backward")
"""Of two rules of one step these come after the other, which is made anew."""

Named = Mapping[str, np.ndarray]


class _Part(NamedTuple):
    """A rule, the wrong gradients that it sets right, how many it makes wrong, and the leaves it reaches."""

    wrong: Wrong
    fixed: frozenset[str]
    broken: int
    reached: int


def two_wrongs(search: GradientSearch) -> list[list[Guess]]:
    """The pairs of rules that explain the difference, the likeliest first; of each the first on the way back first."""
    return _Pairs(search).run()


class _Pairs:
    def __init__(self, search: GradientSearch) -> None:
        self.search, self.target = search, search.target
        self.unmoved = unmoved(self.target)
        self.every = [(wrong, self._reached(wrong)) for wrong in candidates(search)]
        self.loss = self.every[0][0]
        self.every.sort(key=lambda one: (one[1] & self.target.right).bit_count())
        self.found: list[list[Guess]] = []
        self.together = Together(self.target)
        self.strict = True

    def run(self) -> list[list[Guess]]:
        for way in finished_alike(self.target, front_of(self.target)):
            self._finished(way)
        for stage in self._stages():
            stage()
            if self.found:
                break
        best = min((pair[0].remaining for pair in self.found), default=0.0)
        floor = max(3 * best, NOTHING)
        told = [pair for pair in self.found if pair[0].remaining <= floor]
        return sorted(told, key=lambda pair: sum(guess.cause == "gradient-factor" for guess in pair))

    def _stages(self) -> Iterator[Callable[[], None]]:
        """What is looked for, in order: what takes the least time first."""
        front = front_of(self.target)
        first, last = front[:_FRONT], front[-_FRONT:]
        numbers = [i for i, _ in self.target.graph.steps]
        # weights that all layers share have their gradients late: what is first then is nearly the whole way
        shared = ready_of(self.target, first[-1]) < numbers[len(numbers) // 2] if front else False
        loose = partial(self._one_after_the_other, first, strict=False)
        yield partial(self._one_after_the_other, [*first, *last] if shared else first)
        if not shared:
            yield loose
            # what is wrong with a parameter's own gradient alone leaves what comes after it to the other
            yield partial(self._one_after_the_other, last)
        yield self._at_once
        if shared:
            yield loose

    def _one_after_the_other(self, front: Sequence[str], *, strict: bool = True) -> None:
        """`strict` leaves aside rules that reach right gradients, which they may leave right."""
        self.strict = strict
        done: frozenset[str] | None = None
        for part in in_time(self._parts(self.target, front)):
            if done is not None and part.fixed != done:
                break
            if self._seconds(part):  # others that set the same right are alternatives
                done = part.fixed

    def _at_once(self) -> None:
        """Two rules that no gradient tells alone: the second is looked for beside each that changes what is wrong."""
        for factor, wrong in self.together.proportional():
            self._both(_times(self.target, self.loss, factor), wrong)
        done: set[int] = set()
        for one in self.together.likeliest():
            if self.found:
                break
            done.add(id(one))
            for other in in_time(self.together.wide()):
                if id(other) not in done:
                    self._both(one, other)

    def _both(self, *wrongs: Wrong) -> None:
        one, other = sorted(wrongs, key=lambda wrong: max(wrong.places), reverse=True)
        both = replace(one, changes=composed(one.changes, other.changes))
        first = front_of(self.target)[0]
        near = _made(self.target, both, ready_of(self.target, first), [first])
        if near is None or first not in near or not _is_right(self.target, first, near[first]):
            return
        made = _made(self.target, both)
        if made is not None:
            self._note(made, *(Guess(0.0, wrong.cause, wrong.variant, wrong.places) for wrong in (one, other)))

    def _reached(self, wrong: Wrong) -> int:
        """The leaves, as bits, whose gradients are others by these places."""
        reached = 0
        for i, position in wrong.places:
            reached |= self.target.graph.reached(i, position) & ~self.unmoved.get((i, position), 0)
        return reached

    def _finished(self, way: Finish) -> None:
        """One wrong rule, and what is done to the finished gradients."""
        target = self.target.under({}, way.changes)
        for wrong in self._ways(target):
            made = _made(target, wrong)
            if made is not None:
                last = Guess(0.0, way.cause, way.variant, ())
                self._note({**target.named, **made}, Guess(0.0, wrong.cause, wrong.variant, wrong.places), last)

    def _seconds(self, part: _Part) -> bool:
        """Whether a rule beside this part leaves nothing."""
        target = self.target.under(part.wrong.changes, after=part.wrong.cause in _FACTORS)
        one, nothing = Guess(0.0, part.wrong.cause, part.wrong.variant, part.wrong.places), False
        for wrong in self._ways(target):
            made = _made(target, wrong)
            if made is not None:
                two = Guess(0.0, wrong.cause, wrong.variant, wrong.places)
                first, last = sorted((one, two), key=lambda guess: max(guess.places), reverse=True)
                nothing |= self._note({**target.named, **made}, first, last)
        return nothing

    def _note(self, made: Named, *guesses: Guess) -> bool:
        """Keep two rules that explain the difference; true when they leave nothing."""
        left = self.target.left(made)
        if not self.search.explains(left, made):
            return False
        self.found.append([self._said(guess)._replace(remaining=left) for guess in guesses])
        return left <= NOTHING

    def _said(self, guess: Guess) -> Guess:
        """A factor on everything is clipping where the norm of all is a round number."""
        if guess.cause != "gradient-factor" or guess.places != self.loss.places:
            return guess
        clipped = clipped_by_norm(self.target.expected, list(self.target.expected))
        return guess._replace(cause=clipped[0], variant=clipped[1]) if clipped else guess

    def _ways(self, target: Target) -> Iterator[Wrong]:
        """What sets the first wrong gradient right."""
        front = front_of(target)[:1]
        for wrong, _ in self._near(target, front):
            yield wrong

    def _near(self, target: Target, front: Sequence[str]) -> Iterator[tuple[Wrong, int]]:
        """The candidates, walked as far as the front, that set one of its gradients right."""
        if not front:
            return
        bits = _bits(target, front)
        until = min(ready_of(target, name) for name in front)
        for wrong, reached in in_time(steps(self.every, "trying one of two wrong rules")):
            if (self.strict and reached & target.right) or not reached & bits:
                continue
            whole = target is self.target and until <= self.together.until
            made = _made(target, wrong, until, None if whole else front)
            if made is None:
                continue
            if whole:
                self.together.add(wrong, made)
            near = {name: made[name] for name in front if name in made}
            if wrong.cause:
                if any(_is_right(target, name, array) for name, array in near.items()):
                    yield wrong, reached
                continue
            for way in _factors(target, wrong, near):
                yield way, reached

    def _parts(self, target: Target, front: Sequence[str]) -> list[_Part]:
        """The rules that set some right, first those that set the most right, of these those that reach the most."""
        found: list[_Part] = []
        for wrong, reached in self._near(target, front):
            made = _made(target, wrong) or {}
            if any(not array.any() and not target.is_within(name, array) for name, array in made.items()):
                continue  # what is stopped here comes back nowhere
            fixed = frozenset(n for n in target.affected if n in made and _is_right(target, n, made[n]))
            # two may meet in a gradient that is right by chance, as where one doubles what the other halves
            broken = sum(not target.is_within(n, made[n]) for n in made if n not in target.affected)
            if broken < len(fixed) < len(target.affected):
                found.append(_Part(wrong, fixed, broken, reached))
        found.sort(key=lambda part: (part.broken - len(part.fixed), -part.reached.bit_count()))
        return found


def _factors(target: Target, flow: Wrong, stopped: Named) -> Iterator[Wrong]:
    """The flow times a factor that sets some of these gradients right, which `stopped` has without it."""
    factors: list[float] = []
    for name, without in stopped.items():
        if _is_right(target, name, without):
            factors.append(0.0)
            continue
        own, apart = target.named[name] - without, target.expected[name] - without
        square = float(np.square(own).sum())
        factor = float((own * apart).sum()) / square if square else 1.0
        if np.isfinite(factor) and own.size > 1 and _is_right(target, name, without + factor * own):
            factors.append(factor)
    kept: list[float] = []
    for factor in factors:
        if all(abs(factor - other) > _SAME * max(abs(factor), abs(other)) for other in (1.0, *kept)):
            kept.append(factor)
            yield _times(target, flow, factor)


def _times(target: Target, flow: Wrong, factor: float) -> Wrong:
    for cause, known, near in (("gradient-stopped", 0.0, _RIGHT), ("gradient-sign", -1.0, _SAME)):
        if abs(factor - known) <= near:
            return replace(flow, cause=cause, changes=scaled(flow.places, known))
    said = factor_said(target.graph, flow.places, factor, _SAME)
    changes = scaled(flow.places, factor)
    return replace(flow, cause="gradient-factor", variant=f"{said}, {flow.variant}", changes=changes)


def _bits(target: Target, names: Sequence[str]) -> int:
    bits = 0
    for name in names:
        for path in target.paths(name):
            bits |= target.graph.leaves.get(path, 0)
    return bits


def front_of(target: Target) -> list[str]:
    """The wrong gradients in the order of the way back."""
    return sorted(target.affected, key=lambda name: -ready_of(target, name))


def _is_right(target: Target, name: str, made: np.ndarray) -> bool:
    wanted = target.expected[name]
    apart = float(np.abs(made - wanted).max(initial=0.0))
    before = float(np.abs(target.named[name] - wanted).max(initial=0.0))
    size = min(before, target.units[name])
    return apart <= max(_RIGHT * size, EXACT * target.scales[name], target.noise.get(name, 0.0))


def _made(
    target: Target, wrong: Wrong, until: int = 0, only: Sequence[str] | None = None
) -> dict[str, np.ndarray] | None:
    try:
        with np.errstate(all="ignore"):
            return target.changed(target.graph.again(wrong.changes, until=until), only)
    except (ValueError, TypeError, IndexError):  # the rule does not fit the shapes here
        return None
