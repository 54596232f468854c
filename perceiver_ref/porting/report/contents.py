"""What a report shows: a verdict, errors from point to point, and an excerpt around the largest difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..cases.compare import largest_difference
from .picture import Picture

_ROWS, _COLUMNS = 5, 4
"""Of the two last axes, how much an excerpt shows."""


@dataclass(frozen=True)
class ReportPoint:
    """One compared value: its error (inf for what cannot be compared), and what it is held against.

    `roundings` are the errors that correct arithmetic of each dtype would make, `units` the error in units of them;
    `cells` are further columns of the table by their headings, such as the largest absolute difference; `note` is shown
    below the name.
    """

    name: str
    error: float
    tolerance: float | None = None
    roundings: Mapping[str, float] = field(default_factory=dict)
    cells: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    units: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Excerpt:
    """A part of two arrays around their largest difference, as text: `index` is the place of that difference.

    `starts` is the index of the first element shown, in the whole arrays. Rows and columns are the two last axes.
    """

    name: str
    index: tuple[int, ...]
    starts: tuple[int, ...]
    reference: Sequence[Sequence[str]]
    candidate: Sequence[Sequence[str]]

    @property
    def marked(self) -> tuple[int, int]:
        """Row and column of the largest difference."""
        at = [i - start for i, start in zip(self.index[-2:], self.starts[-2:])]
        row, column = [0, 0, *at][-2:]
        return row, column


@dataclass(frozen=True)
class ReportParameter:
    """One parameter: whether it is used, None where that is not known, and the error of its gradient, if it was
    compared."""

    name: str
    shape: tuple[int, ...]
    used: bool | None = None
    gradient_error: float | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Report:
    """What is shown. `verdict` are lines of text, the first the shortest; `good` colours it; `notes` end the page."""

    title: str
    good: bool
    verdict: Sequence[str]
    points: Sequence[ReportPoint] = ()
    excerpt: Excerpt | None = None
    first: str | None = None
    """The name of the first point that differs, marked in plot and table."""
    notes: Sequence[str] = ()
    picture: Picture | None = None
    parameters: Sequence[ReportParameter] = ()


def excerpt(name: str, reference: np.ndarray, candidate: np.ndarray) -> Excerpt | None:
    """Both arrays, of one shape, around their largest difference; None where there is nothing to show."""
    if reference.shape != candidate.shape or not reference.size:
        return None
    index = largest_difference(reference, candidate)
    shape = reference.shape
    sizes = [1] * max(len(shape) - 2, 0) + [_ROWS, _COLUMNS][-len(shape) :] if shape else []
    starts = tuple(max(0, min(i - size // 2, n - size)) for i, size, n in zip(index, sizes, shape))
    window = tuple(slice(start, start + size) for start, size in zip(starts, sizes))

    def rows(array: np.ndarray) -> list[list[str]]:
        part = array[window]
        part = part.reshape((-1, part.shape[-1]) if part.ndim else (1, 1))
        return [[value_text(value) for value in row] for row in part]

    return Excerpt(name, index, starts, rows(reference), rows(candidate))


def value_text(value: np.generic) -> str:
    """One element of an array."""
    return f"{value:.8g}" if isinstance(value, np.floating) else str(value)
