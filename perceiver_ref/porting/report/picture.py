"""The error of an array as a picture: rows are positions, columns channels; a panel an item, or a head of attention."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from ..cases.compare import distances

LEVELS = 8
"""Steps of the scale, which is logarithmic; 0 is what agrees, and one above the last what is not finite."""
_DECADES = 6.0
_CELLS, _PANELS = 56, 8
_WIDE, _SIZE, _GAP, _HEAD = 900, 12, 16, 18


@dataclass(frozen=True)
class Panel:
    """Levels of the cells, by rows: the largest error of a cell, which is one element or a block of several."""

    title: str
    levels: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Picture:
    """Panels of one array; `block`: rows and columns of a cell; `heads`: how many share the columns, in order, or 0.

    `low` and `high` are the errors that the scale begins and ends with; `left_out` panels are not shown.
    """

    name: str
    panels: Sequence[Panel]
    shape: tuple[int, int]
    block: tuple[int, int]
    low: float
    high: float
    heads: int = 0
    left_out: int = 0


def picture(
    name: str, reference: np.ndarray, candidate: np.ndarray, tolerance: float, heads: int | None = None
) -> Picture | None:
    """The error of an array; None of arrays that cannot be compared, have one element, or agree to the last digit.

    `tolerance`, in units of max(max |reference|, 1), is where the scale begins, or a millionth of the largest error.
    """
    if reference.shape != candidate.shape or reference.size < 2:
        return None
    apart = distances(reference, candidate)
    finite = apart[np.isfinite(apart)]
    known = np.abs(reference[np.isfinite(reference)].astype(np.float64)).max(initial=1.0)
    high = float(finite.max(initial=0.0))
    if not high and finite.size == apart.size:
        return None
    high = high or 1.0
    low = min(max(tolerance * float(known), high * 10**-_DECADES), high / 2)
    planes = apart.reshape(-1, *(1, *apart.shape)[-2:])
    of_heads = heads is not None and apart.ndim >= 4 and apart.shape[-3] == heads
    worst = _worst(planes.max((1, 2)), heads if of_heads and heads is not None and heads <= 2 * _PANELS else None)
    rows, columns = planes.shape[1:]
    block = (math.ceil(rows / _CELLS), math.ceil(columns / _CELLS))
    panels = [Panel(_title(int(i), apart.shape[:-2], of_heads), _levels(planes[i], block, low, high)) for i in worst]
    within = heads if heads and not of_heads and columns % heads == 0 and heads > 1 else 0
    return Picture(name, panels, (rows, columns), block, low, high, within, len(planes) - len(panels))


def _worst(errors: np.ndarray, heads: int | None) -> np.ndarray:
    """Places of the panels to show, in order: those with the largest errors, or all heads of the item that has it."""
    if heads is not None:
        first = int(errors.argmax()) // heads * heads
        return np.arange(first, first + heads)
    made: np.ndarray = np.sort(np.argsort(-errors, kind="stable")[:_PANELS])
    return made


def _title(place: int, lead: tuple[int, ...], of_heads: bool) -> str:
    if not lead:
        return ""
    index = [int(i) for i in np.unravel_index(place, lead)]
    if of_heads:
        return f"{_items(index[:-1])}head {index[-1]}"
    return _items(index).removesuffix(", ")


def _items(index: list[int]) -> str:
    return "" if not index else f"item {', '.join(map(str, index))}, "


def _levels(plane: np.ndarray, block: tuple[int, int], low: float, high: float) -> list[list[int]]:
    short = [-n % size for n, size in zip(plane.shape, block)]
    padded = np.pad(plane, [(0, n) for n in short])
    cells = padded.reshape(padded.shape[0] // block[0], block[0], -1, block[1]).max((1, 3))
    with np.errstate(divide="ignore"):
        steps = np.log(cells / low) / math.log(high / low) * LEVELS
    made = np.where(cells <= low, 0, np.clip(np.ceil(np.where(np.isfinite(steps), steps, 0)), 1, LEVELS))
    return [[int(v) for v in row] for row in np.where(np.isfinite(cells), made, LEVELS + 1)]


def svg(given: Picture) -> Iterator[str]:
    """The picture as HTML: panels beside each other, as many as fit, and the scale below."""
    rows, columns = len(given.panels[0].levels), len(given.panels[0].levels[0])
    beside = min(len(given.panels), 4)
    size = max(2, min(_SIZE, (_WIDE // beside - _GAP) // columns))
    width, height = columns * size, rows * size
    axis = (
        "a cell is one element"
        if given.block == (1, 1)
        else "a cell is the largest of {} x {} elements".format(*given.block)
    )
    yield f"<h2>Where {escape(given.name)} is wrong</h2>"
    more = f"; {given.left_out} more panels have smaller errors" if given.left_out else ""
    yield f'<p class="faint">rows: {given.shape[0]} positions; columns: {given.shape[1]} channels; {axis}{more}</p>'
    yield '<div class="panels">'
    for panel in given.panels:
        label = escape(" ".join(filter(None, ("error of", given.name, panel.title))))
        box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        yield f'<figure><svg class="picture" {box} role="img" aria-label="{label}">'
        yield f'<rect class="e0" width="{width}" height="{height}"/>'
        yield from _cells(panel, size)
        for head in range(1, given.heads):
            at = round(head * width / given.heads, 2)
            yield f'<line class="head" x1="{at}" x2="{at}" y1="0" y2="{height}"/>'
        below = f"{given.heads} heads, from the left" if given.heads else ""
        yield f"</svg><figcaption>{escape(', '.join(filter(None, (panel.title, below))))}</figcaption></figure>"
    yield "</div>"
    yield from _scale(given)


def _cells(panel: Panel, size: int) -> Iterator[str]:
    """Runs of cells of one level as one rectangle each."""
    for i, row in enumerate(panel.levels):
        start = 0
        for j in range(1, len(row) + 1):
            if j == len(row) or row[j] != row[start]:
                if row[start]:
                    place = f'x="{start * size}" y="{i * size}" width="{(j - start) * size}" height="{size}"'
                    yield f'<rect class="e{row[start]}" {place}/>'
                start = j


def _scale(given: Picture) -> Iterator[str]:
    """What each step of the scale means."""
    yield '<p class="scale"><span class="e0"></span>up to ' + f"{given.low:.0e}"
    ratio = given.high / given.low
    for level in range(1, LEVELS + 1):
        yield f'<span class="e{level}"></span>{given.low * ratio ** (level / LEVELS):.0e}'
    if any(LEVELS + 1 in row for panel in given.panels for row in panel.levels):
        yield f'<span class="e{LEVELS + 1}"></span>not finite'
    yield "</p>"
