"""Which arrays of two dumps have the same values: whole, in another layout, or as parts laid side by side."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..cases.compare import TOLERANCES, coarsest, difference
from ..dumps import Printed
from .layouts import in_layout_of

Pairs = list[tuple[int, int]]
"""Places in the reference and in the candidate."""

_HUGE = 1e150
"""Larger values count as this: their squares would overflow."""


@dataclass(frozen=True)
class Entry:
    """An array to be compared; `kind` is "trace", "output", "grad_param" or "grad_input".

    `kept` is the dtype that its numbers had in a file, where it was another. Where one of two dumps is `printed`,
    `array` is what is shown of it, and the corners of a `whole` one (`printed`).
    """

    kind: str
    name: str
    array: np.ndarray
    kept: str = ""
    printed: Printed | None = None
    whole: np.ndarray | None = None

    @property
    def dtype(self) -> str:
        """The precision of the numbers."""
        return self.kept if self.kept in TOLERANCES else self.array.dtype.name

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole array."""
        whole = self.array if self.whole is None else self.whole
        return self.printed.shape if self.printed else whole.shape

    @property
    def resolution(self) -> float:
        """Half a unit of the last digit of a printed array's largest number; 0 for others."""
        return float(self.printed.resolution.max(initial=0.0)) if self.printed else 0.0

    @property
    def label(self) -> str:
        """The name to show: outputs and gradients with their kind, and what cannot be printed escaped."""
        name = self.name if self.kind == "trace" else f"{self.kind}/{self.name}"
        return name if name.isprintable() else repr(name)[1:-1]

    @property
    def group(self) -> str:
        """What it may be matched within: outputs are points like others."""
        return self.kind if self.kind.startswith("grad") else "point"


def agreeing(reference: Sequence[Entry], candidate: Sequence[Entry]) -> dict[tuple[int, int], float]:
    """The pairs (i, j) whose values agree in some layout, with their errors.

    Errors are in units of an array's own largest value, so that small values do not agree with each other for being
    small; the limit is the tolerance of the coarser dtype, integers must be equal.
    """
    made: dict[tuple[int, int], float] = {}
    left, right = _summaries(reference), _summaries(candidate)
    groups = np.array([entry.group for entry in reference])
    gradients = np.array([entry.kind.startswith("grad") for entry in reference], bool)
    own = np.array([_limit(a, a.kind.startswith("grad")) for a in reference])
    for j, b in enumerate(candidate):
        limits = np.maximum(own, np.where(gradients, _limit(b, True), _limit(b, False)))
        scale = np.maximum(left[:, 0], right[j, 0])[:, None]
        alike = (np.abs(left - right[j]) <= 4 * (limits[:, None] + 1e-12) * scale).all(1) & (groups == b.group)
        for i in np.flatnonzero(alike).tolist():
            a = reference[i]
            if not a.array.size or not b.array.size:
                error = 0.0 if a.array.shape == b.array.shape else math.inf
            else:
                error = _own_error(b.array, a.array)
            if error <= limits[i]:
                made[i, j] = error
    return made


def _own_error(candidate: np.ndarray, reference: np.ndarray) -> float:
    """`difference` in the reference's layout, in units of the reference's largest value."""
    layout = in_layout_of(candidate, reference)
    if layout is None:
        return math.inf
    error = difference(layout.array, reference)
    if not 0 < error < math.inf:
        if error == 0 and reference.dtype.kind in "biu" and candidate.dtype.kind in "biu":
            return 0.0 if np.array_equal(layout.array, reference) else math.inf
        return error
    finite = np.abs(reference[np.isfinite(reference)].astype(np.float64))
    largest = float(finite.max(initial=0.0))
    return error * max(largest, 1.0) / largest if largest else math.inf


def _summaries(entries: Sequence[Entry]) -> np.ndarray:
    """(largest magnitude, smallest, largest value) of each array: what no order of its elements changes."""
    rows = np.zeros((len(entries), 3))
    for row, entry in zip(rows, entries):
        values = np.asarray(entry.array, np.float64)
        values = values[np.isfinite(values)]
        if values.size:
            row[:] = np.abs(values).max(), values.min(), values.max()
    return np.minimum(np.maximum(rows, -_HUGE), _HUGE)


