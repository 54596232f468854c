"""Ops that move elements without changing them: reshape, transpose, broadcast, join, split, pad."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, joined, xp
from ..core import op

Shape = tuple[int, ...]


@op(numbers="moved")
def reshape(x: Array, *, shape: Shape) -> Any:
    """The same elements, in row-major order, in another shape; one entry may be -1."""
    return x.reshape(shape), (x.shape,)


@reshape.backward
def _(g: Array, original: Shape) -> Any:
    return g.reshape(original)


@op(numbers="moved")
def transpose(x: Array, *, axes: tuple[int, ...] | None = None) -> Any:
    """Axis i of the result is axis `axes[i]` of x of any shape; None reverses them."""
    return x.transpose(axes), ()


@transpose.backward
def _(g: Array, axes: tuple[int, ...] | None) -> Any:
    if axes is None:
        return g.transpose()
    inverse = [0] * len(axes)
    for i, axis in enumerate(axes):
        inverse[axis % len(axes)] = i
    return g.transpose(inverse)


@op(numbers="moved")
def broadcast_to(x: Array, *, shape: Shape) -> Any:
    """x repeated, as a read-only view, along the axes that broadcasting adds or stretches."""
    return xp(x).broadcast_to(x, shape), ()


@broadcast_to.backward
def _(g: Array) -> Any:
    return g  # the engine sums


@op(variadic=True, numbers="moved")
def concatenate(*arrays: Array, axis: int = 0) -> Any:
    """Join a sequence of arrays along an existing axis; their shapes differ there alone."""
    return joined(arrays, axis), tuple(a.shape[axis] for a in arrays)


@concatenate.backward
def _(g: Array, *sizes: int, axis: int) -> Any:
    return _pieces(g, sizes, axis)


@op(variadic=True, numbers="moved")
def stack(*arrays: Array, axis: int = 0) -> Any:
    """Join a sequence of arrays of one shape along a new axis."""
    return joined([xp(a).expand_dims(a, axis) for a in arrays], axis), ()


@stack.backward
def _(g: Array, axis: int) -> Any:
    return list(xp(g).moveaxis(g, axis, 0))


@op(numbers="moved")
def split(x: Array, *, sizes: tuple[int, ...], axis: int = 0) -> Any:
    """Cut x of any shape along `axis` into a tuple of pieces of the given sizes, which must add up to the axis."""
    if sum(sizes) != x.shape[axis]:
        raise ValueError(f"sizes {sizes} add up to {sum(sizes)}, but axis {axis} has {x.shape[axis]}")
    return tuple(_pieces(x, sizes, axis)), ()


@split.backward
def _(g: Any, axis: int) -> Any:
    pieces = g if isinstance(g, tuple) else (g,)
    return joined(pieces, axis)


@op(numbers="moved")
def pad(x: Array, *, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> Any:
    """Add `widths[i] = (before, after)` elements equal to `value` around axis i."""
    if len(widths) != x.ndim:
        raise ValueError(f"widths must hold one pair for each of {x.ndim} axes, got {widths}")
    if x.dtype.kind != "f" and not _holds(x.dtype, value):
        raise ValueError(f"padding of {value} is no {x.dtype}; cast x first")
    out = xp(x).full([before + n + after for n, (before, after) in zip(x.shape, widths)], value, x.dtype)
    out[_inside(x.shape, widths)] = x
    return out, (x.shape,)


@pad.backward
def _(g: Array, shape: Shape, widths: tuple[tuple[int, int], ...]) -> Any:
    return g[_inside(shape, widths)]


def _holds(dtype: Any, value: float) -> bool:
    """Whether an integer dtype, or bool, has this number."""
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return low <= value <= high and value == int(value)


def _inside(shape: Shape, widths: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
    return tuple(slice(before, before + n) for n, (before, _) in zip(shape, widths))


def _pieces(x: Array, sizes: tuple[int, ...], axis: int) -> list[Array]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(x[(slice(None),) * (axis % x.ndim) + (slice(start, start + size),)])
        start += size
    return pieces
