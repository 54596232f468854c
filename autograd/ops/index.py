"""Picking elements: basic slicing, rows of a table (embedding), and gathering along an axis.

Indices are integers, not differentiated; out-of-range ones raise `IndexError` on both backends (CuPy alone would
wrap them silently). Negative ones count from the end. An element picked twice gets the sum of both gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, is_array, scatter_add, to_host, wide, xp
from ..core import op

_BASIC = (int, np.integer, slice)


@op(numbers="moved")
def getitem(x: Array, *, index: Any) -> Any:
    """x[index] for integers, slices, None and Ellipsis; others: `take`, `take_along_axis`. The shape is NumPy's."""
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, bool) or not (part is None or part is ... or isinstance(part, _BASIC)):
            raise TypeError("index with integers, slices, None or ...; use take or take_along_axis for arrays")
    return x[index], (x.shape,)


@getitem.backward
def _(g: Array, shape: tuple[int, ...], index: Any) -> Any:
    full = xp(g).zeros(shape, g.dtype)
    full[index] = g
    return full


@op(numbers="moved", labels=("ids",))
def take(table: Array, ids: Array, *, axis: int = 0) -> Any:
    """The slices of `table` along `axis` that `ids` names: an embedding look-up for axis 0.

    table (..., V, ...), ids of any shape with integers in [-V, V) -> (..., *shape of ids, ...)
    """
    ids = _checked(ids, table.shape[axis], like=table)
    return table.take(ids, axis=axis), (ids, table.shape)


@take.backward
def _(g: Array, ids: Array, shape: tuple[int, ...], axis: int) -> Any:
    g = wide(g)
    table = xp(g).zeros(shape, g.dtype)
    axis %= len(shape)
    scatter_add(table, (slice(None),) * axis + (ids,), g)
    return table, None


@op(numbers="moved", labels=("indices",))
def take_along_axis(x: Array, indices: Array, *, axis: int = -1) -> Any:
    """y[..., i, ...] = x[..., indices[..., i, ...], ...]: gather along `axis`.

    x and indices have the same number of axes and broadcast in all but `axis`.
    """
    indices = _checked(indices, x.shape[axis], like=x)
    return xp(x).take_along_axis(x, indices, axis=axis), (indices, x.shape)


@take_along_axis.backward
def _(g: Array, indices: Array, shape: tuple[int, ...], axis: int) -> Any:
    library, g = xp(g), wide(g)
    full = library.zeros((*g.shape[: axis % g.ndim], shape[axis], *g.shape[axis % g.ndim + 1 :]), g.dtype)
    grid = list(library.ogrid[tuple(slice(n) for n in g.shape)])
    grid[axis] = library.broadcast_to(indices, g.shape)
    scatter_add(full, tuple(grid), g)
    return full, None


def _checked(indices: Array, size: int, *, like: Array) -> Array:
    """Integer indices within [-size, size), on the library of `like`."""
    if not is_array(indices) or indices.dtype.kind not in "iu":
        raise TypeError(f"indices must be an integer array, got {getattr(indices, 'dtype', type(indices).__name__)}")
    if indices.size:
        low, high = int(indices.min()), int(indices.max())
        if low < -size or high >= size:
            raise IndexError(f"index {low if low < -size else high} is out of range for {size} entries")
    there = xp(like).asarray(indices if xp(like) is xp(indices) else to_host(indices), dtype="int64")
    return there % size if size else there
