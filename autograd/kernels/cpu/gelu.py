"""GELU in blocks, both forms, forward and backward: x times a share of it.

Shares of small arrays are kept for the way back, those of large ones are computed again: an activation less in memory
for each MLP. Memory traffic: forward reads x and writes y, backward reads g and x and writes dx. Arithmetic in the
cache is the limit, not memory: 24 passes for erf, which take 5 ns an element on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...backend import Array
from ...ops.activation import _1_OVER_SQRT_2PI, _SQRT_2_OVER_PI
from . import rows
from .erf import normal

_CUBIC = 0.044715


def erf_forward(x: Array) -> Any:
    """As `ops.activation.gelu_erf`."""
    return _forward(x, erf_forward, lambda x, out, spare: normal(x, out, (spare[0], spare[1])))


def erf_backward(g: Array, x: Array, share: Array | None = None) -> Any:
    """As the backward rule of `ops.activation.gelu_erf`."""
    (xs, gs), out, dx = _lines(x, g)
    shares = None if share is None else rows.line(share)

    def work(blocks: rows.Blocks) -> None:
        spare = [rows.buffer(xs, blocks) for _ in range(1 if shares is not None else 3)]
        for _, a in blocks:
            e, *others = (s[: a.stop - a.start] for s in spare)
            x_a = xs[a]
            if shares is None:
                f = others[1]
                normal(x_a, f, (e, others[0]))
            else:
                f = shares[a]
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
    """As `ops.activation.gelu_tanh`."""
    return _forward(x, tanh_forward, lambda x, out, spare: _share(x, out))


def tanh_backward(g: Array, x: Array, share: Array | None = None) -> Any:
    """As the backward rule of `ops.activation.gelu_tanh`.

    dx = g s (1 + x (1 - s) 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2))          s, the share, is (1 + tanh) / 2
    """
    (xs, gs), out, dx = _lines(x, g)
    shares = None if share is None else rows.line(share)

    def work(blocks: rows.Blocks) -> None:
        spare = [rows.buffer(xs, blocks) for _ in range(2)]
        for _, a in blocks:
            slope, s = (b[: a.stop - a.start] for b in spare)
            x_a, f = xs[a], out[a] if shares is None else shares[a]
            if shares is None:
                _share(x_a, f)
            np.multiply(x_a, x_a, out=slope)
            slope *= 6 * _CUBIC * _SQRT_2_OVER_PI
            slope += 2 * _SQRT_2_OVER_PI
            slope *= x_a
            np.subtract(1, f, out=s)
            slope *= s
            slope += 1
            slope *= f
            np.multiply(slope, gs[a], out=out[a])

    rows.each(work, xs)
    return dx


def _forward(x: Array, again: Callable[[Array], Any], share: Callable[[Array, Array, list[Array]], None]) -> Any:
    """x times its share, of which there is a function `(x, out, buffers)`."""
    if not rows.fits(x):
        return NotImplemented
    (xs,), out, made = _lines(x)
    shares = np.empty_like(xs) if x.size <= rows.KEPT else None

    def work(blocks: rows.Blocks) -> None:
        spare = [rows.buffer(xs, blocks) for _ in range(3)]
        for _, a in blocks:
            room = [s[: a.stop - a.start] for s in spare]
            f = room[2] if shares is None else shares[a]
            share(xs[a], f, room)
            np.multiply(xs[a], f, out=out[a])

    rows.each(work, out)
    if shares is not None:
        return made, (x, shares.reshape(x.shape))
    return made, (x,), lambda: again(x)[0]


def _share(x: Array, out: Array) -> None:
    """(1 + tanh) / 2 of the approximation."""
    np.multiply(x, x, out=out)
    out *= _SQRT_2_OVER_PI * _CUBIC
    out += _SQRT_2_OVER_PI
    out *= x
    np.tanh(out, out=out)
    out += 1
    out *= 0.5


def _lines(*arrays: Array) -> Any:
    """The arrays as lines, one to write the result to, and that in the shape of the first."""
    flat = [rows.line(a) for a in arrays]
    out = np.empty_like(flat[0])
    return flat, out, out.reshape(arrays[0].shape)
