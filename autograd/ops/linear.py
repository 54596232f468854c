"""Matrix products. Leading axes are flattened into rows first, so that each is one two-dimensional product,
and so that a weight's gradient never exists once per batch element."""

from __future__ import annotations

from typing import Any

from ..backend import Array
from ..core import op


@op
def matmul(x: Array, y: Array, *, needs: tuple[bool, ...]) -> Any:
    """Matrix product over the last two axes, broadcasting the leading ones; 1-D arguments as in NumPy.

    x (..., N, D), y (..., D, E) -> (..., N, E)
    """
    return _product(x, y), (x if needs[1] else None, y if needs[0] else None, x.ndim, y.ndim)


@matmul.backward
def _(g: Array, x: Array, y: Array, x_ndim: int, y_ndim: int, needs: tuple[bool, ...]) -> Any:
    if x_ndim == 1:
        g = g[..., None, :] if y_ndim > 1 else g[..., None]
    if y_ndim == 1:
        g = g[..., None]
    dx = dy = None
    if needs[0]:
        dx = _product(g, (y if y_ndim > 1 else y[:, None]).swapaxes(-1, -2))
        dx = dx[..., 0, :] if x_ndim == 1 else dx
    if needs[1]:
        rows = x if x_ndim > 1 else x[None]
        if y_ndim <= 2:
            dy = _rows(rows).T @ _rows(g)
        else:
            dy = rows.swapaxes(-1, -2) @ g
        dy = dy[..., 0] if y_ndim == 1 else dy
    return dx, dy


@op
def linear(x: Array, weight: Array, bias: Array | None = None, *, needs: tuple[bool, ...] = ()) -> Any:
    """y = x W + b.

    x (..., D), weight (D, E), bias (E,) or None -> (..., E)
    """
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"x (..., D) and weight (D, E) do not fit: D is {x.shape[-1:]} and {weight.shape[:1]}")
    y = _product(x, weight)
    if bias is not None:
        if bias.shape != weight.shape[1:]:
            raise ValueError(f"bias must be {weight.shape[1:]}, got {bias.shape}")
        y += bias
    return y, (x if needs[1] else None, weight if needs[0] else None)


@linear.backward
def _(g: Array, x: Array, weight: Array, needs: tuple[bool, ...]) -> Any:
    dx = _product(g, weight.T) if needs[0] else None
    dw = _rows(x).T @ _rows(g) if needs[1] else None
    return dx, dw, g  # the engine sums the bias gradient over the rows


def _rows(x: Array) -> Array:
    """(..., D) as (rows, D)."""
    return x.reshape(-1, x.shape[-1]) if x.size else x.reshape(_count(x.shape[:-1]), x.shape[-1])


def _product(x: Array, y: Array) -> Array:
    if x.ndim > 2 and y.ndim == 2:
        return (_rows(x) @ y).reshape(*x.shape[:-1], y.shape[-1])
    return x @ y


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count
