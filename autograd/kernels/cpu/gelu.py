"""GELU in blocks, both forms, forward and backward; residuals as in `ops.activation`.

Memory traffic: forward reads x and writes y (and the second residual where a gradient is wanted), backward reads g and
two residuals and writes dx. Arithmetic in the cache is the limit, not memory: 24
passes for erf, which take 5 ns an element on one core.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...backend import Array
from ...ops.activation import _1_OVER_SQRT_2PI, _SQRT_2_OVER_PI, gelu_erf, gelu_tanh
from . import rows
from .erf import normal

_CUBIC = 0.044715


def erf_forward(x: Array, *, needs: tuple[bool, ...] = (False,)) -> Any:
    """As `ops.activation.gelu_erf`."""
    if not rows.fits(x):
        return gelu_erf.rules["plain"].forward(x)
    flat, y, phi, (out, half) = _arrays(x, needs)

    def work(blocks: Iterable[tuple[int, slice]]) -> None:
        spare = [rows.buffer(flat) for _ in range(3)]
        for _, a in blocks:
            t, p, own = (s[: a.stop - a.start] for s in spare)
            f = own if half is None else half[a]
            normal(flat[a], f, (t, p))
            np.multiply(flat[a], f, out=out[a])

    rows.each(work, flat)
    return y, (x, phi)


def erf_backward(g: Array, x: Array, phi: Array) -> Any:
    """As the backward rule of `ops.activation.gelu_erf`."""
    if not rows.fits(x):
        return gelu_erf.rules["plain"].pull(g, x, phi)
    (gs, xs, phis), dx, out = _pulled(g, x, phi)

    def work(blocks: Iterable[tuple[int, slice]]) -> None:
        spare = rows.buffer(xs)
        for _, a in blocks:
            e, x_a = spare[: a.stop - a.start], xs[a]
            np.multiply(x_a, x_a, out=e)
            e *= -0.5
            np.exp(e, out=e)
            e *= _1_OVER_SQRT_2PI
            e *= x_a
            e += phis[a]
            np.multiply(e, gs[a], out=out[a])

    rows.each(work, xs)
    return dx


def tanh_forward(x: Array, *, needs: tuple[bool, ...] = (False,)) -> Any:
    """As `ops.activation.gelu_tanh`."""
    if not rows.fits(x):
        return gelu_tanh.rules["plain"].forward(x)
    flat, y, t, (out, tanh) = _arrays(x, needs)

    def work(blocks: Iterable[tuple[int, slice]]) -> None:
        spare = rows.buffer(flat)
        for _, a in blocks:
            x_a, y_a = flat[a], out[a]
            u = tanh[a] if tanh is not None else spare[: a.stop - a.start]
            np.multiply(x_a, x_a, out=u)
            u *= _SQRT_2_OVER_PI * _CUBIC
            u += _SQRT_2_OVER_PI
            u *= x_a
            np.tanh(u, out=u)
            np.add(u, 1, out=y_a)
            y_a *= x_a
            y_a *= 0.5

    rows.each(work, flat)
    return y, (x, t)


def tanh_backward(g: Array, x: Array, t: Array) -> Any:
    """As the backward rule of `ops.activation.gelu_tanh`."""
    if not rows.fits(x):
        return gelu_tanh.rules["plain"].pull(g, x, t)
    (gs, xs, ts), dx, out = _pulled(g, x, t)

    def work(blocks: Iterable[tuple[int, slice]]) -> None:
        spare = [rows.buffer(xs) for _ in range(2)]
        for _, a in blocks:
            slope, s = (b[: a.stop - a.start] for b in spare)
            x_a, t_a = xs[a], ts[a]
            np.multiply(x_a, x_a, out=slope)
            slope *= 3 * _CUBIC * _SQRT_2_OVER_PI
            slope += _SQRT_2_OVER_PI
            slope *= x_a
            np.multiply(t_a, t_a, out=s)
            np.subtract(1, s, out=s)
            slope *= s
            slope += t_a
            slope += 1
            slope *= 0.5
            np.multiply(slope, gs[a], out=out[a])

    rows.each(work, xs)
    return dx


def _arrays(x: Array, needs: tuple[bool, ...]) -> Any:
    """x, its result and, if wanted, its second residual, each also as one line."""
    flat = rows.line(x)
    out = np.empty_like(flat)
    second = np.empty_like(flat) if any(needs) else None
    kept = None if second is None else second.reshape(x.shape)
    return flat, out.reshape(x.shape), kept, (out, second)


def _pulled(g: Array, *residuals: Array) -> Any:
    """The gradient and the residuals as lines, and the result, whole and as a line."""
    flat = [rows.line(a) for a in (g, *residuals)]
    out = np.empty_like(flat[0])
    return flat, out.reshape(g.shape), out
