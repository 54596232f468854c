"""Gradients of a large case: which are wrong, told in one walk back that keeps few of them, and by what wrong rule.

The wrong gradients that the walk comes to first are the nearest to what is wrong. Each rule is tried with these alone,
from the cut before it, so that a fraction of a layer is walked; rules that do the same there are tried once. What sets
them right is walked to the end, which stops at the first gradient that stays wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ...host.budget import in_time
from ...host.progress import steps
from ..subject import EXPLAINED, NOTHING
from .backward import Place, Wrong, factor_said, flows, scaled
from .large_target import Apart, LargeTarget, apart
from .repeated import Repeated
from .search import GradientSearch, Guess

_MISSED = 0.1
"""A rule leaves a gradient wrong where it leaves more than this part of its error, and more than rounding."""
_SAME = 1e-4
"""Factors are the same number when they differ by less, in float32."""
ROUNDED = 1e-4
"""So much of a difference may be left by float32's rounding."""
_FAR = 80
"""Of more steps a part is walked, one branch of a layer: how like a rule is tells then which are walked to the end."""
_LIKELY = 3
"""So many rules are walked to the end"""


class Here(NamedTuple):
    """Where a rule is tried: its places there; the walk from a cut to an end; the leaves that are looked at, as bits
    and paths. `whole`: all of what it changes of them is walked."""

    places: frozenset[Place]
    begin: int | None
    end: int
    bits: int
    paths: tuple[str, ...]
    whole: bool


@dataclass
class Tried:
    """What a rule does to the gradients that the walk comes to first: what it leaves of their error, and the rules that
    do the same there, each somewhere else besides."""

    left: float
    members: list[Wrong] = field(default_factory=list)


