"""Linear maps divided over the kernels' threads, the bias added by the thread that computed the rows.

Each product is cut along its longer side, into as many parts as there are threads; on the way back there are two
products of one size, which divide the threads between them. Each part is one product of BLAS's on one thread, so that
the sums hang on shapes and the number of threads alone, not on what else the machine does. The gradient of a bias is
summed by the thread that has ended its part first.

Memory traffic: that of the products, for which each thread reads the smaller argument whole; the bias costs none.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ...backend import Array
from ...ops.linear import _rows, linear
from ...sums import total
from . import rows, threads

LEAST = 1 << 22
"""Products of fewer multiplications stay in one piece: to wake a thread takes as long."""

SMALL = 1 << 18
"""Products of fewer multiplications are left to the definition: BLAS computes them on one thread anyway."""

GRAIN = 16
"""Parts are multiples of so many rows or columns, as many as BLAS computes at once."""

EARLY = 1 << 19
"""Multiplications that the calling thread does while the others are being woken: its part is as much longer."""

Piece = tuple[Array, Array | None, Array, Array | None]
"""x, y, the result, a bias; without y the sum of x over all rows, as the engine has it."""


def forward(x: Array, weight: Array, bias: Array | None = None, *, needs: tuple[bool, ...] = ()) -> Any:
    """As `ops.linear.linear`."""
    if weight.ndim != 2 or not _serves(x, weight.shape[1]):
        return NotImplemented
    fitting = x.shape[-1:] == weight.shape[:1] and x.dtype == weight.dtype
    if bias is not None:
        fitting = fitting and bias.shape == weight.shape[1:] and bias.dtype == x.dtype
    if not fitting:
        return NotImplemented
    size = x.size * weight.shape[1]
    y, pieces = _cut(_rows(x), weight, threads.count() if size >= LEAST else 1, bias)
    threads.spread(_product, pieces, size)
    return y.reshape(*x.shape[:-1], weight.shape[1]), (x if needs[1] else None, weight if needs[0] else None)


def backward(g: Array, x: Array | None, weight: Array | None, needs: tuple[bool, ...]) -> Any:
    """As the backward rule of `ops.linear.linear`."""
    wanted = x if weight is None else weight.T
    if wanted is None or not _serves(g, wanted.shape[-1]):
        return linear.definition.backward(g, x, weight, needs=needs)
    both = x is not None and weight is not None
    size = g.size * wanted.shape[-1] * (1 + both)
    number = threads.count() if size >= LEAST else 1
    parts = number // 2 if both and number % 2 == 0 else number
    dx = dw = None
    db: Array = g
    pieces: list[Piece] = []
    if weight is not None:
        dx, pieces = _cut(_rows(g), weight.T, parts)
        dx = dx.reshape(*g.shape[:-1], len(weight))
    if x is not None:
        dw, more = _cut(_rows(x).T, _rows(g), parts)
        pieces = pieces + more
    if len(needs) > 2 and needs[2]:
        db = np.empty(g.shape[-1], g.dtype)
        pieces = [*pieces, (g, None, db, None)]
    threads.spread(_product, pieces, size)
    return dx, dw, db


def _cut(x: Array, y: Array, parts: int, bias: Array | None = None) -> tuple[Array, list[Piece]]:
    """Room for x y + bias, (N, D), (D, E) and (E,) or None -> (N, E), and the parts of it."""
    out = np.empty((len(x), y.shape[1]), x.dtype)
    by_rows = len(x) >= y.shape[1]
    length = max(out.shape)
    early = EARLY * length // max(1, out.size * x.shape[1]) if parts > 1 else 0
    pieces: list[Piece] = []
    for span in _spans(length, parts, early):
        if by_rows:
            pieces.append((x[span], y, out[span], bias))
        else:
            pieces.append((x, y[:, span], out[:, span], None if bias is None else bias[span]))
    return out, pieces


def _spans(length: int, parts: int, early: int) -> list[slice]:
    """So many parts at most of about equal length, the first of them longer by `early`; in grains."""
    step = max(1, -(-(length - early) // parts))
    ends = [0, *(round((early + i * step) / GRAIN) * GRAIN for i in range(1, parts)), length]
    return [slice(a, min(b, length)) for a, b in pairwise(ends) if a < min(b, length)]


def _product(piece: Piece) -> None:
    x, y, out, bias = piece
    if y is None:
        out[...] = total(x, tuple(range(x.ndim - 1)))
        return
    np.matmul(x, y, out)
    if bias is not None:
        out += bias


def _serves(x: Array, width: int) -> bool:
    """Whether the product of x with a matrix of this width is worth dividing, or to be kept from BLAS's own threads."""
    least = LEAST if threads.held() else SMALL
    return x.size * width >= least and x.ndim > 1 and x.dtype in rows.FLOATS and threads.count() > 1
