"""One way of summing for all: over any axes and in any layout, as near as a sum in float64 that is rounded once.

A running float32 sum over 50,000 elements loses two to four digits, and NumPy's own sums run over every axis but the
one that is contiguous, which they sum in pairs. Here that one is summed by NumPy; others in blocks of a few rows, by
products with ones, which is as fast as a sum can be, and the blocks' sums in float64; what does not lie in one piece
is summed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .backend import Array, name, xp

Axis = int | tuple[int, ...] | None

BLOCK = 16
"""Elements that are added one after the other in float32: 1e-7 of their sum is lost where all are alike."""

PAIRS = 1 << 12
"""Elements from which NumPy's sum in pairs is near enough; with fewer, how it adds up the last hangs on the machine."""

_ONES = np.ones(BLOCK, np.float32)

of_rows: dict[str, Callable[[Array], Array]] = {}
"""Backend -> a faster sum of the rows of x (N, C), in float64 and rounded once; kernels put theirs here."""

WIDE = 256, 1 << 18
"""Columns and elements from which NumPy adds rows faster than BLAS."""

SMALL = 1 << 11
"""Elements up to which NumPy's sum in float64 takes less time than laying them out does."""

PRODUCTS = 500
"""The same of products, which BLAS adds in many sums at once: 7e-8."""


@cache
def axes_of(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes that NumPy's `axis` names, in order, from 0; `ValueError` for one that is not there, or twice."""
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple) else (axis,)
    axes = sorted(a + ndim if a < 0 else a for a in given)
    if any(not 0 <= a < ndim for a in axes) or len(set(axes)) < len(axes):
        raise ValueError(f"axis {axis} does not name axes of an array of {ndim}")
    return tuple(axes)


def total(x: Array, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """The sum of x over `axis`, in the dtype of floating-point x; off by a few units of rounding of sum |x| at most."""
    if _in_pairs(x, axis):
        return x.sum(axis, keepdims=keepdims)
    sums = wide_total(x, axis, keepdims=keepdims)
    return sums.astype(x.dtype, copy=False) if x.dtype.kind == "f" else sums


def average(x: Array, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """As `total`, divided by the number of elements summed: NaN, without a warning, where there are none."""
    if _in_pairs(x, axis) and x.size:
        return x.sum(axis, keepdims=keepdims) / x.shape[-1]
    axes = axes_of(axis, x.ndim)
    count = math.prod(x.shape[a] for a in axes)
    sums = wide_total(x, axes, keepdims=keepdims)
    means = sums / count if count else sums + xp(x).asarray(np.nan)
    return means.astype(x.dtype, copy=False) if x.dtype.kind == "f" else means


def _in_pairs(x: Array, axis: Axis) -> bool:
    """Whether the sums are those of rows that NumPy sums in pairs: what most of the sums of a model are."""
    last = axis in (-1, x.ndim - 1) and x.ndim > 0
    return last and type(x) is np.ndarray and x.dtype.char in "fd" and x.flags.c_contiguous


def wide_total(x: Array, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """As `total`, but not rounded to float16 or float32 where the sum was made of parts in more precision."""
    axes = axes_of(axis, x.ndim)
    if x.dtype.char not in "ef" or not axes or not x.size:
        return x.sum(axes, keepdims=keepdims)
    if x.size > SMALL and _of_rows(x, axes):
        kept = x.shape[len(axes) :]
        return _middle(x.reshape(1, -1, math.prod(kept))).reshape((1,) * len(axes) * keepdims + kept)
    if name(x) != "numpy":
        return _on_device(x, axes, keepdims)
    if x.size <= SMALL:
        return x.sum(axes, dtype=np.float64, keepdims=keepdims)
    x = x.astype(np.float32) if x.dtype == np.float16 else x
    order = list(range(x.ndim))
    if not x.flags.c_contiguous:  # as it lies in memory
        order.sort(key=lambda a: (x.shape[a] > 1, -x.strides[a]))
    straight = x.transpose(order)
    if not straight.flags.c_contiguous:
        return x.sum(axes, dtype=np.float64, keepdims=keepdims)
    sums, summed = straight, [i for i, a in enumerate(order) if a in axes]
    while summed:
        last = first = summed.pop()
        while summed and summed[-1] == first - 1:
            first = summed.pop()
        before, gone, after = sums.shape[:first], sums.shape[first : last + 1], sums.shape[last + 1 :]
        sums = _middle(sums.reshape(math.prod(before), math.prod(gone), math.prod(after))).reshape(before + after)
    places = [a for a in order if a not in axes]
    sums = sums.transpose([places.index(a) for a in sorted(places)])
    return sums.reshape([1 if i in axes else n for i, n in enumerate(x.shape)]) if keepdims else sums


def _of_rows(x: Array, axes: tuple[int, ...]) -> bool:
    """Whether the sums are those of a matrix's rows, in row-major order: what most sums over several axes are."""
    leading = axes[-1] == len(axes) - 1 < x.ndim - 1
    return leading and type(x) is np.ndarray and x.dtype.char == "f" and x.flags.c_contiguous


def _on_device(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """CuPy's sums in float64, which memory limits; those of all axes but the last, in row-major order, by a kernel."""
    leading = axes[-1] == len(axes) - 1 and len(axes) < x.ndim
    if leading and name(x) in of_rows and x.dtype == np.float32 and x.flags.c_contiguous:
        kept = x.shape[len(axes) :]
        return of_rows[name(x)](x.reshape(-1, math.prod(kept))).reshape((1,) * len(axes) * keepdims + kept)
    return x.sum(axes, dtype=np.float64, keepdims=keepdims)


def _middle(x: Array) -> Array:
    """The sums over the middle axis of x (A, R, C), which lies in row-major order: (A, C)."""
    outer, rows, columns = x.shape
    if columns == 1 and rows < PAIRS:
        return x.sum(1, np.float64)
    if columns == 1 or rows <= BLOCK or x.dtype == np.float64:
        return x.sum(1)  # NumPy sums a column in pairs
    whole = rows // BLOCK * BLOCK
    blocks = x[:, :whole].reshape(outer, -1, BLOCK, columns)
    sums = blocks.sum(2) if columns >= WIDE[0] and x.size >= WIDE[1] else _ONES @ blocks
    sums = np.add.reduce(sums, 1, np.float64)
    return sums if whole == rows else sums + x[:, whole:].sum(1)


def sum_of_squares(x: Array) -> Any:
    """The sum of the squares of all elements, 0-d: in float64 whatever the dtype, float16's squares in float32."""
    flat = x.reshape(-1)
    if x.dtype.char not in "ef":
        return flat @ flat
    flat = flat.astype(np.float32, copy=False)
    if name(x) != "numpy":
        return (flat * flat).sum(dtype=np.float64)
    whole = len(flat) // PRODUCTS * PRODUCTS
    if not whole:
        return np.float64(flat @ flat)
    rows, rest = flat[:whole].reshape(-1, PRODUCTS), flat[whole:]
    return np.vecdot(rows, rows).sum(dtype=np.float64) + np.float64(rest @ rest)


__all__ = ["Axis", "average", "axes_of", "sum_of_squares", "total", "wide_total"]
