"""Arrays of which a text shows the corners alone, rounded to some digits: compared on what it shows.

Both dumps are reduced to the corners that the text has of an array, which are matched and compared as arrays are: the
corners of a transposed array are the corners, transposed. What is no matter of corners, the whole shapes and sums over
all elements, is looked at afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..cases.compare import TOLERANCES, coarsest
from ..dumps import Printed, corners
from .matching import Match
from .values import Entry

_UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-9}


@dataclass(frozen=True)
class Statistic:
    """A number over all elements of an array, in the reference and in the candidate, and how far apart they may be."""

    what: str
    reference: float
    candidate: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return abs(self.candidate - self.reference) <= self.limit


_ALL = 1 << 62


def edge_of(*dumps: Sequence[Entry]) -> int | None:
    """The fewest elements of an axis' ends that any text shows; None where none of the arrays is printed."""
    printed = [entry.printed for dump in dumps for entry in dump if entry.printed]
    edges = (shown.edge for shown in printed if shown.values.shape != shown.shape)
    return min(edges, default=_ALL) if printed else None


def entry_of(kind: str, name: str, array: np.ndarray | Printed, kept: str = "") -> Entry:
    """An array to be compared, of one that is printed what is shown; `kept` is its dtype in the file."""
    if isinstance(array, Printed):
        return Entry(kind, name, array.values, array.dtype, array)
    return Entry(kind, name, array, kept)


def cornered_entries(entries: Sequence[Entry], edge: int) -> list[Entry]:
    """Each array's corners."""
    made = []
    for entry in entries:
        printed = entry.printed and replace(entry.printed, resolution=corners(entry.printed.resolution, edge))
        whole = None if printed else entry.array
        made.append(replace(entry, array=corners(entry.array, edge), printed=printed, whole=whole))
    return made


def pair_of(reference: Entry, candidate: Entry) -> tuple[Entry, Entry, int]:
    """Two entries reduced to the corners that are shown of both, and how many elements of an axis' ends these are."""
    edge = edge_of([reference], [candidate]) or _ALL
    a, b = (cornered_entries([entry], edge)[0] for entry in (reference, candidate))
    return a, b, edge


def in_whole(index: tuple[int, ...], corners: tuple[int, ...], whole: tuple[int, ...]) -> tuple[int, ...]:
    """Where an element of the corners of an array is in the whole."""
    return tuple(i if 2 * i < n else i + m - n for i, n, m in zip(index, corners, whole))


def fitting(matches: Sequence[Match], reference: Sequence[Entry], candidate: Sequence[Entry]) -> list[Match]:
    """Without pairs that came together by their corners, although the whole shapes are others."""
    named = ("name", "translated", "spelling")
    return [
        m for m in matches if m.how in named or same_shape(reference[m.reference].shape, candidate[m.candidate].shape)
    ]


def same_shape(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether shapes are equal but for the order of axes, those of length 1, and a batch that is there once."""
    return sorted(n for n in a if n != 1) == sorted(n for n in b if n != 1) or a[1:] == b or b[1:] == a


def remarks(reference: Entry, candidate: Entry, edge: int, told: Sequence[Statistic] = ()) -> list[str]:
    """What is to be said of a pair of which one is printed; `told` is what it prints of all elements."""
    made = []
    if reference.printed or candidate.printed:
        if reference.array.shape != reference.shape or candidate.array.shape != candidate.shape:
            made.append(f"of shape {list(reference.shape)} the first and last {edge} of each axis are compared")
        side = " and ".join(s for s, e in (("reference", reference), ("candidate", candidate)) if e.resolution)
        if agreed := [found.what for found in told if found.passed]:
            made.append(f"{', '.join(agreed)} of all elements agree{'s' if len(agreed) == 1 else ''}")
        if side:
            made.append(f"rounded to {max(reference.resolution, candidate.resolution):.0e} in the {side}")
    return made


def nearest(candidate: np.ndarray, reference: Entry, of: Entry) -> np.ndarray:
    """The candidate's numbers, in the reference's layout, each moved towards the reference's by what the texts round:
    what they hide is no difference."""
    if not (reference.resolution or of.resolution) or candidate.dtype.kind != "f":
        return candidate
    room = np.zeros(())
    for entry in (reference, of):
        if entry.printed:
            own = entry.printed.resolution
            room = room + (own if own.shape == candidate.shape else entry.resolution)
    a, b = candidate.astype(np.float64), reference.array.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        moved = a + np.clip(b - a, -room, room) * (1 + 1e-6)
        close = np.abs(b - a) <= room * (1 + 1e-6)
    return np.where(np.isfinite(a) & np.isfinite(b), np.where(close, b, moved), a)


def statistics(reference: Entry, candidate: Entry, tolerance: float | None = None) -> list[Statistic]:
    """What is printed of all elements of an array of which some are hidden, beside the same of the other array.

    A sum of n elements whose errors are up to `tolerance` of the largest, at random, and a unit of rounding, all to one
    side, is off by about sqrt(n) tolerance max |x| + 2 n u max |x|, u being half a unit of the dtype. Summing in
    float32, one element after the other, adds up to n v sum |x|, v being half a unit of float32; of half a million
    activations measured, 5 sqrt(n) v sum |x|, as small ones are lost beside a large sum: three times that, or a 64th of
    n, is allowed. A mean is off by that divided by n. What is shown is rounded, besides. Where both are printed, max
    |x| and sum |x| are estimated from what is shown.
    """
    shown = [entry.printed for entry in (reference, candidate)]
    if all(p is None or p.values.shape == p.shape for p in shown):
        return []
    if tolerance is None:
        tolerance = TOLERANCES[coarsest(reference.dtype, candidate.dtype)]["output"]
    told = [_told(entry) for entry in (reference, candidate)]
    unit = _UNITS[coarsest(reference.dtype, candidate.dtype)]
    limits = _limits(next((e for e in (reference, candidate) if e.whole is not None), reference), tolerance, unit)
    return [
        Statistic(what, told[0][what][0], told[1][what][0], limits[what] + told[0][what][1] + told[1][what][1])
        for what in limits
        if what in told[0] and what in told[1]
    ]


def _told(entry: Entry) -> Mapping[str, tuple[float, float]]:
    """The statistics that a text shows, or those of a whole array, of finite numbers, with their resolution."""
    if entry.printed:
        return entry.printed.statistics
    if entry.whole is None or not entry.whole.size or not np.isfinite(entry.whole).all():
        return {}
    x = entry.whole.astype(np.float64)
    found = {"sum": x.sum(), "mean": x.mean(), "min": x.min(), "max": x.max()}
    return {what: (float(value), 0.0) for what, value in found.items()}


def _limits(entry: Entry, tolerance: float, unit: float) -> dict[str, float]:
    """How far the statistics of two arrays that agree may be apart."""
    x = np.abs((entry.array if entry.whole is None else entry.whole).astype(np.float64))
    x = x[np.isfinite(x)]
    size = math.prod(entry.shape)
    largest, total = max(float(x.max(initial=0.0)), 1.0), float(x.mean()) * size if x.size else 0.0
    off = (math.sqrt(size) * tolerance + 2 * size * unit) * largest
    off += min(size, max(16 * math.sqrt(size), size / 64)) * _UNITS["float32"] * total
    one = tolerance * largest
    return {"sum": off, "mean": off / max(size, 1) + one, "min": one, "max": one}
