"""Softmax, log-softmax, layer and root-mean-square normalisation."""

from __future__ import annotations

from typing import Any

from ..backend import Array, peak, xp
from ..core import op
from ..sums import average, total


@op(floats=True)
def softmax(x: Array, *, axis: int = -1) -> Any:
    """exp(x) / sum exp(x) along `axis`, without overflow. -inf gives exactly 0; all -inf gives NaN."""
    y = xp(x).exp(x - peak(x, axis))
    y /= total(y, axis, keepdims=True)
    return y, (y,)


@softmax.backward
def _(g: Array, y: Array, axis: int) -> Any:
    return y * (g - total(g * y, axis, keepdims=True))


@op(floats=True)
def log_softmax(x: Array, *, axis: int = -1) -> Any:
    """x - logsumexp(x) along `axis`, without overflow."""
    shifted = x - peak(x, axis)
    sums = total(xp(x).exp(shifted), axis, keepdims=True)
    y = shifted - xp(x).log(xp(x).maximum(sums, 1))  # the largest adds 1, so that only an empty axis has less
    return y, (y,)


@log_softmax.backward
def _(g: Array, y: Array, axis: int) -> Any:
    return g - xp(y).exp(y) * total(g, axis, keepdims=True)


@op(floats=True)
def layer_norm(x: Array, scale: Array, offset: Array, *, eps: float = 1e-5) -> Any:
    """Normalise the last axis, then scale and shift (Ba et al. 2016, arXiv 1607.06450, eq. 3 and 4).

        y = (x - mean x) / sqrt(var x + eps) * scale + offset          var is the biased one

    x (..., D), scale (D,), offset (D,) -> (..., D), in the dtype of x.
    """
    centred = x - average(x, -1, keepdims=True)
    inverse_std = 1 / xp(x).sqrt(average(centred * centred, -1, keepdims=True) + eps)  # (..., 1)
    unit = centred * inverse_std  # (..., D)
    return unit * scale + offset, (unit, inverse_std, scale)


@layer_norm.backward
def _(g: Array, unit: Array, inverse_std: Array, scale: Array, needs: tuple[bool, ...]) -> Any:
    dx = None
    if needs[0]:
        g_unit = g * scale
        projected = average(g_unit * unit, -1, keepdims=True)
        dx = inverse_std * (g_unit - average(g_unit, -1, keepdims=True) - unit * projected)
    return dx, g * unit if needs[1] else None, g  # the engine sums over rows


@op(floats=True)
def rms_norm(x: Array, scale: Array, *, eps: float = 1e-6) -> Any:
    """Divide the last axis by its root mean square, then scale (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4).

        y = x / sqrt(mean x^2 + eps) * scale

    x (..., D), scale (D,) -> (..., D), in the dtype of x.
    """
    inverse = 1 / xp(x).sqrt(average(x * x, -1, keepdims=True) + eps)  # (..., 1)
    unit = x * inverse  # (..., D)
    return unit * scale, (unit, inverse, scale)


@rms_norm.backward
def _(g: Array, unit: Array, inverse: Array, scale: Array, needs: tuple[bool, ...]) -> Any:
    dx = None
    if needs[0]:
        g_unit = g * scale
        dx = inverse * (g_unit - unit * average(g_unit * unit, -1, keepdims=True))
    return dx, g * unit if needs[1] else None  # the engine sums over rows
