"""Linear maps whose product is shared by threads, the bias added while each thread's part is in its cache.

A product of 512 x 1024 by 1024 x 1024 runs at the machine's matrix rate but for the packing of its operands, which
each thread does for itself: the longer side of the result is cut, so that the shorter operand is packed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backend import Array
from ...ops.linear import linear
from . import rows, threads

LEAST = 1 << 22
"""Multiplications below which a product is left to NumPy."""


def forward(x: Array, weight: Array, bias: Array | None = None, *, needs: tuple[bool, ...] = ()) -> Any:
    """As `ops.linear.linear`."""
    if not _large(x, weight) or (bias is not None and bias.shape != weight.shape[1:]):
        return linear.rules["plain"].forward(x, weight, bias, needs=needs)
    y = product(rows.flat(x), weight, bias).reshape(*x.shape[:-1], weight.shape[1])
    return y, (x if needs and needs[1] else None, weight if needs and needs[0] else None)


def backward(g: Array, x: Array | None, weight: Array | None, needs: tuple[bool, ...]) -> Any:
    """As the backward rule of `ops.linear.linear`."""
    width = x.shape[-1] if x is not None else 0 if weight is None else len(weight)
    if g.size * width < LEAST:
        return linear.rules["plain"].pull(g, x, weight, needs=needs)
    gs = rows.flat(g)
    dx = product(gs, weight.T).reshape(*g.shape[:-1], len(weight)) if needs[0] and weight is not None else None
    dw = product(rows.flat(x).T, gs) if needs[1] and x is not None else None
    return dx, dw, g  # the engine sums the bias gradient over the rows


def product(x: Array, y: Array, bias: Array | None = None) -> Array:
    """x (N, K), y (K, M) -> x y + bias (N, M)."""
    out = np.empty((x.shape[0], y.shape[1]), np.result_type(x, y))
    parts = threads.count() if out.size * x.shape[1] >= LEAST else 1

    def work(part: tuple[slice, slice]) -> None:
        a, b = part
        np.matmul(x[a], y[:, b], out=out[a, b])
        if bias is not None:
            out[a, b] += bias[b]

    threads.spread(work, _parts(out.shape, parts))
    return out


def _parts(shape: tuple[int, int], parts: int) -> Sequence[tuple[slice, slice]]:
    """Rows and columns of each thread's part: whole vectors of 16 numbers of the longer side."""
    whole = slice(None)
    along = 0 if shape[0] > shape[1] else 1
    starts = range(0, shape[along], max(16, -(-shape[along] // parts) + 15 & -16))
    cuts = [slice(start, start + starts.step) for start in starts]
    return [(cut, whole) if along == 0 else (whole, cut) for cut in cuts] or [(whole, whole)]


def _large(x: Array, weight: Array) -> bool:
    return (
        weight.ndim == 2
        and x.ndim > 0
        and x.shape[-1] == len(weight)
        and x.dtype == weight.dtype
        and x.dtype in rows.FLOATS
        and x.size * weight.shape[1] >= LEAST
    )
