"""Which array of one dump belongs to which of another: by values, by name, by a peer's name, by shape and order."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter

import numpy as np

from .layouts import orders
from .values import Entry, agreeing, by_values

Translate = Callable[[str], Sequence[str]]
"""A peer's name for a point -> our names for it, the best first."""

_Pairs = list[tuple[int, int]]

_SAMPLE = 4096
"""Elements of an array that matching by shape and order looks at."""
_HUGE = 1e150
"""Larger values count as this: their squares would overflow."""
_CLOSENESS = 2.0
"""What equal values count, where being there in order counts 1: enough to leave one pair out for them."""
_SAME = 0.99
"""Closeness of an output and the point that it is: correct models in different precision are closer."""
_WRAPPERS = {"module", "model", "_orig_mod", "~", ""}


@dataclass(frozen=True)
class Match:
    """Positions in both dumps, and how they were found: "name", "translated", "spelling", "values" or "order"."""

    reference: int
    candidate: int
    how: str


def match(
    reference: Sequence[Entry],
    candidate: Sequence[Entry],
    *,
    translate_reference: Translate | None = None,
    translate_candidate: Translate | None = None,
) -> list[Match]:
    """Pairs of arrays, sorted by the reference's order.

    Arrays that agree come together first, wherever they are: by the same name, a peer's translated to ours, or one
    spelled alike where there is such a pair, else by values alone, in order where several are equal. An array that
    several of the other dump repeat, such as a module and its last part, is in a pair with each.

    What agrees with nothing is then paired by names; and so are arrays of one name that agree with others, where most
    names mean the same in both dumps. What is still left is aligned in order, equal shapes with equal shapes, so that
    as many as possible, and close values rather than others, come together: between the pairs that are known, as long
    as the dumps have those in the same order, then anywhere. An output that has no output beside it, not one of its
    name either, may be any point of the other dump that is close to it, also one that is in a pair already.
    """
    near = agreeing(reference, candidate)
    named: list[tuple[str, _Pairs]] = [("name", _by_names(reference, candidate, [], _own))]
    if translate_reference or translate_candidate:
        translate = (translate_reference or _as_it_is, translate_candidate or _as_it_is)
        named.append(("translated", _by_translation(reference, candidate, [], *translate)))
        named.sort(key=lambda one: -len(one[1]))
    trusted = [(how, pairs) for how, pairs in named if 2 * sum(pair in near for pair in pairs) >= len(pairs)]
    named.append(("spelling", _by_names(reference, candidate, [], _loose)))
    found: list[Match] = []

    def add(how: str, pairs: Iterable[tuple[int, int]]) -> None:
        known = {(m.reference, m.candidate) for m in found}
        found.extend(Match(i, j, how) for i, j in dict.fromkeys(pairs) if (i, j) not in known)

    def output(i: int, j: int) -> bool:
        return reference[i].kind == candidate[j].kind == "output"

    for how, pairs in named:
        used, taken = _done(found)
        add(how, [(i, j) for i, j in pairs if (i, j) in near and not (i in used and j in taken)])
    add("values", by_values(reference, candidate, [(m.reference, m.candidate) for m in found], near))
    for how, pairs in trusted:
        add(how, pairs)
    for how, pairs in named:
        used, taken = _done(found)
        add(how, [(i, j) for i, j in pairs if i not in used and (j not in taken or output(i, j))])
    for kind in dict.fromkeys(entry.kind for entry in reference):
        add("order", _by_order(reference, candidate, found, near, among=kind))
    add("values", _outputs(reference, candidate, found, near))
    add("order", _by_order(reference, candidate, found, near, among="point"))
    add("order", _anywhere(reference, candidate, found, near))
    return sorted(found, key=lambda m: m.reference)


def _done(found: Iterable[Match], near: Iterable[tuple[int, int]] = ()) -> tuple[set[int], set[int]]:
    """The places of both dumps that are in pairs, of those given or of those that agree."""
    pairs = [(m.reference, m.candidate) for m in found] + list(near)
    return {i for i, _ in pairs}, {j for _, j in pairs}


