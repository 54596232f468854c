"""Linear maps: one product with the bias added as it is written, and sums over rows for the bias's gradient.

Traffic: that of the products; the bias costs none forward, and one read of g backward.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from ...backend import Array
from ...branches import side_by_side
from ...core import Added, Sum
from ...ops.linear import linear
from . import blas
from .blas import Spaced, spaced
from .launch import column_sums, contiguous, fits
from .prepared import Matrices, ProductSizes
from .tensor_cores import ThreeProducts

MOST = 1000
"""Products that are kept prepared: texts that are generated make some for each length."""


class _KeptParts(threading.local):
    """Prepared products of one thread, by the kind of call: each holds the address of the bias it is called with."""

    def __init__(self) -> None:
        self.forward: dict[Any, Spaced | ThreeProducts | None] = {}
        self.backward: dict[Any, Spaced | ThreeProducts] = {}


_kept = _KeptParts()


def forward(x: Array, weight: Array, bias: Array | None = None, *, needs: tuple[bool, ...] = ()) -> Any:
    """As `ops.linear.linear`."""
    import cupy

    addresses = x.data.ptr | weight.data.ptr | (0 if bias is None else bias.data.ptr)
    char = x.dtype.char
    kind = (
        *(x.shape, weight.shape, weight.strides, char, weight.dtype.char, addresses % 16, x.device.id),
        *(None if bias is None else (bias.shape, bias.strides, bias.dtype.char), blas.precision(char)),
    )
    known = _kept.forward
    if kind not in known:
        if len(known) >= MOST:
            known.clear()
        known[kind] = _prepared(x, weight, bias, addresses % 16 == 0) if _suits(x, weight, bias) else None
    product = known[kind]
    if product is None:
        return NotImplemented
    x = contiguous(x)
    y = cupy.empty((*x.shape[:-1], weight.shape[1]), x.dtype)
    # cublasLt wants a bias at a multiple of 16 bytes
    fused = bias is not None and addresses % 16 == 0
    product(x.data.ptr, weight.data.ptr, y.data.ptr, bias.data.ptr if fused else 0)  # type: ignore[union-attr]
    if bias is not None and not fused:
        y += bias
    return y, (x if needs[1] else None, weight if needs[0] else None)


def backward(
    g: Array,
    x: Array | None,
    weight: Array | None,
    needs: tuple[bool, ...],
    onto: tuple[Sum | None, ...] = (None, None, None),
) -> Any:
    """As the backward rule of `ops.linear.linear`, with the gradient of the bias summed.

    Products add to what has arrived before: of shared weights, or of an array that several maps are of.
    """
    if not (g.ndim > 1 and fits(g, x, weight) and (weight is None or _laid_out(weight)) and blas.available()):
        return linear.definition.backward(g, x, weight, needs=needs)
    g, outputs = contiguous(g), g.shape[-1]
    rows = g.size // outputs
    calls: dict[int, Callable[[], Array]] = {}
    if needs[0]:
        assert weight is not None
        inputs = weight.shape[0]
        of_weight = _matrix(weight)
        flipped = of_weight._replace(transposed=not of_weight.transposed)
        sizes = ProductSizes(rows, inputs, outputs)
        calls[0] = partial(_product, g, weight, (*g.shape[:-1], inputs), sizes, Matrices(outputs), flipped, onto[0])
    if needs[1]:
        assert x is not None
        x, inputs = contiguous(x), x.shape[-1]
        matrices = Matrices(inputs, transposed=True), Matrices(outputs)
        sizes = ProductSizes(inputs, outputs, rows)
        calls[1] = partial(_product, x, g, (inputs, outputs), sizes, *matrices, onto[1])
    if len(needs) > 2 and needs[2]:
        calls[2] = partial(column_sums, g, onto[2])
    made = dict(zip(calls, side_by_side(*calls.values())))
    return Added([made.get(i) for i in range(3)])


def _product(
    x: Array,
    y: Array,
    shape: tuple[int, ...],
    sizes: ProductSizes,
    of_x: Matrices,
    of_y: Matrices,
    onto: Sum | None,
) -> Array:
    """x y, of this shape, added to what is there."""
    import cupy

    beta = 0.0 if onto is None else 1.0
    there = cupy.empty(shape, y.dtype) if onto is None else contiguous(onto.array)
    out = cupy.empty(shape, y.dtype) if onto is not None and there is onto.array and not onto.own else there
    aligned, char = (x.data.ptr | y.data.ptr | out.data.ptr | there.data.ptr) % 16 == 0, out.dtype.char
    kind = (sizes, of_x, of_y, beta, aligned, char, blas.precision(char), out.device.id)
    product = _kept.backward.get(kind)
    if product is None:
        if len(_kept.backward) >= MOST:
            _kept.backward.clear()
        made = spaced(char, sizes, of_x, of_y, Matrices(sizes.m), beta=beta, aligned=aligned)
        product = _kept.backward[kind] = made
    product(x.data.ptr, y.data.ptr, out.data.ptr, onto=there.data.ptr)
    return out


def _prepared(x: Array, weight: Array, bias: Array | None, aligned: bool) -> Spaced | ThreeProducts:
    inputs, outputs = weight.shape
    sizes, fused = ProductSizes(x.size // inputs, outputs, inputs), bias is not None and aligned
    matrices = (Matrices(inputs), _matrix(weight), Matrices(outputs))
    return spaced(x.dtype.char, sizes, *matrices, aligned=aligned, bias=fused)


def _suits(x: Array, weight: Array, bias: Array | None) -> bool:
    if not (x.ndim > 1 and weight.ndim == 2 and fits(x, weight, bias) and x.shape[-1] == weight.shape[0]):
        return False
    if bias is not None and (bias.shape != weight.shape[1:] or not bias.flags.c_contiguous):
        return False
    return max(x.size // x.shape[-1], *weight.shape) < 1 << 31 and _laid_out(weight) and blas.available()


def _laid_out(weight: Array) -> bool:
    return bool(weight.flags.c_contiguous or weight.flags.f_contiguous)


def _matrix(weight: Array) -> Matrices:
    """A weight (D, E) in row-major order, or the transpose of one (a tied embedding)."""
    inputs, outputs = weight.shape
    return Matrices(outputs) if weight.flags.c_contiguous else Matrices(inputs, transposed=True)
