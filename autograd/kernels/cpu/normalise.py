"""Layer and root-mean-square norm and softmax in blocks of rows; residuals as in `ops.normalise`.

Memory traffic: forward reads x and writes y, and the normalised rows where a gradient is wanted; backward reads g and
those and writes dx. Sums of short rows are matrix-vector products, the fastest sums that NumPy has; a parameter's
gradient is summed block by block, the blocks in float64, so that it never exists once per row.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...backend import Array
from ...ops.normalise import layer_norm, rms_norm, softmax
from ...sums import wide_total
from . import rows


def layer_norm_forward(
    x: Array, scale: Array, offset: Array, *, eps: float = 1e-5, needs: tuple[bool, ...] = (False,)
) -> Any:
    """As `ops.normalise.layer_norm`."""
    if not rows.fits(x, scale, offset):
        return NotImplemented
    xs, width = rows.flat(x), x.shape[-1]
    y, units, inverses = np.empty_like(xs), _kept(xs, needs), np.empty((len(xs), 1), x.dtype)

    def work(blocks: rows.Blocks) -> None:
        spare = rows.buffer(xs, blocks)
        for _, a in blocks:
            y_a = y[a]
            unit = spare[: len(y_a)] if units is None else units[a]
            np.subtract(xs[a], rows.sums(xs[a]) / width, out=unit)
            inverses[a] = 1 / np.sqrt(rows.dots(unit, unit) / width + eps)
            unit *= inverses[a]
            np.multiply(unit, scale, out=y_a)
            y_a += offset

    rows.each(work, xs)
    return _made(x, y, units, inverses, scale, offset)


def layer_norm_backward(g: Array, unit: Array, inverse_std: Array, scale: Array, needs: tuple[bool, ...]) -> Any:
    """As the backward rule of `ops.normalise.layer_norm`; the gradients of scale and offset are summed over rows."""
    if not rows.fits(g, scale):
        return layer_norm.definition.backward(g, unit, inverse_std, scale, needs=needs)
    return _pull(g, unit, inverse_std, scale, needs, centred=True)


def rms_norm_forward(x: Array, scale: Array, *, eps: float = 1e-6, needs: tuple[bool, ...] = (False,)) -> Any:
    """As `ops.normalise.rms_norm`."""
    if not rows.fits(x, scale):
        return NotImplemented
    xs, width = rows.flat(x), x.shape[-1]
    y, units, inverses = np.empty_like(xs), _kept(xs, needs), np.empty((len(xs), 1), x.dtype)

    def work(blocks: rows.Blocks) -> None:
        for _, a in blocks:
            y_a = y[a]
            inverses[a] = 1 / np.sqrt(rows.dots(xs[a], xs[a]) / width + eps)
            unit = y_a if units is None else units[a]
            np.multiply(xs[a], inverses[a], out=unit)
            np.multiply(unit, scale, out=y_a)

    rows.each(work, xs)
    return _made(x, y, units, inverses, scale, None)


def rms_norm_backward(g: Array, unit: Array, inverse: Array, scale: Array, needs: tuple[bool, ...]) -> Any:
    """As the backward rule of `ops.normalise.rms_norm`; the gradient of scale is summed over rows."""
    if not rows.fits(g, scale):
        return rms_norm.definition.backward(g, unit, inverse, scale, needs=needs)
    return _pull(g, unit, inverse, scale, (*needs, False), centred=False)[:2]


def softmax_forward(x: Array, *, axis: int = -1) -> Any:
    """As `ops.normalise.softmax`."""
    if not _last(x, axis):
        return NotImplemented
    xs = rows.flat(x)
    y = np.empty_like(xs)

    def work(blocks: rows.Blocks) -> None:
        for _, a in blocks:
            y_a = y[a]
            np.subtract(xs[a], xs[a].max(-1, keepdims=True), out=y_a)
            np.exp(y_a, out=y_a)
            y_a /= rows.sums(y_a)

    rows.each(work, xs)
    result = y.reshape(x.shape)
    return result, (result,)


def softmax_backward(g: Array, y: Array, axis: int) -> Any:
    """As the backward rule of `ops.normalise.softmax`."""
    if not _last(y, axis):
        return softmax.definition.backward(g, y, axis=axis)
    gs, ys = rows.flat(g), rows.flat(y)
    dx = np.empty_like(ys)

    def work(blocks: rows.Blocks) -> None:
        for _, a in blocks:
            dx_a = dx[a]
            np.subtract(gs[a], rows.dots(gs[a], ys[a]), out=dx_a)
            dx_a *= ys[a]

    rows.each(work, ys)
    return dx.reshape(y.shape)


def _pull(
    g: Array, unit: Array, inverse: Array, scale: Array, needs: tuple[bool, ...], *, centred: bool
) -> tuple[Array | None, Array | None, Array | None]:
    """dx = inverse (g_unit - mean g_unit - unit mean(g_unit unit)), g_unit = g scale; the first mean if `centred`."""
    gs, units, inverses = rows.flat(g), rows.flat(unit), inverse.reshape(-1, 1)
    weights = scale[:, None] / g.shape[-1]  # g @ weights is the mean of g_unit
    dx = np.empty_like(gs) if needs[0] else None
    count = len(rows.blocks(gs))
    dscale, doffset = (np.empty((count, g.shape[-1])) if need else None for need in needs[1:3])

    def work(blocks: rows.Blocks) -> None:
        spare = rows.buffer(gs, blocks)
        for i, a in blocks:
            g_a, unit_a = gs[a], units[a]
            product = spare[: len(g_a)]
            np.multiply(g_a, unit_a, out=product)
            if dscale is not None:
                dscale[i] = wide_total(product, 0)
            if doffset is not None:
                doffset[i] = wide_total(g_a, 0)
            if dx is not None:
                projected, dx_a = product @ weights, dx[a]
                np.multiply(g_a, scale, out=dx_a)
                if centred:
                    dx_a -= g_a @ weights
                np.multiply(unit_a, projected, out=product)
                dx_a -= product
                dx_a *= inverses[a]

    rows.each(work, gs)
    sums = [None if s is None else rows.total(s, g.dtype) for s in (dscale, doffset)]
    return None if dx is None else dx.reshape(g.shape), sums[0], sums[1]


def _kept(xs: Array, needs: tuple[bool, ...]) -> Array | None:
    """Room for the normalised rows, if a gradient is wanted."""
    return np.empty_like(xs) if any(needs) else None


def _made(x: Array, y: Array, units: Array | None, inverses: Array, scale: Array, offset: Array | None) -> Any:
    """What a forward rule returns: where a gradient is wanted, also how to make the output again."""
    residuals = (None if units is None else units.reshape(x.shape), inverses.reshape(*x.shape[:-1], 1), scale)
    again = None if units is None or x.size <= rows.KEPT else partial(_affine, residuals[0], scale, offset)
    return y.reshape(x.shape), residuals, again


def _affine(unit: Array, scale: Array, offset: Array | None) -> Array:
    """unit scale + offset."""
    units = rows.flat(unit)
    y = np.empty_like(units)

    def work(blocks: rows.Blocks) -> None:
        for _, a in blocks:
            np.multiply(units[a], scale, out=y[a])
            if offset is not None:
                y[a] += offset

    rows.each(work, units)
    return y.reshape(unit.shape)


def _last(x: Array, axis: int) -> bool:
    return rows.fits(x) and axis in (-1, x.ndim - 1)
