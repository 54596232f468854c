"""Reductions. `axis` is None (all axes), an int or a tuple of ints; `keepdims` as in NumPy."""

from __future__ import annotations

import math
from typing import Any

from ..backend import Array, xp
from ..core import op
from ..sums import Axis, average, total


@op
def sum(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over `axis`: x of any shape -> without these axes, or of length 1 with `keepdims`."""
    return total(x, axis, keepdims=keepdims), (x.shape,)


@sum.backward
def _(g: Array, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    return xp(g).broadcast_to(_restored(g, shape, axis, keepdims), shape)


@op(floats=True)
def mean(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Arithmetic mean over `axis`; shapes as for `sum`."""
    return average(x, axis, keepdims=keepdims), (x.shape,)


@mean.backward
def _(g: Array, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    restored = _restored(g, shape, axis, keepdims)
    count = math.prod(n for n, kept in zip(shape, restored.shape) if kept == 1)  # an axis of length 1 counts for 1
    return xp(g).broadcast_to(restored / count if count else restored, shape)


@op
def max(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Largest element over `axis`, shapes as for `sum`; elements that tie share the gradient equally."""
    y = x.max(axis, keepdims=keepdims)
    return y, (x, y)


@max.backward
def _(g: Array, x: Array, y: Array, axis: Axis, keepdims: bool) -> Any:
    ties = x == _restored(y, x.shape, axis, keepdims)
    share = _restored(g, x.shape, axis, keepdims) / ties.sum(axis, keepdims=True).astype(g.dtype)
    return xp(g).where(ties, share, 0)  # selected: 0 times infinity is NaN


@op(floats=True)
def logsumexp(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """log of the sum of exp(x) over `axis`, shapes as for `sum`, without overflow; -inf of -inf and of no elements."""
    library = xp(x)
    if not x.size:  # no elements have no largest one
        y = library.full_like(x.sum(axis, keepdims=True), -library.inf)
        return y if keepdims else y.squeeze(axis), (x, y)
    top = x.max(axis, keepdims=True)
    sums = total(library.exp(x - library.where(library.isinf(top), 0, top)), axis, keepdims=True)
    y = library.where(library.isinf(top), top, library.log(library.where(sums == 0, 1, sums)) + top)
    return y if keepdims else y.squeeze(axis), (x, y)


@logsumexp.backward
def _(g: Array, x: Array, y: Array, axis: Axis, keepdims: bool) -> Any:
    library = xp(x)
    nothing = y == -library.inf  # all elements are -inf
    return library.exp(x - library.where(nothing, 0, y)) * _restored(g, x.shape, axis, keepdims)


def _restored(reduced: Array, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Array:
    """A reduced array with its axes of length 1 put back."""
    if keepdims:
        return reduced
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    gone = {a % len(shape) for a in axes} if shape else set()
    return reduced.reshape(tuple(1 if i in gone else n for i, n in enumerate(shape)))
