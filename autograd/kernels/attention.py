"""Attention in tiles of keys and queries: memory does not grow with queries x keys, forward or backward.

Online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867, algorithm 3; Dao et al. 2022, arXiv 2205.14135,
algorithms 1 and 4): each query keeps a running maximum and a running sum over tiles of keys; the way back computes
each tile's weights again from the log of the row's sum. Small problems are left to the definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend import Array, xp
from ..ops.attention import (
    MaskedRows,
    check_shapes,
    keep_used,
    scale_factor,
    scores,
    sloped,
    slopes,
)

TILE = {"numpy": (512, 2048), "cupy": (4096, 16384)}
"""Queries and keys of one tile: 4 MiB of float32 scores a head fit the caches of a CPU core; a GPU wants more."""


def forward(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None = None,
    *,
    mask: Array | None = None,
    scale: float | None = None,
    masked_rows: MaskedRows = "zero",
) -> Any:
    """As `ops.attention.attention`."""
    library = xp(q)
    rows, columns = TILE[library.__name__]
    n, m = q.shape[-2], k.shape[-2]
    if n <= rows and m <= columns:
        return NotImplemented
    check_shapes(q, k, bias, mask)
    v_used = keep_used(v, mask, masked_rows)
    lead = np.broadcast_shapes(
        q.shape[:-2], k.shape[:-2], v.shape[:-2], *(x.shape[:-2] for x in (bias, mask) if x is not None)
    )
    out = library.zeros((*lead, n, v.shape[-1]), q.dtype)
    log_sum = library.empty((*lead, n, 1), q.dtype)
    for a in _ranges(n, rows):
        top = library.full((*lead, a.stop - a.start, 1), -library.inf, q.dtype)
        total = library.zeros_like(top)
        piece = out[..., a, :]
        for b in _ranges(m, columns):
            s = _tile(q, k, bias, mask, scale, masked_rows, a, b)
            new_top = library.maximum(top, s.max(-1, keepdims=True))
            safe = library.where(new_top == -library.inf, library.zeros((), q.dtype), new_top)
            p = library.exp(s - safe)
            shrink = library.exp(top - safe)
            total = total * shrink + p.sum(-1, keepdims=True)
            piece *= shrink
            piece += p @ v_used[..., b, :]
            top = new_top
        empty = total == 0
        piece /= library.where(empty, 1, total)
        finite = library.where(empty, 0, top) + library.log(library.where(empty, 1, total))
        log_sum[..., a, :] = library.where(empty, library.asarray(library.inf, q.dtype), finite)
    return out, (q, k, v, bias, out, log_sum)


def backward(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    out: Array,
    log_sum: Array,
    *,
    mask: Array | None,
    scale: float | None,
    masked_rows: MaskedRows,
    needs: tuple[bool, ...],
) -> Any:
    """As the backward rule of `ops.attention.attention`."""
    library = xp(q)
    rows, columns = TILE[library.__name__]
    n, m = q.shape[-2], k.shape[-2]
    g = without_empty_rows(g, log_sum, bias, mask)
    lead = g.shape[:-2]
    v_used, k_used = keep_used(v, mask, masked_rows), keep_used(k, mask, slopes(masked_rows))
    factor, having = scale_factor(q, scale), None if mask is None else sloped(mask, masked_rows)
    dq, dk, dv = (library.zeros((*lead, *x.shape[-2:]), q.dtype) for x in (q, k, v))
    dbias = library.zeros((*lead, n, m), q.dtype) if len(needs) > 3 and needs[3] else None
    for a in _ranges(n, rows):
        g_a, q_a = g[..., a, :], q[..., a, :]
        inner = (g_a * out[..., a, :]).sum(-1, keepdims=True)
        for b in _ranges(m, columns):
            p = library.exp(_tile(q, k, bias, mask, scale, masked_rows, a, b) - log_sum[..., a, :])
            ds = p * (g_a @ v_used[..., b, :].swapaxes(-1, -2) - inner)
            dv[..., b, :] += p.swapaxes(-1, -2) @ g_a
            if having is not None:
                ds = library.where(_cut(having, a, b), ds, library.zeros((), ds.dtype))
            if dbias is not None:
                dbias[..., a, b] = ds
            ds = ds * factor
            dq[..., a, :] += ds @ k_used[..., b, :]
            dk[..., b, :] += ds.swapaxes(-1, -2) @ q_a
    return dq, dk, dv, dbias


def without_empty_rows(g: Array, log_sum: Array, bias: Array | None, mask: Array | None) -> Array:
    """The gradient of the output, 0 for queries without any key, whose output is a constant."""
    if bias is None and mask is None:
        return g
    return xp(g).where(log_sum == xp(g).inf, xp(g).zeros((), g.dtype), g)


def _tile(
    q: Array,
    k: Array,
    bias: Array | None,
    mask: Array | None,
    scale: float | None,
    masked_rows: MaskedRows,
    a: slice,
    b: slice,
) -> Array:
    """Scores of queries `a` and keys `b`; whether a row may attend to anything is read off the whole mask."""
    library = xp(q)
    cut = None if mask is None else _cut(mask, a, b)
    s = scores(q[..., a, :], k[..., b, :], None if bias is None else _cut(bias, a, b), cut, scale, "zero")
    if mask is not None and masked_rows != "zero":
        some = _cut(mask.any(-1, keepdims=True), a, b)
        s = library.where(some, s, library.zeros((), s.dtype))
    return s


def _cut(x: Array, a: slice, b: slice) -> Array:
    """Queries `a` and keys `b` of an array that broadcasts to (..., queries, keys)."""
    if x.ndim > 1 and x.shape[-2] != 1:
        x = x[..., a, :]
    return x[..., b] if x.shape[-1] != 1 else x


def _ranges(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
