"""Attention of many heads with a few queries and keys each: the definition on a block of heads at once, in place.

The definition's calls each make an array of all scores. Here exponentials and weights take the place of the scores,
the largest of which are only looked for where they could overflow, and keys are turned before the product: BLAS
multiplies matrices so small in half the time where both are as they lie. Weights are kept for the way back, as the
definition keeps them.

Memory traffic: q, k, v and the result, and the weights once each way. The products are the limit: a call of BLAS takes
0.2 us for each head, however small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...backend import Array
from ...ops.attention import MaskedRows, check_shapes
from . import attention, rows, threads
from .attention import STEADY, Index, Problem, _like

FEW = 1 << 12
"""Scores of a small head. Larger ones are taken whole only where the tiles do not serve."""

LEAST, MOST = 1 << 10, 1 << 22
"""Scores of all heads: from as many as are worth the calls to as many as may be kept."""

BLOCK = 1 << 16
"""Scores of a block: 256 KiB of float32 stay in a second-level cache beside the queries, keys and values."""

ALL = slice(None)


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
    if not _serves(q, k, v):
        return NotImplemented
    check_shapes(q, k, bias, mask)
    given = Problem.of(q, k, v, bias, mask, scale, masked_rows)
    out = _like(q, (*given.lead, given.n, v.shape[-1]))
    weights = np.empty((*given.lead, given.n, given.m), q.dtype)
    free = bias is None and mask is None
    shut = None if bias is not None or mask is None else np.where(mask, 0, -np.inf).astype(q.dtype)
    shut = None if shut is None else np.broadcast_to(shut, weights.shape)
    empty = None if free else np.empty((*given.lead, given.n, 1), bool)

    def work(share: Sequence[Index]) -> None:
        for i in share:
            p = weights[i]
            np.matmul(given.q[i], _turned(given.k[i], given.factor), out=p)
            steady = bias is None and p.min() >= -STEADY and p.max() <= STEADY
            if steady and shut is not None and given.none is None:
                p += shut[i]  # in a fifth of the time that filling in takes, and the same of finite numbers
            else:
                given.masked(p, i, ALL, ALL)
            if not steady:
                top = p.max(-1, keepdims=True)
                p -= np.where(top == -np.inf, 0, top)
            np.exp(p, out=p)
            total = rows.sums(p.reshape(-1, given.m)).reshape(*p.shape[:-1], 1)
            if empty is not None:
                total[np.equal(total, 0, out=empty[i])] = 1
            p /= total
            np.matmul(p, given.v[i], out=out[i])

    _each(work, given)
    return out, (q, k, v, bias, weights, None if empty is None or not empty.any() else empty)


def backward(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    weights: Array,
    empty: Array | None,
    *,
    mask: Array | None,
    scale: float | None,
    masked_rows: MaskedRows,
    needs: tuple[bool, ...],
) -> Any:
    """As the backward rule of `ops.attention.attention`."""
    given = Problem.of(q, k, v, bias, mask, scale, masked_rows)
    if empty is not None:  # a query without any key has a constant
        g = np.where(empty, np.zeros((), g.dtype), g)
    dq, dk, dv = (_like(x, (*given.lead, *x.shape[-2:])) for x in (q, k, v))
    dbias = np.empty_like(weights) if len(needs) > 3 and needs[3] else None

    def work(share: Sequence[Index]) -> None:
        for i in share:
            g_i, p = g[i], weights[i]
            np.matmul(p.swapaxes(-1, -2), g_i, out=dv[i])
            ds = np.matmul(g_i, _turned(given.v[i]))
            inner = np.vecdot(p, ds)[..., None]
            ds -= inner
            ds *= p  # exactly 0 where one weight is 1, or where it is 0 and all is finite
            if given.closed is not None and (given.none is not None or not np.isfinite(inner).all()):
                np.copyto(ds, 0, where=given.flat(i, ALL, ALL))
            if dbias is not None:
                dbias[i] = ds
            np.matmul(ds, given.k[i], out=dq[i])
            np.matmul(ds.swapaxes(-1, -2), given.q[i] * given.factor, out=dk[i])

    _each(work, given)
    dq *= given.factor
    return dq, dk, dv, dbias


def scores_held(q: Array, k: Array, v: Array) -> int:
    """As `attention.scores_held`, which is for larger heads: all scores, which are kept."""
    half = q.dtype == k.dtype == v.dtype == np.float16  # which comes as float32
    return _scores(q, k, v) if (half and _few(q, k, v)) or _serves(q, k, v) else attention.scores_held(q, k, v)


def _serves(q: Array, k: Array, v: Array) -> bool:
    """Whether the heads are small, and of one floating-point type."""
    fitting = q.dtype == k.dtype == v.dtype and q.dtype in rows.FLOATS and min(q.ndim, k.ndim, v.ndim) > 1
    return fitting and _few(q, k, v)


def _few(q: Array, k: Array, v: Array) -> bool:
    return LEAST <= _scores(q, k, v) <= (MOST if q.shape[-2] * k.shape[-2] <= FEW else attention.SMALL)


def _scores(q: Array, k: Array, v: Array) -> int:
    """The number of all scores."""
    return int(q.shape[-2] * k.shape[-2] * max(math.prod(x.shape[:-2]) for x in (q, k, v)))


def _turned(x: Array, factor: float = 1.0) -> Array:
    """factor x^T: (..., M, d) -> (..., d, M), as it lies in memory."""
    turned = np.empty((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype)
    return np.multiply(x.swapaxes(-1, -2), factor, out=turned)


def _each(work: Callable[[Sequence[Index]], None], given: Problem) -> None:
    """`work` on every block of heads: pieces of the longest leading axis."""
    if not given.lead:
        return work([()])
    scores = math.prod(given.lead) * given.n * given.m
    parts = 1 if scores <= rows.ALONE else threads.count()
    axis = given.lead.index(max(given.lead))
    blocks = parts * -(-scores // (parts * BLOCK))
    step = -(-given.lead[axis] // blocks)
    indices = [(*[ALL] * axis, slice(i, i + step)) for i in range(0, given.lead[axis], step)]
    threads.spread(work, threads.cut(indices, parts))
