"""Which array of one dump belongs to which of another: by name, by a peer's name for it, or by shape and order."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter

import numpy as np

from .layouts import orders

Translate = Callable[[str], Sequence[str]]
"""A peer's name for a point -> our names for it, the best first."""

_Names = Callable[["Entry"], list[str]]
_Round = tuple[str, _Names, _Names]

_SAMPLE = 4096
"""Elements of an array that matching by shape and order looks at."""
_CLOSENESS = 2.0
"""What equal values count, where being there in order counts 1: enough to leave one pair out for them."""
_WRAPPERS = {"module", "model", "_orig_mod", "~", ""}


@dataclass(frozen=True)
class Entry:
    """An array to be compared; `kind` is "trace", "output", "grad_param" or "grad_input"."""

    kind: str
    name: str
    array: np.ndarray

    @property
    def label(self) -> str:
        """The name to show: outputs and gradients with their kind, and what cannot be printed escaped."""
        name = self.name if self.kind == "trace" else f"{self.kind}/{self.name}"
        return name if name.isprintable() else repr(name)[1:-1]

    @property
    def group(self) -> str:
        """What it may be matched within: outputs are points like others."""
        return self.kind if self.kind.startswith("grad") else "point"


@dataclass(frozen=True)
class Match:
    """Positions in both dumps, and how they were found: "name", "translated", "spelling" or "order"."""

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
    """Pairs of arrays, each array in one at most, sorted by the reference's order.

    Names are compared first: as they are, with a peer's translated to ours (whichever gives more), and spelled alike up
    to separators and wrappers' prefixes. What is left is aligned in order, equal shapes with equal shapes, so that as
    many as possible, and close values rather than others, come together. Between two pairs that names gave, only what
    lies between them in both dumps is aligned, as long as the dumps have those pairs in the same order.
    """
    found: list[Match] = []
    own: _Round = ("name", _own, _own)
    translated: _Round = ("translated", _through(translate_reference), _through(translate_candidate))
    rounds = [own]
    if translate_reference or translate_candidate:
        counts = [len(_by_names(reference, candidate, [], r[1], r[2])) for r in (own, translated)]
        rounds = [translated, own] if counts[1] > counts[0] else [own, translated]
    for how, ours, theirs in (*rounds, ("spelling", _loose, _loose)):
        pairs = _by_names(reference, candidate, found, ours, theirs)
        found += [Match(i, j, how) for i, j in pairs]
    for group in dict.fromkeys(entry.group for entry in reference):
        found += _by_order(reference, candidate, found, group)
    return sorted(found, key=lambda m: m.reference)


def align(scores: np.ndarray) -> list[tuple[int, int]]:
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


def _own(entry: Entry) -> list[str]:
    return [entry.name]


def _loose(entry: Entry) -> list[str]:
    """The name without separators' kinds, wrappers' prefixes, capitals, and `@0`."""
    name = re.sub(r"@0$", "", entry.name.lower())
    parts = re.split(r"[./:]+", name)
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts = parts[1:]
    return [".".join(part for part in parts if part != "~")]


def _through(translate: Translate | None) -> _Names:
    def names(entry: Entry) -> list[str]:
        if translate is None or entry.kind != "trace":
            return [entry.name]
        return [*translate(entry.name)]

    return names


def _by_names(
    reference: Sequence[Entry],
    candidate: Sequence[Entry],
    found: Iterable[Match],
    ours: _Names,
    theirs: _Names,
) -> list[tuple[int, int]]:
    """Pairs with a name in common; the same kind first, then points and outputs of the same name."""
    used, taken = {m.reference for m in found}, {m.candidate for m in found}
    pairs: list[tuple[int, int]] = []
    keys: tuple[Callable[[Entry], str], ...] = (attrgetter("kind"), attrgetter("group"))
    for key in keys:
        places: dict[tuple[str, str], list[int]] = {}
        for j, entry in enumerate(candidate):
            if j not in taken:
                for name in theirs(entry):
                    places.setdefault((key(entry), name), []).append(j)
        for i, entry in enumerate(reference):
            if i in used:
                continue
            wanted = (j for name in ours(entry) for j in places.get((key(entry), name), ()) if j not in taken)
            chosen = next(wanted, None)
            if chosen is not None:
                used.add(i)
                taken.add(chosen)
                pairs.append((i, chosen))
    return pairs


def _by_order(
    reference: Sequence[Entry], candidate: Sequence[Entry], found: Sequence[Match], group: str
) -> list[Match]:
    used, taken = {m.reference for m in found}, {m.candidate for m in found}
    left = [i for i, e in enumerate(reference) if i not in used and e.group == group]
    right = [j for j, e in enumerate(candidate) if j not in taken and e.group == group]
    if not left or not right:
        return []
    scores = _scores([reference[i].array for i in left], [candidate[j].array for j in right])
    anchors = sorted((m.reference, m.candidate) for m in found if reference[m.reference].group == group)
    if all(a[1] < b[1] for a, b in pairwise(anchors)):
        before = [np.searchsorted([a[side] for a in anchors], places) for side, places in enumerate((left, right))]
        scores[before[0][:, None] != before[1]] = -math.inf
    return [Match(left[i], right[j], "order") for i, j in align(scores)]


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
    return np.where(np.isfinite(rows), rows, 0.0)


def _closeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - |x - y| / (|x| + |y|) for every row x of a and y of b: 1 for equal ones, near 0.3 for unrelated ones."""
    made = np.zeros((len(a), len(b)))
    sizes = np.linalg.norm(b, axis=1)
    for i, row in enumerate(a):
        total = sizes + np.linalg.norm(row)
        apart = np.linalg.norm(b - row, axis=1)
        made[i] = np.where(total > 0, 1 - apart / np.where(total > 0, total, 1), 0.3)
    return made
