"""GELU in blocks, both forms, forward and backward; residuals as in `ops.activation`, the second of them None.

What the definition keeps beside x is computed again on the way back: an activation less in memory for each MLP. Memory
traffic: forward reads x and writes y, backward reads g and x and writes dx. Arithmetic in the cache is the limit, not
memory: 24 passes for erf, which take 5 ns an element on one core.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import Array
from ...ops.activation import _1_OVER_SQRT_2PI, _SQRT_2_OVER_PI
from . import rows
from .erf import normal

_CUBIC = 0.044715


def erf_forward(x: Array) -> Any:
    """As `ops.activation.gelu_erf`; of the residuals x alone."""
    if not rows.fits(x):
        return NotImplemented
    (xs,), out, made = _lines(x)

    def work(blocks: rows.Blocks) -> None:
        spare = [rows.buffer(xs, blocks) for _ in range(3)]
        for _, a in blocks:
            t, p, phi = (s[: a.stop - a.start] for s in spare)
            normal(xs[a], phi, (t, p))
            np.multiply(xs[a], phi, out=out[a])

    rows.each(work, out)
    return made, (x,), lambda: erf_forward(x)[0]


def erf_backward(g: Array, x: Array) -> Any:
    """As the backward rule of `ops.activation.gelu_erf`."""
    (xs, gs), out, dx = _lines(x, g)

    def work(blocks: rows.Blocks) -> None:
        spare = [rows.buffer(xs, blocks) for _ in range(3)]
        for _, a in blocks:
            e, p, f = (s[: a.stop - a.start] for s in spare)
            x_a = xs[a]
            normal(x_a, f, (e, p))
            np.multiply(x_a, x_a, out=e)
            e *= -0.5
            np.exp(e, out=e)
            e *= _1_OVER_SQRT_2PI
            e *= x_a
            e += f
            np.multiply(e, gs[a], out=out[a])

    rows.each(work, xs)
    return dx


def tanh_forward(x: Array) -> Any:
    """As `ops.activation.gelu_tanh`; of the residuals x alone."""
    if not rows.fits(x):
        return NotImplemented
    (xs,), out, made = _lines(x)

    def work(blocks: rows.Blocks) -> None:
        for _, a in blocks:
            x_a, y_a = xs[a], out[a]
            _tanh(x_a, y_a)
            y_a += 1
            y_a *= x_a
            y_a *= 0.5

    rows.each(work, out)
    return made, (x,), lambda: tanh_forward(x)[0]


def tanh_backward(g: Array, x: Array) -> Any:
    """As the backward rule of `ops.activation.gelu_tanh`."""
    (xs, gs), out, dx = _lines(x, g)

    def work(blocks: rows.Blocks) -> None:
        spare = [rows.buffer(xs, blocks) for _ in range(3)]
        for _, a in blocks:
            slope, s, t_a = (b[: a.stop - a.start] for b in spare)
            x_a = xs[a]
            _tanh(x_a, t_a)
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


def _tanh(x: Array, out: Array) -> None:
    """The tanh of the approximation."""
    np.multiply(x, x, out=out)
    out *= _SQRT_2_OVER_PI * _CUBIC
    out += _SQRT_2_OVER_PI
    out *= x
    np.tanh(out, out=out)


def _lines(*arrays: Array) -> Any:
    """The arrays as lines, one to write the result to, and that in the shape of the first."""
    flat = [rows.line(a) for a in arrays]
    out = np.empty_like(flat[0])
    return flat, out, out.reshape(arrays[0].shape)
