"""Convolution, transposed convolution and max-pooling over 1, 2 or 3 grid axes, channels last.

Each is a sum (or maximum) over the offsets of the window, written as that loop: the elements that an offset touches
are a strided slice, so forward and backward are products of slices with one (C, E) matrix an offset. Padding is
explicit, `((before, after), ...)`; `same_padding` gives TensorFlow's and JAX's `SAME`, the odd element at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend import Array, xp
from ..core import op

Sizes = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]


def same_padding(sizes: Sizes, window: Sizes, strides: Sizes, dilation: Sizes | None = None) -> Padding:
    """Padding for ceil(size / stride) outputs an axis, the odd element at the end (TensorFlow's and JAX's `SAME`)."""
    padding = []
    for n, k, s, d in zip(sizes, window, strides, dilation or (1,) * len(sizes)):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        padding.append((total // 2, total - total // 2))
    return tuple(padding)


@op
def convolution(
    x: Array,
    weight: Array,
    *,
    strides: Sizes,
    padding: Padding,
    dilation: Sizes | None = None,
    groups: int = 1,
) -> Any:
    """y[i] = sum over offsets o of x[stride i + dilation o - before] W[o]: cross-correlation, as networks have it.

    x (B, *grid, C), weight (*window, C / groups, E) -> (B, *outputs, E), outputs = (n + before + after - reach) //
    stride + 1 with reach = dilation (k - 1) + 1. Each of `groups` equal parts of E sees the same part of C alone.
    """
    window, steps = weight.shape[:-2], dilation or (1,) * len(strides)
    _check(x, weight.shape[-2] * groups, strides, padding, window, weight.shape[-1], groups)
    padded = _padded(x, padding)
    outputs = _outputs(padded, window, strides, steps)
    y = xp(x).zeros_like(
        x, np.result_type(x.dtype, weight.dtype), order="C", shape=(x.shape[0], *outputs, weight.shape[-1])
    )
    for offset in _offsets(window):
        y += _product(_touched(padded, offset, outputs, strides, steps), weight[offset], groups)
    return y, (padded, weight, x.shape, steps)


@convolution.backward
def _(
    g: Array,
    padded: Array,
    weight: Array,
    shape: Sizes,
    steps: Sizes,
    *,
    strides: Sizes,
    padding: Padding,
    needs: tuple[bool, ...],
    groups: int = 1,
) -> Any:
    outputs = g.shape[1:-1]
    dx = xp(g).zeros(padded.shape, g.dtype) if needs[0] else None
    dw = xp(g).empty(weight.shape, g.dtype) if needs[1] else None
    for offset in _offsets(weight.shape[:-2]):
        if dx is not None:
            _touched(dx, offset, outputs, strides, steps)[...] += _product(g, _turned(weight[offset], groups), groups)
        if dw is not None:
            dw[offset] = _outer(_touched(padded, offset, outputs, strides, steps), g, groups)
    return None if dx is None else _cropped(dx, padding, shape), dw


@op
def transposed_convolution(
    x: Array,
    weight: Array,
    *,
    strides: Sizes,
    padding: Padding,
    dilation: Sizes | None = None,
    groups: int = 1,
) -> Any:
    """y[stride i + dilation o - before] = sum of x[i] W[o]: what `convolution` does to gradients (Zeiler et al. 2010).

    x (B, *grid, C), weight (*window, C / groups, E) -> (B, *outputs, E), outputs = (n - 1) stride + reach - before -
    after with reach = dilation (k - 1) + 1. A negative `after` appends zeros.
    """
    window, steps = weight.shape[:-2], dilation or (1,) * len(strides)
    _check(x, weight.shape[-2] * groups, strides, padding, window, weight.shape[-1], groups)
    sizes = zip(x.shape[1:-1], window, strides, steps, padding)
    whole = tuple((n - 1) * s + d * (k - 1) + 1 + max(-after, 0) for n, k, s, d, (_, after) in sizes)
    y = xp(x).zeros_like(
        x, np.result_type(x.dtype, weight.dtype), order="C", shape=(x.shape[0], *whole, weight.shape[-1])
    )
    for offset in _offsets(window):
        _touched(y, offset, x.shape[1:-1], strides, steps)[...] += _product(x, weight[offset], groups)
    kept = tuple(n - before - max(after, 0) for n, (before, after) in zip(whole, padding))
    return _cropped(y, padding, (x.shape[0], *kept, weight.shape[-1])), (x, weight, steps)


@transposed_convolution.backward
def _(
    g: Array,
    x: Array,
    weight: Array,
    steps: Sizes,
    *,
    strides: Sizes,
    padding: Padding,
    needs: tuple[bool, ...],
    groups: int = 1,
) -> Any:
    whole = _padded(g, tuple((before, max(after, 0)) for before, after in padding))
    dx = xp(g).zeros(x.shape, g.dtype) if needs[0] else None
    dw = xp(g).empty(weight.shape, g.dtype) if needs[1] else None
    for offset in _offsets(weight.shape[:-2]):
        touched = _touched(whole, offset, x.shape[1:-1], strides, steps)
        if dx is not None:
            dx += _product(touched, _turned(weight[offset], groups), groups)
        if dw is not None:
            dw[offset] = _outer(x, touched, groups)
    return dx, dw


@op(floats=True)
def max_pool(x: Array, *, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes | None = None) -> Any:
    """Largest element of each window; padding never wins. Of elements that tie the first, row-major, gets the gradient.

    Also where all of them are -inf, as padding is beside them.

    x (B, *grid, C) -> (B, *outputs, C), outputs = (n + before + after - reach) // stride + 1 with reach =
    dilation (k - 1) + 1.
    """
    best, winner = largest_of_windows(x, window, strides, padding, dilation)
    padded = tuple(n + before + after for n, (before, after) in zip(x.shape[1:-1], padding))
    return best, (winner, (x.shape[0], *padded, x.shape[-1]), x.shape, dilation or (1,) * len(strides))


@max_pool.backward
def _(
    g: Array,
    winner: Array,
    padded: Sizes,
    shape: Sizes,
    steps: Sizes,
    *,
    window: Sizes,
    strides: Sizes,
    padding: Padding,
) -> Any:
    dx = xp(g).zeros(padded, g.dtype)
    for number, offset in enumerate(_offsets(window)):
        won = xp(g).where(winner == number, g, 0)  # selected: 0 times infinity is NaN
        _touched(dx, offset, g.shape[1:-1], strides, steps)[...] += won
    return _cropped(dx, padding, shape)


def largest_of_windows(
    x: Array, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes | None = None
) -> tuple[Array, Array]:
    """(largest element of each window, the row-major number of its offset in the window), both (B, *outputs, C)."""
    _check(x, x.shape[-1], strides, padding, window)
    library = xp(x)
    padded, steps = _padded(x, padding, value=-library.inf), dilation or (1,) * len(strides)
    outputs = _outputs(padded, window, strides, steps)
    best = library.full_like(x, -library.inf, order="C", shape=(x.shape[0], *outputs, x.shape[-1]))
    winner = library.zeros_like(best, library.int32)
    inside = _padded(library.ones((1, *x.shape[1:-1], 1), bool), padding) if padded is not x else None
    empty = library.ones((1, *outputs, 1), bool)  # the windows that have seen nothing but padding
    for number, offset in enumerate(_offsets(window)):
        touched = _touched(padded, offset, outputs, strides, steps)
        better = (touched > best) | library.isnan(touched)
        if inside is not None:
            seen = _touched(inside, offset, outputs, strides, steps)
            better |= empty & seen  # the first one wins, also if it is as low as the padding
            empty &= ~seen
        best = library.where(better, touched, best)
        winner = library.where(better, number, winner)
    return best, winner


def _product(x: Array, weight: Array, groups: int) -> Array:
    """x (..., C) times weight (C / groups, E), group by group: (..., E)."""
    if groups == 1:
        return x @ weight
    rows = x.reshape(-1, groups, weight.shape[0]).swapaxes(0, 1)  # (groups, rows, C / groups)
    parts = rows @ weight.reshape(weight.shape[0], groups, -1).swapaxes(0, 1)  # (groups, rows, E / groups)
    return parts.swapaxes(0, 1).reshape(*x.shape[:-1], weight.shape[1])


def _turned(weight: Array, groups: int) -> Array:
    """The weight (E / groups, C) of the product that goes back from E to C."""
    parts = weight.reshape(weight.shape[0], groups, -1)
    return parts.transpose(2, 1, 0).reshape(-1, groups * weight.shape[0])


def _outer(x: Array, g: Array, groups: int) -> Array:
    """The gradient (C / groups, E) of the weight of x (..., C) -> g (..., E)."""
    if groups == 1:
        return x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])
    left, right = (a.reshape(-1, groups, a.shape[-1] // groups).transpose(1, 0, 2) for a in (x, g))
    return (left.swapaxes(1, 2) @ right).transpose(1, 0, 2).reshape(left.shape[2], g.shape[-1])


def _outputs(padded: Array, window: Sizes, strides: Sizes, dilation: Sizes) -> Sizes:
    """How many windows fit along each axis; `ValueError` for none."""
    sizes = zip(padded.shape[1:-1], window, strides, dilation)
    outputs = tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sizes)
    if min(outputs) < 1:
        raise ValueError(f"window {window} does not fit the padded grid {padded.shape[1:-1]}")
    return outputs


def _offsets(window: Sizes) -> Iterator[Sizes]:
    return itertools.product(*(range(k) for k in window))


def _touched(x: Array, offset: Sizes, outputs: Sizes, strides: Sizes, dilation: Sizes) -> Array:
    """The elements of x (B, *grid, C) that this offset of every window touches: (B, *outputs, C), a view."""
    slices = [slice(o * d, o * d + (n - 1) * s + 1, s) for o, n, s, d in zip(offset, outputs, strides, dilation)]
    return x[(slice(None), *slices)]


def _padded(x: Array, padding: Padding, value: float = 0.0) -> Array:
    if not any(before or after for before, after in padding):
        return x
    return xp(x).pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)


def _cropped(x: Array, padding: Padding, shape: Sizes) -> Array:
    return x[(slice(None), *(slice(before, before + n) for (before, _), n in zip(padding, shape[1:-1])))]


def _check(
    x: Array, channels: int, strides: Sizes, padding: Padding, window: Sizes, outputs: int = 1, groups: int = 1
) -> None:
    axes = len(window)
    if groups < 1 or (groups > 1 and outputs % groups):
        raise ValueError(f"{outputs} output channels cannot be cut into {groups} groups")
    if x.ndim != axes + 2 or x.shape[-1] != channels or len(strides) != axes or len(padding) != axes:
        raise ValueError(
            f"x must be (batch, {axes} grid axes, {channels}) with {axes} strides and paddings, got {x.shape}, "
            f"{len(strides)} strides and {len(padding)} paddings"
        )
