"""Layers that run again and again with the same weights: which of them, and which rule, is likely to be wrong.

A gradient of theirs is a sum over all uses, wrong in all layers and whole only at the end of the way. But where each
use of a layer adds an error of its own, the gradients right behind it are more wrong, for their size, than those of the
other layers alike: rules before these come first. What a rule changes there is computed by itself, from what arrives at
its step, and no further than to the first leaves: at the last use, then, of the likeliest, at all of them, which add up
to the error but for what errors before have changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...autograd.backend import to_host
from ...host.budget import in_time
from ...host.progress import steps
from .backward import Place, Wrong, factor_said, scaled
from .graph import Gradients, Ran
from .large_target import LargeTarget

_OUT = 1.5
"""A gradient is more wrong than those of layers alike by this factor or more."""
_LIKE = 0.05
"""Least cosine between what a rule changes at one use and the error"""
_FAR = 2.0
"""What a rule that is wrong at many uses may leave of the error at one: more than all, where others make up for it"""
_BEST = 4
"""So many rules are tried at all uses"""
_FACTORS = {0.0: "gradient-stopped", -1.0: "gradient-sign", 0.5: "gradient-factor", 2.0: "gradient-factor"}
"""What gradients on their way are multiplied by; other factors are not told from what is first changed alone."""


@dataclass
class Use:
    """One use: the changed places there, the walk from a cut to the step `end`, and the first leaves that come."""

    places: frozenset[Place]
    begin: int | None
    end: int
    paths: tuple[str, ...]
    inside: bool
    """Whether these are of the same branch of a layer"""


@dataclass(eq=False)
class Likely:
    """A rule, at its last use; `flow`: a gradient that is stopped, or multiplied."""

    wrongs: list[Wrong]
    use: Use
    flow: bool
    left: float = 1.0


class Repeated:
    """`likely` gives rules in some order of likelihood, a stage of them at a time."""

    def __init__(self, target: LargeTarget) -> None:
        self.target, self.graph, self.walks = target, target.graph, target.walks
        self._range: tuple[Any, dict[int, Gradients]] = (None, {})
        self._right: dict[int, Sequence[Any]] = {}
        self.out = self._outliers()

    def _error(self, path: str) -> Any:
        """Of a gradient, flat."""
        name = next(n for n in self.target.names[path] if (path, n) in self.target.known)
        view = self.target.views.get((path, name))
        theirs = self.target.expected[name] if view is None else view(self.target.expected[name])
        return np.subtract(theirs, self.target.kept[path]).reshape(-1)

    def _outliers(self) -> dict[str, float]:
        """How much more wrong, for its size, each gradient is than those of the same name in all layers."""
        size: dict[str, float] = {}
        alike: dict[str, list[float]] = {}
        for (path, _), known in self.target.known.items():
            if path in self.target.kept and max(known.largest, known.theirs) > self.target.idle and known.own > 0:
                size[path] = float(np.sqrt(known.square / known.own))
                alike.setdefault(re.sub(r"\d+", "*", path), []).append(size[path])
        usual = {name: float(np.median(found)) for name, found in alike.items()}
        return {path: found / max(usual[re.sub(r"\d+", "*", path)], 1e-300) for path, found in size.items()}

    def likely(self, wrongs: Iterable[tuple[bool, Wrong]]) -> Iterator[list[Wrong]]:
        """Of each stage the rules to be walked to the end, the likeliest first."""
        groups: dict[Any, Likely] = {}
        for flow, wrong in wrongs:
            use = self._use(wrong.places)
            top = max(i for i, _ in wrong.places)
            if use is not None and any(use.end <= self.walks.last[path] <= top for path in use.paths):
                what = "" if flow else (wrong.cause, wrong.variant.rpartition(", ")[0])
                one = groups.setdefault((what, use.places), Likely([], use, flow))
                one.wrongs.append(replace(wrong, changes=scaled(wrong.places, 0.0)) if flow else wrong)
        for k, stage in enumerate(self._stages(list(groups.values()))):
            tried = sorted(self._tried(stage), key=lambda one: one.left)
            good = [one for one in tried if one.left <= _FAR][:_BEST]
            yield self._at_all_uses(good)
            rest = [one for one in tried if one not in good] if k == 0 else []
            for n in range(0, len(rest), _BEST):  # the last use may be the one that counts the least
                yield self._at_all_uses(rest[n : n + _BEST])

    def _stages(self, every: list[Likely]) -> Iterator[list[Likely]]:
        """Before gradients that are the most wrong; on the way from one layer to the next; the others."""
        scores = [self._score(one.use) for one in every]
        most = max((s for s, one in zip(scores, every) if one.use.inside), default=0.0)
        first = [one.use.inside and s >= max(np.log(_OUT), most / 2) for s, one in zip(scores, every)]
        yield [one for one, yes in zip(every, first) if yes]
        yield [one for one in every if not one.use.inside]
        yield [one for one, yes in zip(every, first) if not yes and one.use.inside]

    def _score(self, use: Use) -> float:
        found = [np.log(max(self.out[path], 1e-300)) for path in use.paths if path in self.out]
        return float(np.mean(found)) if found else 0.0

    def _use(self, places: Iterable[Place]) -> Use | None:
        """The last of the uses that these places are of; None where no wrong gradient is near behind them."""
        top = max(i for i, _ in places)
        near = self.walks.below(top)
        on = {edge.node.serial for i, p in places for edge in self.graph.edges(i) if i > near and edge.position == p}
        cut = near
        while True:
            paths, seen = self._leaves(on, cut)
            if paths or not cut:
                break
            on, cut = {n for n in seen if n <= cut}, self.walks.below(cut)
        if not paths:
            return None
        end = cut + 1
        if cut != near:  # as far as the first of them
            end = max(i for path in paths for i, _ in self.walks.uses[path] if i <= near)
            paths = {path for path in paths if any(end <= i <= near for i, _ in self.walks.uses[path])}
        own = frozenset(place for place in places if place[0] > near)
        return Use(own, self.walks.above(top), end, tuple(sorted(paths)), cut == near)

    def _leaves(self, on: set[int], cut: int) -> tuple[set[str], set[int]]:
        """The wrong gradients that come from these nodes before a cut, and the nodes that are come to."""
        paths, seen, todo = set[str](), set(on), list(on)
        while todo:
            n = todo.pop()
            node = self.graph.nodes[n]
            if isinstance(node, str):
                if node in self.target.kept:
                    paths.add(node)
            elif n > cut:
                new = {edge.node.serial for edge in node.edges} - seen
                seen |= new
                todo += new
        return paths, seen

    def _tried(self, stage: list[Likely]) -> Iterator[Likely]:
        """With what each leaves of the error, at the last use alone."""
        stage.sort(key=lambda one: -max(i for i, _ in one.use.places))
        for one in in_time(steps(stage, "trying rules at the last use of a layer")):
            made = self._change(one.wrongs[0].changes, one.use)
            if made is None:
                continue
            one.left = min(self._remaining(one, made).values())
            if abs(self._like(made, one.use)) < _LIKE:
                one.left += _FAR
            yield one

    def _like(self, made: Mapping[str, Any], use: Use) -> float:
        """The cosine between a change and the error, each gradient counted alike.

        What goes to the stream between layers may be alike in all rows: biases do not tell whose it is.
        """
        along = own = total = 0.0
        matrices = [path for path in use.paths if self.target.kept[path].ndim > 1]
        paths = use.paths if use.inside or not matrices else matrices
        for path in paths:
            off = self._error(path)
            square = float(off.dot(off))
            total += 1.0 if square else 0.0
            if path in made and square:
                change = made[path].reshape(-1)
                along += float(change.dot(off)) / square
                own += float(change.dot(change)) / square
        cosine = along / float(np.sqrt(own * total)) if own and total else 0.0
        return cosine if np.isfinite(cosine) else 0.0

    def _change(self, changes: Mapping[int, Any], use: Use) -> dict[str, Any] | None:
        """What wrong rules change of the first gradients behind them, of what arrives at them unchanged."""
        start: dict[int, Gradients] = {}
        made: dict[str, Any] = {}
        try:
            for i in {i for i, _ in use.places}:
                arriving = self._arriving(i, use)
                step = self.graph.nodes[i]
                if arriving is None or not isinstance(step, Ran):
                    return None
                given = arriving[0] if len(arriving) == 1 else tuple(arriving)
                if i not in self._right:
                    self._right[i] = step.pull(given)
                other = changes[i](step, given)
                for edge in step.edges:
                    p, n = edge.position, edge.node.serial
                    change = step.fit(p, other[p]) - step.fit(p, self._right[i][p])
                    node = self.graph.nodes[n]
                    if isinstance(node, str):
                        made[node] = made.get(node, 0.0) + to_host(change)
                    elif change.any():
                        sums = start.setdefault(n, [None] * len(self.graph.shapes[n]))
                        sums[edge.output] = change if sums[edge.output] is None else sums[edge.output] + change
            for path, gradient in self._spread(start, use).items():
                made[path] = made.get(path, 0.0) + gradient
        except (ValueError, TypeError, IndexError):  # the rule does not fit the shapes here
            return None
        return made

    def _spread(self, start: Mapping[int, Gradients], use: Use) -> dict[str, Any]:
        made: dict[str, Any] = {}

        def arrived(path: str, gradient: Any) -> bool:
            made[path] = gradient
            return False

        bits = 0
        for path in use.paths:
            bits |= self.graph.leaves[path]
        made.update(self.walks.walk(arrived, None, bits, start, use.end))
        return made

    def _arriving(self, i: int, use: Use) -> Gradients | None:
        """What arrives at a step of the unchanged walk."""
        key = (use.begin, self.walks.below(max(n for n, _ in use.places)))
        if self._range[0] != key:
            passed: dict[int, Gradients] = {}
            self.walks.walk(lambda path, gradient: False, None, -1, key[0], key[1] + 1, passed=passed)
            self._range, self._right = (key, passed), {}
        return self._range[1].get(i)

    def _at_all_uses(self, likely: list[Likely]) -> list[Wrong]:
        """The rules in the order of what they leave of the error behind them, first order in what they change."""
        jobs: dict[tuple[int, frozenset[Place]], tuple[Likely, list[Wrong], list[Use]]] = {}
        for k, one in enumerate(likely):
            for wrong in one.wrongs:
                uses = [use for use in self._uses(wrong.places) if set(use.paths) & set(one.use.paths)]
                every = frozenset(place for use in uses for place in use.places)
                jobs.setdefault((k, every), (one, [], uses))[1].append(wrong)  # some differ only for other leaves
        sums: dict[Any, dict[str, Any]] = {key: {} for key in jobs}
        places = [(max(use.places), key, use) for key, (_, _, uses) in jobs.items() for use in uses]
        places.sort(key=lambda place: place[0], reverse=True)  # what arrives at a use is computed once
        for _, key, use in in_time(steps(places, "trying rules at all uses of a layer")):
            total = sums[key]
            for path, change in (self._change(jobs[key][1][0].changes, use) or {}).items():
                total[path] = total.get(path, 0.0) + change
        self._range, self._right = (None, {}), {}
        ranked: list[tuple[float, int, Wrong]] = []
        for key, (one, wrongs, _) in jobs.items():
            for factor, left in self._remaining(one, sums[key]).items():
                if left < 1.0:
                    ranked += [(left, len(wrong.places), self._named(one, wrong, factor)) for wrong in wrongs]
        ranked.sort(key=lambda found: found[:2])
        return [wrong for _, _, wrong in ranked]

    def _named(self, one: Likely, wrong: Wrong, factor: float) -> Wrong:
        if not one.flow:
            return wrong
        cause, said = _FACTORS[factor], wrong.variant
        if cause == "gradient-factor":
            said = f"{factor_said(self.graph, wrong.places, factor, 0.0)}, {said}"
        return replace(wrong, cause=cause, variant=said, changes=scaled(wrong.places, factor))

    def _uses(self, places: tuple[Place, ...]) -> Iterator[Use]:
        """All uses that places are of, the last first."""
        while places:
            use = self._use(places)
            if use is not None:
                yield use
            near = self.walks.below(max(places)[0])
            places = tuple(place for place in places if place[0] <= near)

    def _remaining(self, one: Likely, total: Mapping[str, Any]) -> dict[float, float]:
        """What such a change leaves of the error; how unlike they are, where most of the error came another way."""
        if not one.use.inside:
            return {0.0: 1.0 - abs(self._like(total, one.use))}
        return {factor: self._left(total, one.use.paths, 1.0 - factor) for factor in (_FACTORS if one.flow else (0.0,))}

    def _left(self, made: Mapping[str, Any], paths: Sequence[str], times: float) -> float:
        total = 0.0
        for path in paths:
            off = self._error(path)
            apart = off - times * made[path].reshape(-1) if path in made else off
            total += float(apart.dot(apart)) / max(float(off.dot(off)), 1e-300)
        return total / max(len(paths), 1)
