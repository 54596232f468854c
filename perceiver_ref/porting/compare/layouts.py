"""The same values in another layout: axes in another order, merged or split, or a batch of which all rows are equal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

from ..cases.compare import difference

_MOST_AXES = 5
"""More axes than video in patches has; beyond it there are too many orders to try."""
_CLOSE = 0.05
"""Merged or split axes are recognised by their values, which then differ by less than this of the largest."""


class Arrangement(NamedTuple):
    """An array in the layout of another, and what was done to it ("" for nothing)."""

    array: np.ndarray
    said: str


def in_layout_of(candidate: np.ndarray, reference: np.ndarray) -> Arrangement | None:
    """`candidate` in the shape of `reference`; None when it holds something else.

    Equal shapes stay as they are. Otherwise its axes may have another order, axes of size 1 come and go, the batch be
    there once for all rows, or axes, such as heads and their channels, be merged or split. Where several orders of axes
    give the shape, the closest values decide.
    """
    if candidate.shape == reference.shape:
        return Arrangement(candidate, "")
    by_shape = list(_by_shape(candidate, reference.shape))
    if by_shape:
        return min(by_shape, key=lambda layout: difference(layout.array, reference))
    by_value = [(difference(layout.array, reference), layout) for layout in _merged(candidate, reference.shape)]
    error, best = min(by_value, key=lambda row: row[0], default=(math.inf, None))
    scale = float(np.abs(reference).max(initial=0.0)) if reference.dtype.kind == "f" else 1.0
    return best if error <= _CLOSE * min(scale, 1.0) else None


def same_shape_transposed(candidate: np.ndarray, reference: np.ndarray, limit: float) -> str:
    """What order of axes makes arrays of equal shape differ by at most `limit`; "" when none does."""
    if not 2 <= candidate.ndim <= _MOST_AXES:
        return ""
    for order in permutations(range(candidate.ndim)):
        moved = candidate.transpose(order)
        if list(order) != sorted(order) and moved.shape == reference.shape and difference(moved, reference) <= limit:
            return describe(order)
    return ""


def orders(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Orders of axes that make an array of one shape have another; equal shapes stay as they are."""
    if shape == wanted:
        return [tuple(range(len(shape)))]
    if sorted(shape) != sorted(wanted) or len(shape) > _MOST_AXES:
        return []
    return [order for order in permutations(range(len(shape))) if tuple(shape[axis] for axis in order) == wanted]


def describe(order: tuple[int, ...]) -> str:
    """A transposition of the candidate's axes in words."""
    n = len(order)
    moved = [axis for axis in range(n) if order[axis] != axis]
    if n >= 4 and order == (0, *range(2, n), 1):
        return f"channels first in the candidate, last in the reference: axes {order}"
    if n >= 4 and order == (0, n - 1, *range(1, n - 1)):
        return f"channels last in the candidate, first in the reference: axes {order}"
    if len(moved) == 2:
        return f"axes {moved[0]} and {moved[1]} swapped"
    return f"the candidate's axes in the order {order}"


def _by_shape(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[Arrangement]:
    """Layouts that the shapes alone give away."""
    for order in orders(array.shape, shape):
        yield Arrangement(array.transpose(order), describe(order))
    if [n for n in array.shape if n != 1] == [n for n in shape if n != 1]:
        yield Arrangement(array.reshape(shape), f"shape {list(array.shape)} instead of {list(shape)}")
    if shape[1:] == array.shape and shape[0] > 0:
        yield Arrangement(np.broadcast_to(array, shape), "there once for the whole batch in the candidate")
    if array.shape[1:] == shape and array.shape[0] > 0 and (array == array[:1]).all():
        yield Arrangement(array[0], "there once for the whole batch in the reference")


def _merged(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[Arrangement]:
    """Layouts with axes merged or split: the one with fewer axes comes from, or leads to, some order of the other's."""
    if array.size != math.prod(shape) or array.size == 0 or max(array.ndim, len(shape)) > _MOST_AXES:
        return
    said = f"axes {list(array.shape)} instead of {list(shape)}"
    for order in permutations(range(max(array.ndim, len(shape)))):
        how = said if list(order) == sorted(order) else f"{said}, {describe(order)}"
        if array.ndim >= len(shape):
            yield Arrangement(array.transpose(order).reshape(shape), how)
        else:  # split first, then move to where the reference has them
            split = tuple(shape[order.index(axis)] for axis in range(len(shape)))
            yield Arrangement(array.reshape(split).transpose(order), how)
