"""Two wrong backward rules at once: one that sets some of the wrong gradients right, and one that sets the rest right.

What lies between the two is wrong by the rule nearer to the loss alone, so that rule is told by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ...host.budget import in_time
from ...host.progress import steps
from ..subject import EXPLAINED, NOTHING
from .backward import Wrong, factor_said, flows, scaled
from .search import GradientSearch, Guess

_RIGHT = 1e-8
"""A wrong gradient has come right where so little of it is left."""
_FIRST = 8
"""So many of the rules that set some right are tried with every other, first those that set the most right, and of
these those that reach the most."""
_STOPPED = "gradient-stopped"
_FACTORS = {_STOPPED: 0.0, "gradient-sign": -1.0}
_SAME = 1e-5
"""Factors are the same number when they differ by less."""


class _Part(NamedTuple):
    """A rule, and the names of the wrong gradients that it sets right."""

    wrong: Wrong
    fixed: frozenset[str]


def two_wrongs(search: GradientSearch) -> list[Guess]:
    """The two rules that leave least, the first on the way back before the other; none where no two explain the
    difference."""
    every = list(_candidates(search))
    best: list[Guess] = []
    parts = _parts(search, every)
    for times in (False, True):  # a factor is looked for where no rule of the tables does
        for part in parts:
            for other, left in _others(search, part, every, times=times):
                if left <= EXPLAINED and (not best or left < best[0].remaining):
                    both = sorted((part.wrong, other), key=lambda wrong: max(wrong.places), reverse=True)
                    best = [Guess(left, wrong.cause, wrong.variant, wrong.places) for wrong in both]
                if left <= NOTHING:
                    return best
    return best


def _others(search: GradientSearch, part: _Part, every: list[Wrong], *, times: bool) -> Iterator[tuple[Wrong, float]]:
    """What may be wrong beside a part, and what both leave; with `times` flows of any factor."""
    first = _made(search, part.wrong) or {}
    for other in in_time(every):
        if set(other.changes) & set(part.wrong.changes) or not _reaches_the_rest(search, part, other):
            continue
        if times and other.cause != _STOPPED:
            continue
        made, found = _made(search, part.wrong, other), other
        if times and made is not None:
            factor = _common_factor(search, other, made, first)
            made, found = (None, other) if factor is None else (_made(search, part.wrong, factor), factor)
        if made is not None:
            yield found, search.target.left(made)


def _candidates(search: GradientSearch) -> Iterator[Wrong]:
    graph = search.graph
    ends = tuple((i, edge.position) for i, step in graph.steps if i in graph.loss for edge in step.edges)
    for flow in (Wrong("", "of the loss", ends), *flows(graph)):
        for cause, factor in _FACTORS.items():
            yield replace(flow, cause=cause, changes=scaled(flow.places, factor))
    yield from search.candidates()


def _parts(search: GradientSearch, every: list[Wrong]) -> list[_Part]:
    target, found = search.target, list[_Part]()
    for wrong in in_time(steps(every, "trying one of two wrong rules")):
        reached = search.reached(wrong.places)
        if reached & target.right or not any(reached & bits for bits in target.wrong):
            continue
        made = _made(search, wrong)
        if made is None:
            continue
        for way in (wrong, _common_factor(search, wrong, made) if wrong.cause == _STOPPED else None):
            given = made if way is wrong else _made(search, way) if way is not None else None
            fixed = frozenset(n for n in target.affected if given and n in given and _is_right(search, n, given[n]))
            if way is not None and fixed and len(fixed) < len(target.affected):
                found.append(_Part(way, fixed))
    found.sort(key=lambda part: (-len(part.fixed), -search.reached(part.wrong.places).bit_count()))
    kept: dict[frozenset[str], list[_Part]] = {}
    for part in found:
        kept.setdefault(part.fixed, []).append(part)
    return [part for number in range(2) for of in kept.values() for part in of[number : number + 1]][:_FIRST]


def _times(search: GradientSearch, flow: Wrong, factor: float) -> Wrong:
    said = factor_said(search.graph, flow.places, factor, _SAME)
    changes = scaled(flow.places, factor)
    return replace(flow, cause="gradient-factor", variant=f"{said}, {flow.variant}", changes=changes)


def _common_factor(
    search: GradientSearch,
    flow: Wrong,
    stopped: dict[str, np.ndarray],
    first: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Wrong | None:
    """The flow times the factor that sets right the most of the wrong gradients; each has one that fits it, or none.

    stopped: gradients without it; first: those with it and with another rule, where there is one.
    """
    factors: list[float] = []
    for name in search.target.affected:
        if name not in stopped or stopped[name].size < 2:
            continue
        whole = first.get(name, search.target.named[name])
        own, apart = whole - stopped[name], search.target.expected[name] - stopped[name]
        square = float(np.square(own).sum())
        factor = float((own * apart).sum()) / square if square else 1.0
        if np.isfinite(factor) and _is_right(search, name, stopped[name] + factor * own):
            factors.append(factor)
    near = [[other for other in factors if abs(other - factor) <= _SAME] for factor in factors]
    most = max(near, key=len, default=[])
    if not most or min(abs(most[0] - known) for known in (0.0, 1.0, -1.0)) <= _SAME:
        return None
    return _times(search, flow, float(np.median(most)))


def _is_right(search: GradientSearch, name: str, made: np.ndarray) -> bool:
    wanted, ours = search.target.expected[name], search.target.named[name]
    apart = float(np.abs(made - wanted).max(initial=0.0))
    return apart <= max(_RIGHT * float(np.abs(ours - wanted).max(initial=0.0)), search.noise.get(name, 0.0))


def _reaches_the_rest(search: GradientSearch, part: _Part, other: Wrong) -> bool:
    """Whether both together reach all wrong gradients, and no right one."""
    reached = search.reached((*part.wrong.places, *other.places))
    return search.target.covers(reached) and not search.reached(other.places) & search.target.right


def _made(search: GradientSearch, *wrongs: Wrong) -> dict[str, np.ndarray] | None:
    changes = {i: change for wrong in wrongs for i, change in wrong.changes.items()}
    try:
        with np.errstate(all="ignore"):
            return search.target.changed(search.graph.again(changes))
    except (ValueError, TypeError, IndexError):  # the rule does not fit the shapes here
        return None
