"""Scaled dot-product attention, with masks whose effect is stated exactly.

Masks are bool and True means "attend". What a query that may attend to nothing gets is an option:

    "zero"      zeros (DeepMind's released Perceiver wipes the result; gradients are zero too)
    "uniform"   the plain average of all values, masked ones included (what implementations get that fill in a large
                negative number: what is filled in is constant in queries and keys, so those get zero gradient)
    "added"     the same average of those that add the dtype's lowest number to the scores: each sum rounds to that
                number, but has the slope of its score, so that queries, keys and bias get the gradients of a softmax
                whose weights are all alike

A key that no query of its batch element and head attends to cannot leak: it is left out before any product, so it may
hold NaN or infinity.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..backend import Array, peak, xp
from ..core import op
from ..sums import total

MaskedRows = Literal["zero", "uniform", "added"]


@op(floats=True)
def attention_weights(
    q: Array,
    k: Array,
    bias: Array | None = None,
    *,
    mask: Array | None = None,
    scale: float | None = None,
    masked_rows: MaskedRows = "zero",
) -> Any:
    """p = softmax over keys of (scale q k^T + bias), 0 where masked (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    q (..., N, d), k (..., M, d), bias and mask broadcastable to (..., N, M) -> (..., N, M); scale defaults to
    1 / sqrt(d).
    """
    p = probabilities(q, k, bias, mask, scale, masked_rows)
    return p, (p, q, k)


@attention_weights.backward
def _(
    g: Array, p: Array, q: Array, k: Array, *, mask: Array | None, scale: float | None, masked_rows: MaskedRows
) -> Any:
    return _score_gradients(p * (g - total(g * p, -1, keepdims=True)), q, k, mask, scale, masked_rows)


@op(floats=True)
def attention(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None = None,
    *,
    mask: Array | None = None,
    scale: float | None = None,
    masked_rows: MaskedRows = "zero",
) -> Any:
    """softmax over keys of (scale q k^T + bias), times v (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    q (..., N, d), k (..., M, d), v (..., M, e), bias and mask broadcastable to (..., N, M) -> (..., N, e).
    Leading axes broadcast.
    """
    p = probabilities(q, k, bias, mask, scale, masked_rows)  # (..., N, M)
    return p @ keep_used(v, mask, masked_rows), (q, k, v, p)


@attention.backward
def _(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    p: Array,
    *,
    mask: Array | None,
    scale: float | None,
    masked_rows: MaskedRows,
) -> Any:
    g = xp(g).where(p.any(-1, keepdims=True), g, xp(g).zeros((), g.dtype))  # a query without any key has a constant
    dp = g @ keep_used(v, mask, masked_rows).swapaxes(-1, -2)
    ds = p * (dp - total(p * dp, -1, keepdims=True))  # exactly 0 where one weight is 1
    dq, dk, dbias = _score_gradients(ds, q, k, mask, scale, masked_rows)
    return dq, dk, p.swapaxes(-1, -2) @ g, dbias


def scores(
    q: Array, k: Array, bias: Array | None, mask: Array | None, scale: float | None, masked_rows: MaskedRows
) -> Array:
    """scale q k^T + bias, -inf where masked; a row without any key is 0, unless `masked_rows` is "zero"."""
    library = xp(q)
    k = keep_used(k, mask, "zero")
    s = q @ k.swapaxes(-1, -2)
    s *= scale_factor(q, scale)
    if bias is not None:
        s = s + bias
    if mask is not None:
        s = library.where(mask, s, library.asarray(-library.inf, s.dtype))
        if masked_rows != "zero":
            s = library.where(mask.any(-1, keepdims=True), s, library.zeros((), s.dtype))
    return s


def probabilities(
    q: Array, k: Array, bias: Array | None, mask: Array | None, scale: float | None, masked_rows: MaskedRows
) -> Array:
    """The attention weights (..., N, M); 0 in rows that have no key."""
    library = xp(q)
    check_shapes(q, k, bias, mask)
    s = scores(q, k, bias, mask, scale, masked_rows)
    top = peak(s, -1)
    p = library.exp(s - library.where(top == -library.inf, library.zeros((), s.dtype), top))
    sums = total(p, -1, keepdims=True)
    p /= library.where(sums == 0, library.ones((), s.dtype), sums)
    return p


def keep_used(x: Array, mask: Array | None, masked_rows: MaskedRows) -> Array:
    """Keys or values (..., M, d) with zeros in the slots that no query uses."""
    if mask is None:
        return x
    if masked_rows != "zero":
        mask = mask | ~mask.any(-1, keepdims=True)
    used = mask.any(-2)[..., None] if mask.ndim > 1 else mask[:, None]  # (..., M, 1)
    return xp(x).where(used, x, xp(x).zeros((), x.dtype))


def _score_gradients(
    ds: Array, q: Array, k: Array, mask: Array | None, scale: float | None, masked_rows: MaskedRows
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and bias from those of the scores."""
    library = xp(q)
    if mask is not None:  # nothing comes back to a score that was replaced, not even 0 times an infinity
        ds = library.where(sloped(mask, masked_rows), ds, library.zeros((), ds.dtype))
    scaled = ds * scale_factor(q, scale)
    return scaled @ keep_used(k, mask, slopes(masked_rows)), scaled.swapaxes(-1, -2) @ q, ds


def sloped(mask: Array, masked_rows: MaskedRows) -> Array:
    """The scores that have a slope: those of the mask, and all of "added" rows without any key."""
    return mask | ~mask.any(-1, keepdims=True) if masked_rows == "added" else mask


def slopes(masked_rows: MaskedRows) -> MaskedRows:
    """By which rule keys are used in the gradients of queries: only "added" rows have any beside their open keys."""
    return "added" if masked_rows == "added" else "zero"


def scale_factor(q: Array, scale: float | None) -> float:
    """The factor on q k^T: 1 / sqrt(d) unless given."""
    return 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale


def check_shapes(q: Array, k: Array, bias: Array | None, mask: Array | None) -> None:
    """Raise unless bias and mask broadcast to the scores and the mask is bool."""
    if bias is None and mask is None:
        return
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], () if bias is None else bias.shape[:-2])
    shape = (*lead, q.shape[-2], k.shape[-2])
    for what, x in (("bias", bias), ("mask", mask)):
        if x is None:
            continue
        if not 0 < x.ndim <= len(shape) or any(m not in (1, n) for m, n in zip(x.shape[::-1], shape[::-1])):
            raise ValueError(f"{what} {x.shape} does not broadcast to (..., queries, keys) = {shape}")
    if mask is not None and mask.dtype != bool:
        raise TypeError(f"mask must be bool (True = attend), got {mask.dtype}")


__all__ = [
    "MaskedRows",
    "attention",
    "attention_weights",
    "check_shapes",
    "keep_used",
    "probabilities",
    "scores",
    "sloped",
    "slopes",
]
