"""GELU in blocks, both forms, forward and backward: x times a share of it.

Shares of small arrays are kept for the way back. Those of large ones are computed again: an activation less in memory
for each MLP. Where the output is made again, too, for the map after it, its slope is made beside it, from the same
exponentials, and waits for the backward rule, which comes next.

Memory traffic: forward reads x and writes y; the way back reads x and writes y and the slope, then reads g and writes
dx in the slope's place. Arithmetic in the cache is the limit, not memory: 24 passes for erf, which take 5 ns an element
on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ...ops.activation import _1_OVER_SQRT_2PI, _SQRT_2_OVER_PI
from . import rows
from .erf import normal

_CUBIC = 0.044715

Room = tuple[Array, Array]
"""Two buffers."""


class Form(NamedTuple):
    """One of the two: `share(x, out, room)`, and `slope(x, share, room, fresh)`, into the first of the room.

    `fresh`: the room is as `share` left it.
    """

    share: Callable[[Array, Array, Room], None]
    slope: Callable[[Array, Array, Room, bool], None]


class Slope:
    """That of the whole array, once it has been made with the output."""

    made: Array | None = None


def erf_forward(x: Array) -> Any:
    """As `ops.activation.gelu_erf`."""
    return _forward(x, ERF)


def erf_backward(g: Array, x: Array, share: Array | None = None, slope: Slope | None = None) -> Any:
    """As the backward rule of `ops.activation.gelu_erf`."""
    return _backward(g, x, share, slope, ERF)


def tanh_forward(x: Array) -> Any:
    """As `ops.activation.gelu_tanh`."""
    return _forward(x, TANH)


def tanh_backward(g: Array, x: Array, share: Array | None = None, slope: Slope | None = None) -> Any:
    """As the backward rule of `ops.activation.gelu_tanh`."""
    return _backward(g, x, share, slope, TANH)


def _erf_slope(x: Array, share: Array, room: Room, fresh: bool) -> None:
    """phi + x exp(-x^2 / 2) / sqrt(2 pi)."""
    e = room[0]
    if not fresh:
        np.multiply(x, x, out=e)
        e *= -0.5
        np.exp(e, out=e)
    e *= _1_OVER_SQRT_2PI
    e *= x
    e += share


def _tanh_share(x: Array, out: Array, room: Room) -> None:
    """(1 + tanh) / 2 of the approximation."""
    np.multiply(x, x, out=out)
    out *= _SQRT_2_OVER_PI * _CUBIC
    out += _SQRT_2_OVER_PI
    out *= x
    np.tanh(out, out=out)
    out += 1
    out *= 0.5


def _tanh_slope(x: Array, share: Array, room: Room, fresh: bool) -> None:
    """s (1 + x (1 - s) 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2))          s, the share, is (1 + tanh) / 2."""
    slope, rest = room
    np.multiply(x, x, out=slope)
    slope *= 6 * _CUBIC * _SQRT_2_OVER_PI
    slope += 2 * _SQRT_2_OVER_PI
    slope *= x
    np.subtract(1, share, out=rest)
    slope *= rest
    slope += 1
    slope *= share


ERF, TANH = Form(normal, _erf_slope), Form(_tanh_share, _tanh_slope)


def _forward(x: Array, form: Form) -> Any:
    """x times its share."""
    if not rows.fits(x):
        return NotImplemented
    if x.size > rows.KEPT:
        slope = Slope()
        return _product(x, form), (x, None, slope), lambda: _product(x, form, slope)
    shares = np.empty(x.size, x.dtype)
    return _product(x, form, shares=shares), (x, shares.reshape(x.shape))


def _product(x: Array, form: Form, slope: Slope | None = None, shares: Array | None = None) -> Array:
    """x times its share: the shares into `shares`, and the slope into `slope`, where they are given."""
    xs = rows.line(x)
    out = np.empty_like(xs)
    slopes = None if slope is None else np.empty_like(xs)

    def work(blocks: rows.Blocks) -> None:
        spare = [rows.buffer(xs, blocks) for _ in range(3)]
        for _, a in blocks:
            e, p, f = (s[: a.stop - a.start] for s in spare)
            room, f = (e if slopes is None else slopes[a], p), f if shares is None else shares[a]
            form.share(xs[a], f, room)
            np.multiply(xs[a], f, out=out[a])
            if slopes is not None:
                form.slope(xs[a], f, room, True)

    rows.each(work, xs)
    if slope is not None:
        slope.made = slopes
    return out.reshape(x.shape)


def _backward(g: Array, x: Array, share: Array | None, slope: Slope | None, form: Form) -> Array:
    """g times the slope."""
    if slope is not None and slope.made is not None:
        return _times(slope, g).reshape(x.shape)
    xs, gs = rows.line(x), rows.line(g)
    shares = None if share is None else rows.line(share)
    out = np.empty_like(xs)

    def work(blocks: rows.Blocks) -> None:
        spare = [rows.buffer(xs, blocks) for _ in range(1 if shares is not None else 2)]
        for _, a in blocks:
            p, *others = (s[: a.stop - a.start] for s in spare)
            room, f = (out[a], p), others[0] if shares is None else shares[a]
            if shares is None:
                form.share(xs[a], f, room)
            form.slope(xs[a], f, room, shares is None)
            out[a] *= gs[a]

    rows.each(work, xs)
    return out.reshape(x.shape)


def _times(slope: Slope, g: Array) -> Array:
    """The slope times g, in its place: it is there once."""
    out, gs = slope.made, rows.line(g)
    assert out is not None
    slope.made = None

    def work(blocks: rows.Blocks) -> None:
        for _, a in blocks:
            out[a] *= gs[a]

    rows.each(work, gs)
    return out