def _limit(entry: Entry, gradient: bool) -> float:
    """The tolerance of an array's own dtype, and what a text rounds; integers must be equal."""
    if entry.array.dtype.kind != "f":
        return 0.0
    limit = TOLERANCES[coarsest(entry.dtype)]["gradient" if gradient else "output"]
    if resolution := entry.resolution:
        finite = np.abs(entry.array[np.isfinite(entry.array)])
        limit += 2 * resolution / max(float(finite.max(initial=0.0)), 4 * resolution)
    return limit


def by_values(
    reference: Sequence[Entry],
    candidate: Sequence[Entry],
    found: Collection[tuple[int, int]],
    near: Mapping[tuple[int, int], float],
) -> Pairs:
    """Pairs of what agrees, beside those that are `found`: each of the candidate's arrays, and outputs and gradients of
    the reference, with one that is free, if any is, and in order.

    Arrays of one shape come first; what is constant is in several pairs only with such.
    """
    used, taken = {i for i, _ in found}, {j for _, j in found}
    pairs: Pairs = []
    places = np.full(len(candidate), -1)
    for i, j in found:
        places[j] = i
    of: dict[int, list[int]] = {}
    for i, j in sorted(near):
        of.setdefault(j, []).append(i)
    for same_shape in (True, False):
        for j in sorted(of):
            if j in taken:
                continue
            options = [i for i in of[j] if (reference[i].array.shape == candidate[j].array.shape) == same_shape]
            if not options:
                continue
            least = min(near[i, j] for i in options)
            options = [i for i in options if near[i, j] <= 10 * least + 1e-15]
            free = [i for i in options if i not in used] or (options if same_shape or _varies(candidate[j]) else [])
            if not free:
                continue
            before = int(places[:j].max(initial=-1))
            i = min(free, key=lambda i: (reference[i].kind != candidate[j].kind, i < before, i))
            pairs.append((i, j))
            used.add(i)
            taken.add(j)
            places[j] = i
    for i in sorted(i for i in {i for i, _ in near} - used if reference[i].kind != "trace"):
        options = [
            j
            for k, j in near
            if k == i and (_varies(candidate[j]) or reference[i].array.shape == candidate[j].array.shape)
        ]
        if options:
            j = min(options, key=lambda j: (reference[i].kind != candidate[j].kind, near[i, j], -j))
            pairs.append((i, j))
            used.add(i)
    return pairs


def _varies(entry: Entry) -> bool:
    """Whether the values of an array tell it from others: more than one number, or a single one that is not 0."""
    if entry.array.size < 2:
        return bool(entry.array.any())
    return bool((entry.array != entry.array.flat[0]).any())


def parted(reference: Sequence[Entry], candidate: Sequence[Entry], whole: Set[int]) -> list[Entry]:
    """The candidate with each array that is several of the reference's side by side along the last axis cut into
    those: keys and values that are one linear map, or an MLP's channels and gates. `whole` are places of the rest."""
    made: list[Entry] = []
    for j, entry in enumerate(candidate):
        kept = j in whole or entry.kind != "trace" or entry.printed or entry.whole is not None
        cuts = [] if kept else _cuts(reference, entry)
        made += [_part(entry, a, b) for a, b in pairwise(cuts)] if len(cuts) > 2 else [entry]
    return made


def _part(entry: Entry, first: int, last: int) -> Entry:
    return replace(entry, name=f"{entry.name}[..., {first}:{last}]", array=entry.array[..., first:last])


def _cuts(reference: Sequence[Entry], entry: Entry) -> list[int]:
    """Where an array's last axis is cut into arrays of the reference; none where it is not made of them."""
    cuts, x = [0], entry.array
    while x.ndim and cuts[-1] < x.shape[-1]:
        start = cuts[-1]
        fits = [
            a.array.shape[-1]
            for a in reference
            if a.kind == "trace"
            and a.array.shape[:-1] == x.shape[:-1]
            and a.array.ndim
            and 0 < a.array.shape[-1] <= x.shape[-1] - start
            and a.array.any()  # zeros are part of anything
            and _own_error(x[..., start : start + a.array.shape[-1]], a.array)
            <= max(_limit(a, False), _limit(entry, False))
        ]
        if not fits:
            return []
        cuts.append(start + max(fits))
    return cuts
