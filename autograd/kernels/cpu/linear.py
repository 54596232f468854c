"""Linear maps divided over the kernels' threads, the bias added by the thread that computed the rows.

BLAS's own threads turn idly after a product (OpenBLAS's for 2^26 ticks of the clock, some 27 ms) and keep the cores
from the kernels that come next. A product divided here wakes none of them.

Memory traffic: that of the products, for which each thread reads the smaller argument whole; the bias costs none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import Array
from ...ops.linear import _rows, linear
from . import rows, threads

LEAST = 1 << 25
"""Products of fewer multiplications are left to BLAS: dividing them takes longer than it saves."""

GRAIN = 16
"""Shares are multiples of so many rows or columns, as many as BLAS computes at once."""


def forward(x: Array, weight: Array, bias: Array | None = None, *, needs: tuple[bool, ...] = ()) -> Any:
    """As `ops.linear.linear`."""
    if weight.ndim != 2 or not _serves(x, weight.shape[1]):
        return NotImplemented
    fitting = x.shape[-1:] == weight.shape[:1] and x.dtype == weight.dtype
    if bias is not None:
        fitting = fitting and bias.shape == weight.shape[1:] and bias.dtype == x.dtype
    if not fitting:
        return NotImplemented
    y = _product(_rows(x), weight, bias).reshape(*x.shape[:-1], weight.shape[1])
    return y, (x if needs[1] else None, weight if needs[0] else None)


def backward(g: Array, x: Array | None, weight: Array | None, needs: tuple[bool, ...]) -> Any:
    """As the backward rule of `ops.linear.linear`."""
    wanted = x if weight is None else weight.T
    if wanted is None or not _serves(g, wanted.shape[-1]):
        return linear.definition.backward(g, x, weight, needs=needs)
    dx = None if weight is None else _product(_rows(g), weight.T).reshape(*g.shape[:-1], len(weight))
    dw = None if x is None else _product(_rows(x).T, _rows(g))
    return dx, dw, g  # the engine sums the bias gradient over the rows


def _product(x: Array, y: Array, bias: Array | None = None) -> Array:
    """x y + bias: (N, D), (D, E) and (E,) or None -> (N, E)."""
    out = np.empty((len(x), y.shape[1]), x.dtype)

    def work(share: tuple[slice, slice]) -> None:
        r, c = share
        part = np.matmul(x[r], y[:, c], out=out[r, c])
        if bias is not None:
            part += bias[c]

    pieces = threads.cut(range(0, max(out.shape), GRAIN), threads.count())
    shares = [slice(piece[0], piece[-1] + GRAIN) for piece in pieces]
    whole, by_rows = slice(None), len(x) >= y.shape[1]
    threads.spread(work, [(share, whole) if by_rows else (whole, share) for share in shares])
    return out


def _serves(x: Array, width: int) -> bool:
    """Whether the product of x with a matrix of this width is large, and there are threads to divide it over."""
    return x.size * width >= LEAST and x.ndim > 1 and x.dtype in rows.FLOATS and threads.count() > 1
