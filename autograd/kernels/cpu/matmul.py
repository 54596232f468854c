"""Matrix products divided over the kernels' threads: those with one matrix as `linear`, those of many over the many.

As there, each part is one product of BLAS's on one thread. Memory traffic: that of the products.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...backend import Array
from ...ops.linear import matmul
from . import linear, rows, threads


def forward(x: Array, y: Array, *, needs: tuple[bool, ...]) -> Any:
    """As `ops.linear.matmul`."""
    if min(x.ndim, y.ndim) < 2 or x.shape[-1] != y.shape[-2] or x.dtype != y.dtype or x.dtype not in rows.FLOATS:
        return NotImplemented
    kept = x if needs[1] else None, y if needs[0] else None, x.ndim, y.ndim
    if y.ndim == 2:
        made = linear.forward(x, y, needs=(False, False))
        return NotImplemented if made is NotImplemented else (made[0], kept)
    product = _many(x, y)
    return NotImplemented if product is None else (product, kept)


def backward(g: Array, x: Array | None, y: Array | None, x_ndim: int, y_ndim: int, needs: tuple[bool, ...]) -> Any:
    """As the backward rule of `ops.linear.matmul`."""
    if y_ndim == 2:
        return linear.backward(g, x, y, (*needs, False))[:2]
    dx = None if y is None else _many(g, y.swapaxes(-1, -2))
    dy = None if x is None else _many(x.swapaxes(-1, -2), g)
    left = needs[0] and dx is None, needs[1] and dy is None  # small ones
    if any(left):
        made = matmul.definition.backward(g, x, y, x_ndim, y_ndim, needs=left)
        dx, dy = (given if given is not None else own for given, own in zip(made, (dx, dy)))
    return dx, dy


def _many(x: Array, y: Array) -> Array | None:
    """(..., N, D) times (..., D, E), divided along the longest leading axis; None where it is small."""
    lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    shape = (*lead, x.shape[-2], y.shape[-1])
    size = math.prod(shape) * x.shape[-1]
    if size < (linear.LEAST if threads.held() else linear.SMALL) or threads.count() < 2:
        return None
    out = np.empty(shape, x.dtype)
    axis = max(range(len(lead)), key=lead.__getitem__)
    whole = [np.broadcast_to(a, (*lead, *a.shape[-2:])) for a in (x, y)] + [out]
    parts = threads.count() if size >= linear.LEAST else 1
    spans = [slice(p[0], p[-1] + 1) for p in threads.cut(range(lead[axis]), parts)]
    threads.spread(_product, [tuple(a[(slice(None),) * axis + (span,)] for a in whole) for span in spans], size)
    return out


def _product(piece: tuple[Array, ...]) -> None:
    np.matmul(*piece)
