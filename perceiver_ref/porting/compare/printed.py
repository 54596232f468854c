"""Arrays of which a text shows the corners alone, rounded to some digits: compared on what it shows.

Both dumps are reduced to the corners that the text has of an array, which are matched and compared as arrays are: the
corners of a transposed array are the corners, transposed. What is no matter of corners, the whole shapes and sums over
all elements, is looked at afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..cases.compare import TOLERANCES, coarsest
from ..dumps import Printed, corners
from .matching import Match
from .values import Entry

_UNIT = float(np.finfo(np.float32).eps) / 2


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
_LONG = 1 << 20  # elements of a sum whose rounding errors still cancel


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
    """What one of the two prints of all its elements, beside the same of the other's, which is whole.

    A float32 sum of n elements, each with an error of up to `tolerance` of the largest, at random, is off by about
    sqrt(n) (tolerance max |x| + u sum |x|), u being half a unit of float32 (n in place of sqrt(n) for long ones, whose
    rounding errors no longer cancel); a mean by that divided by n. What is shown is rounded, besides.
    """
    printed = candidate.printed or reference.printed
    whole = reference.whole if candidate.printed else candidate.whole
    hidden = printed is not None and printed.values.shape != printed.shape
    if printed is None or not hidden or whole is None or not whole.size or not np.isfinite(whole).all():
        return []
    x = whole.astype(np.float64)
    largest = max(float(np.abs(x).max()), 1.0)
    if tolerance is None:
        tolerance = TOLERANCES[coarsest(reference.dtype, candidate.dtype)]["output"]
    off = (math.sqrt(x.size) if x.size < _LONG else x.size) * (tolerance * largest + _UNIT * float(np.abs(x).sum()))
    ours = {
        "sum": (float(x.sum()), off),
        "mean": (float(x.mean()), off / x.size + tolerance * largest),
        "min": (float(x.min()), tolerance * largest),
        "max": (float(x.max()), tolerance * largest),
    }
    made = []
    for what, (shown, resolution) in printed.statistics.items():
        if what in ours:
            value, limit = ours[what]
            pair = (value, shown) if candidate.printed else (shown, value)
            made.append(Statistic(what, *pair, limit + resolution))
    return made