class LargeSearch(GradientSearch):
    """As `GradientSearch`."""

    def __init__(self, target: LargeTarget) -> None:
        super().__init__(target, target.limits)
        self.large, self.walks = target, target.walks
        leaves = sorted(target.kept, key=lambda path: -self.walks.last[path])
        top = self.walks.last[leaves[0]] if leaves else 0
        self.behind = self.walks.below(top)
        self.near = [path for path in leaves if self.walks.last[path] > self.behind]
        self.bits = sum(self.graph.leaves[path] for path in self.near)
        self.partly = any(self.walks.first[path] <= self.behind for path in self.near)
        """Whether they are used again, further back: then rules are tried where they are, and mostly in part"""
        self._right: dict[Any, dict[str, Any]] = {}
        """What the unchanged walk gives, by where it goes"""

    def run(self) -> Guess | None:
        """The best guess."""
        if (found := self._of_all()) is not None or not self.near:
            return found
        if self.partly and (found := self._repeated()) is not None:
            return found
        for strict in (True, False):
            best = list(self._tried(strict))
            floor = max(3 * min((tried.left for tried in best), default=1.0), self._nothing)
            best.sort(key=lambda t: (max(t.left, floor), t.members[0].cause == "gradient-factor"))
            for tried in in_time(best[:_LIKELY]):
                if not self.partly and tried.left > max(floor, EXPLAINED):
                    break
                if (found := self._confirmed(tried)) is not None:
                    return found
        return None

    def _repeated(self) -> Guess | None:
        """A rule wrong in a layer that runs again and again."""
        repeated = Repeated(self.large)
        for strict in (True, False):
            for stage in repeated.likely(self._fitting(strict=strict)):
                for wrong in in_time(stage):
                    if (found := self._confirmed(Tried(0.0, [wrong]))) is not None:
                        return found
        return None

    def _fitting(self, *, strict: bool) -> Iterator[tuple[bool, Wrong]]:
        """Flows, of which this is true, and the rules of the tables that reach what is wrong."""
        for is_flow, wrong in (*((True, w) for w in flows(self.graph)), *((False, w) for w in self.candidates())):
            if self._fits(wrong.places, strict):
                yield is_flow, wrong

    def _clipped(self, known: Mapping[tuple[str, str], Apart], what: str) -> Guess | None:
        """Values that are clipped: none is beyond a limit that many are at."""
        most = max((k.theirs for k in known.values()), default=0.0)
        beyond = [k for k in known.values() if k.largest > most]
        if not most or not beyond or any(abs(k.theirs - most) > _SAME * most for k in beyond):
            return None
        left, total = 0.0, sum(k.square for k in self.large.known.values())

        def arrived(path: str, gradient: Any) -> bool:
            nonlocal left
            for name, ours, theirs in self.large.pieces(path, gradient):
                left += apart(np.clip(ours, -most, most) if (path, name) in known else ours, theirs).square
            return left > EXPLAINED**2 * total

        self.walks.walk(arrived)
        remaining = float(np.sqrt(left / total))
        guess = Guess(remaining, "gradient-clipped", f"values{what} to {most:.4g}", ())
        return guess if remaining <= EXPLAINED else None

    @property
    def _nothing(self) -> float:
        """What is left is no more than rounding."""
        return NOTHING if self.large.subject.case.meta["dtype"] == "float64" else ROUNDED

    def _of_all(self) -> Guess | None:
        """A factor on the loss, or clipping of all gradients."""
        every = self.large.known
        params = {key: k for key, k in every.items() if key[1].startswith("grad_param/")}
        for chosen, what in ((every, ""), (params, " of parameters")):
            if (clipped := self._clipped(chosen, what)) is not None:
                return clipped
        known = [k for k in self.large.known.values() if k.own > 0]
        own, both = sum(k.own for k in known), sum(k.both for k in known)
        factor = both / own if own else 1.0
        square = sum(k.square for k in known)
        left = sum(k.square - 2 * (factor - 1) * (k.both - k.own) + (factor - 1) ** 2 * k.own for k in known)
        remaining = float(np.sqrt(max(left, 0.0) / square)) if square else 1.0
        if remaining > EXPLAINED:
            return None
        starts = tuple((i, 0) for i in self.graph.loss)
        length = float(np.sqrt(sum(k.square + 2 * k.both - k.own for k in known)))
        if factor < 1 and length > 0 and abs(length / float(f"{length:.1e}") - 1) <= _SAME:
            return Guess(remaining, "gradient-clipped", f"all gradients to a norm of {length:.2g}", starts)
        if abs(factor + 1) <= _SAME:
            return Guess(remaining, "gradient-sign", "of the loss", starts)
        said = factor_said(self.graph, starts, factor, _SAME)
        return Guess(remaining, "gradient-factor", f"{said}, of the loss", starts)

    def _tried(self, strict: bool) -> Iterator[Tried]:
        """What rules do to the first wrong gradients behind them, those that do the same there together."""
        groups: dict[Any, list[Wrong]] = {}
        for is_flow, wrong in self._fitting(strict=strict):
            if (here := self._here(wrong.places)) is not None:
                what = "" if is_flow else (wrong.cause, wrong.variant.rpartition(", ")[0])
                groups.setdefault((what, here), []).append(wrong)
        for (what, here), members in in_time(steps(list(groups.items()), "trying rules near the first wrong gradient")):
            if what == "":
                yield from self._flow(members, here)
            elif (change := self._change(members[0], here)) is not None:
                yield Tried(self._apart(here, change), members)

    def _here(self, places: Sequence[Place]) -> Here | None:
        """Where a rule at these places is tried; None where it does nothing to what is wrong there."""
        top = max(i for i, _ in places)
        if not self.partly:
            bits, end, paths = self.bits, self.behind + 1, tuple(self.near)
        else:
            bits, end = sum(self.graph.leaves[path] for path in self.large.kept), 0
            far = sum(1 for i in self.graph.nodes if i <= top and self.graph.upstream[i] & bits)
            if far > _FAR:
                end = self.walks.below(top) + 1
            paths = tuple(p for p in self.large.kept if any(end <= i <= top for i, _ in self.walks.uses[p]))
            bits = sum(self.graph.leaves[path] for path in paths)
        own = frozenset(p for p in places if p[0] >= end and self.graph.reached(*p) & bits)
        whole = not self.partly or end == 0
        return Here(own, self.walks.above(max(i for i, _ in own)), end, bits, paths, whole) if own else None

    def _flow(self, members: list[Wrong], here: Here) -> Iterator[Tried]:
        """A gradient that is stopped, turned round or multiplied."""
        change = self._change(replace(members[0], changes=scaled(members[0].places, 0.0)), here)
        if change is None:
            return
        cause = "gradient-stopped"
        if all(self._shared(place) for place in members[0].places):
            cause = "gradient-not-accumulated"
        stopped = [replace(w, cause=cause, changes=scaled(w.places, 0.0)) for w in members]
        yield Tried(self._apart(here, change), stopped)
        above = below = 0.0
        for path, theirs, ours in self._wanted(here):
            own = change[path].astype(np.float64).reshape(-1)
            above += float(own.dot((theirs - ours).astype(np.float64).reshape(-1)))
            below += float(own.dot(own))
        times = above / below if below else 0.0  # of the change that stopping makes
        factor = 1.0 - times
        if not here.whole or abs(factor) < _SAME or abs(times) < _SAME:
            return
        cause = "gradient-sign" if abs(factor + 1) <= 10 * _SAME else "gradient-factor"
        factor = -1.0 if cause == "gradient-sign" else factor
        changed = [replace(w, cause=cause, changes=scaled(w.places, factor)) for w in members]
        if len(here.places) > 1:
            again = self._change(changed[0], here)
        else:
            again = {path: (1.0 - factor) * array for path, array in change.items()}
        if again is not None:
            yield Tried(self._apart(here, again), [self._told(w, factor) for w in changed])

    def _told(self, wrong: Wrong, factor: float) -> Wrong:
        if wrong.cause == "gradient-sign":
            return wrong
        return replace(wrong, variant=f"{factor_said(self.graph, wrong.places, factor, _SAME)}, {wrong.variant}")

    def _change(self, wrong: Wrong, here: Here) -> dict[str, Any] | None:
        """What a rule there changes of the gradients that are looked at."""
        steps_here = {i for i, _ in here.places}
        made = self._as_far({i: c for i, c in wrong.changes.items() if i in steps_here}, here)
        key = (here.begin, here.end, here.bits)
        if key not in self._right:
            if len(self._right) > 2:
                self._right.clear()
            self._right[key] = self._as_far({}, here) or {}
        right = self._right[key]
        if made is None or any(path in right and path not in made for path in here.paths):
            return None
        return {path: made[path] - right[path] for path in here.paths if path in right}

    def _as_far(self, changes: Mapping[int, Any], here: Here) -> dict[str, Any] | None:
        made: dict[str, Any] = {}

        def arrived(path: str, gradient: Any) -> bool:
            made[path] = gradient
            return False

        try:
            with np.errstate(all="ignore"):
                made.update(self.walks.walk(arrived, changes, here.bits, here.begin, here.end))
        except (ValueError, TypeError, IndexError):  # the rule does not fit the shapes here
            return None
        return made

    def _wanted(self, here: Here) -> Iterator[tuple[str, Any, Any]]:
        """(path, theirs, ours) of the gradients that are looked at."""
        for path in here.paths:
            name = next(n for n in self.large.names[path] if (path, n) in self.large.known)
            view = self.large.views.get((path, name))
            theirs = self.large.expected[name] if view is None else view(self.large.expected[name])
            yield path, theirs, self.large.kept[path]

    def _apart(self, here: Here, change: Mapping[str, Any]) -> float:
        """What is left of these gradients' error; where but a part of the change is known, how unlike it is, 0 to 1."""
        along = own = total = 0.0
        for path, theirs, ours in self._wanted(here):
            off = (theirs - ours).astype(np.float64).reshape(-1)
            scale = max(float(np.abs(off).max(initial=0.0)), 1e-300)
            total += float(off.dot(off)) / scale**2
            if path in change:
                made = change[path].astype(np.float64).reshape(-1)
                along += float(made.dot(off)) / scale**2
                own += float(made.dot(made)) / scale**2
        if here.whole:
            left = max(total - 2 * along + own, 0.0)
            return float(np.sqrt(left / total)) if total and np.isfinite(left) else float("inf")
        cosine = along / float(np.sqrt(own * total)) if own and total else 0.0
        return 1.0 - cosine if np.isfinite(cosine) else 1.0

    def _confirmed(self, tried: Tried) -> Guess | None:
        """The first of these rules that sets every gradient right, all the way back."""
        failed: list[tuple[int, frozenset[Place]]] = []
        members = sorted(tried.members, key=lambda w: -len(w.places)) if self.partly else tried.members
        for wrong in in_time(members):  # what runs again and again is mostly wrong each time
            done = (frozenset(p for p in wrong.places if p[0] >= i) == places for i, places in failed)
            if any(done):
                continue
            remaining, end = self._remaining(wrong)
            if remaining <= EXPLAINED or end is None:
                return Guess(max(remaining, 0.0), wrong.cause, wrong.variant, wrong.places)
            failed.append((end, frozenset(p for p in wrong.places if p[0] >= end)))
        return None

    def _remaining(self, wrong: Wrong) -> tuple[float, int | None]:
        """What a rule leaves of all gradients; and the step at which one was found that it leaves wrong."""
        top = max(i for i, _ in wrong.places)
        begin = self.walks.above(top)
        reached = self.reached(wrong.places)
        if begin is not None and any(
            self.graph.leaves[path] & reached and self.walks.last[path] > begin for path in self.graph.leaves
        ):
            begin = None
        left, missed = 0.0, list[str]()
        seen = set[tuple[str, str]]()

        def arrived(path: str, gradient: Any) -> bool:
            nonlocal left
            for name, ours, theirs in self.large.pieces(path, gradient):
                before = self.large.known[path, name]
                found, scale = apart(ours, theirs), max(before.theirs, before.largest, 1e-300)
                seen.add((path, name))
                noise = max(found.largest, before.theirs) <= self.large.idle
                left += 0.0 if noise else found.square / scale**2
                limit = self.large.limits[name]
                error = found.error * max(found.largest, 1.0) / max(before.largest, 1.0)
                if error > limit and not noise and not found.square <= _MISSED**2 * before.square:
                    missed.append(path)
            return bool(missed)

        try:
            with np.errstate(all="ignore"):
                self.walks.walk(arrived, wrong.changes, reached, begin)
        except (ValueError, TypeError, IndexError):
            return float("inf"), top
        if missed:
            return float("inf"), self.walks.first[missed[0]]
        total = 0.0
        for key, known in self.large.known.items():
            size = max(known.theirs, known.largest, 1e-300)
            square = known.square / size**2 if size > self.large.idle else 0.0
            total += square
            left += 0.0 if key in seen else square
        remaining = float(np.sqrt(left / total)) if total and np.isfinite(left) else float("inf")
        return remaining, None