def _anywhere(
    reference: Sequence[Entry],
    candidate: Sequence[Entry],
    found: Sequence[Match],
    near: Iterable[tuple[int, int]],
) -> _Pairs:
    """What is left, the closest first, whatever the order and axes of length 1."""
    pairs: _Pairs = []
    used, taken = _done(found, near)
    for group in dict.fromkeys(entry.group for entry in reference):
        left = [i for i, e in enumerate(reference) if i not in used and e.group == group]
        right = [j for j, e in enumerate(candidate) if j not in taken and e.group == group]
        if not left or not right:
            continue
        scores = _scores(
            [np.squeeze(reference[i].array) for i in left], [np.squeeze(candidate[j].array) for j in right]
        )
        while scores.max() > -math.inf:
            row, column = np.unravel_index(int(scores.argmax()), scores.shape)
            pairs.append((left[row], right[column]))
            scores[row, :] = scores[:, column] = -math.inf
    return pairs


def align(scores: np.ndarray) -> _Pairs:
    """The pairs (i, j), both increasing, with the largest sum of `scores`; -inf stands for no pair.

        best[i, j] = max(best[i-1, j], best[i, j-1], best[i-1, j-1] + scores[i-1, j-1])

    Of alignments that are as good, the one that pairs early elements.
    """
    n, m = scores.shape
    best = np.zeros((n + 1, m + 1))
    for i in range(n):
        through = np.maximum(best[i, 1:], best[i, :-1] + scores[i])
        best[i + 1, 1:] = np.maximum.accumulate(through)
    pairs = []
    i, j = n, m
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def _as_it_is(name: str) -> list[str]:
    return [name]


def _own(entry: Entry) -> str:
    return entry.name


def _loose(entry: Entry) -> str:
    """The name without separators' kinds, wrappers' prefixes, capitals, and `@0`."""
    name = re.sub(r"@0$", "", entry.name.lower())
    parts = re.split(r"[./:]+", name)
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return ".".join(part for part in parts if part != "~")


def _by_names(
    reference: Sequence[Entry], candidate: Sequence[Entry], found: Iterable[Match], name: Callable[[Entry], str]
) -> _Pairs:
    """Pairs of the same name; first of the same kind, then points and outputs."""
    used, taken = {m.reference for m in found}, {m.candidate for m in found}
    pairs: _Pairs = []
    keys: tuple[Callable[[Entry], str], ...] = (attrgetter("kind"), attrgetter("group"))
    for key in keys:
        places: dict[tuple[str, str], int] = {}
        for j, entry in enumerate(candidate):
            if j not in taken:
                places.setdefault((key(entry), name(entry)), j)
        for i, entry in enumerate(reference):
            place = None if i in used else places.pop((key(entry), name(entry)), None)
            if place is not None:
                used.add(i)
                taken.add(place)
                pairs.append((i, place))
    return pairs


def _by_translation(
    reference: Sequence[Entry],
    candidate: Sequence[Entry],
    found: Iterable[Match],
    translate_reference: Translate,
    translate_candidate: Translate,
) -> _Pairs:
    """Pairs of points by our names for them: the first of a peer's that the other side has.

    Several of a peer's points may be one of ours, which is then in several pairs.
    """
    used, taken = {m.reference for m in found}, {m.candidate for m in found}
    left = {i: translate_reference(e.name) for i, e in enumerate(reference) if i not in used and e.kind == "trace"}
    right = {j: translate_candidate(e.name) for j, e in enumerate(candidate) if j not in taken and e.kind == "trace"}
    if translate_reference is _as_it_is:
        return sorted((i, j) for j, i in _first_named(right, left))
    return _first_named(left, right)


def _first_named(asking: Mapping[int, Sequence[str]], having: Mapping[int, Sequence[str]]) -> _Pairs:
    """For every place that asks the first of its names that another place has."""
    places: dict[str, int] = {}
    for place, names in having.items():
        for name in names:
            places.setdefault(name, place)
    chosen = ((place, next((name for name in names if name in places), None)) for place, names in asking.items())
    return [(place, places[name]) for place, name in chosen if name is not None]


def _outputs(
    reference: Sequence[Entry], candidate: Sequence[Entry], found: Iterable[Match], near: Iterable[tuple[int, int]]
) -> _Pairs:
    """Outputs of one side with the point of the other that is close to them, in another pair already or not, but for
    what agrees with another point."""
    used, taken = _done(found)
    agreed = [{pair[side] for pair in near} for side in (0, 1)]
    pairs = _outputs_among(reference, candidate, used, agreed[1])
    more = _outputs_among(candidate, reference, taken | {j for _, j in pairs}, agreed[0])
    return [*pairs, *((i, j) for j, i in more)]


def _outputs_among(asking: Sequence[Entry], having: Sequence[Entry], done: set[int], agreed: Set[int]) -> _Pairs:
    pairs = []
    for place, output in enumerate(asking):
        if place in done or output.kind != "output" or not output.array.size:
            continue
        others = [
            j
            for j, e in enumerate(having)
            if j not in agreed and e.kind == "trace" and e.array.shape == output.array.shape
        ]
        if others:
            close = _closeness(_samples([output.array]), _samples([having[j].array for j in others]))[0]
            if close.max() >= _SAME:
                pairs.append((place, others[len(others) - 1 - int(close[::-1].argmax())]))
    return pairs


def _by_order(
    reference: Sequence[Entry],
    candidate: Sequence[Entry],
    found: Sequence[Match],
    near: Iterable[tuple[int, int]],
    *,
    among: str,
) -> _Pairs:
    """What is left of one kind, or of one group, aligned; what agrees with anything is not left."""
    used, taken = _done(found, near)
    left = [i for i, e in enumerate(reference) if i not in used and among in (e.kind, e.group)]
    right = [j for j, e in enumerate(candidate) if j not in taken and among in (e.kind, e.group)]
    if not left or not right:
        return []
    scores = _scores([reference[i].array for i in left], [candidate[j].array for j in right])
    group = reference[left[0]].group
    anchors = sorted((m.reference, m.candidate) for m in found if reference[m.reference].group == group)
    if all(a[1] <= b[1] for a, b in pairwise(anchors)):
        before = [np.searchsorted([a[side] for a in anchors], places) for side, places in enumerate((left, right))]
        scores[before[0][:, None] != before[1]] = -math.inf
    return [(left[i], right[j]) for i, j in align(scores)]


def _scores(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> np.ndarray:
    """By how close the values are, 1 to 3 for a pair of equal shapes, 0.5 to 2.5 for axes in another order."""
    scores = np.full((len(left), len(right)), -math.inf)
    columns_of = _places(right)
    for shape, rows in _places(left).items():
        a = _samples([left[i] for i in rows])
        for other, columns in columns_of.items():
            for order in orders(other, shape):
                b = _samples([right[j].transpose(order) for j in columns])
                part = (1.0 if other == shape else 0.5) + _CLOSENESS * _closeness(a, b) ** 2
                floats = [
                    np.array([side[k].dtype.kind == "f" for k in at]) for side, at in ((left, rows), (right, columns))
                ]
                part[floats[0][:, None] != floats[1]] = -math.inf  # numbers that are counted are no values of a model
                places = np.ix_(rows, columns)
                scores[places] = np.maximum(scores[places], part)
    return scores


def _places(arrays: Sequence[np.ndarray]) -> dict[tuple[int, ...], list[int]]:
    places: dict[tuple[int, ...], list[int]] = {}
    for i, array in enumerate(arrays):
        places.setdefault(array.shape, []).append(i)
    return places


def _samples(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Evenly spaced elements of arrays of one shape, (arrays, elements); what is not finite counts as 0."""
    step = max(1, math.ceil(arrays[0].size / _SAMPLE))
    rows = np.stack([array.reshape(-1)[::step].astype(np.float64) for array in arrays])
    return np.clip(np.where(np.isfinite(rows), rows, 0.0), -_HUGE, _HUGE)


def _closeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - |x - y| / (|x| + |y|) for every row x of a and y of b: 1 for equal ones, near 0.3 for unrelated ones."""
    made = np.zeros((len(a), len(b)))
    sizes = np.linalg.norm(b, axis=1)
    for i, row in enumerate(a):
        total = sizes + np.linalg.norm(row)
        apart = np.linalg.norm(b - row, axis=1)
        made[i] = np.where(total > 0, 1 - apart / np.where(total > 0, total, 1), 0.3)
    return made
