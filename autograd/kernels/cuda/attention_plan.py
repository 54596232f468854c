"""How a call of attention is carried out: its products and the groups of heads or queries that they are made for.

All of it follows from shapes, strides and options, and is kept from call to call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ...ops.attention import check_shapes, scale_factor
from . import blas
from .batches import MatrixBatch, Operand, Workspace
from .launch import fits
from .narrow import NarrowBack
from .prepared import Product, ProductSizes

WORKSPACE = 128 << 20
"""Bytes of scores that are computed together; where one head has more, its queries are divided."""

FEWEST = 128
"""Queries that are not divided further. Each division reads all keys: with fewer, time would grow as keys squared."""

MOST = 1000
"""Plans that are kept: texts that are generated make one for each length."""


class Call(NamedTuple):
    """One product: operands x, y and out with their offsets."""

    product: Product
    x: tuple[int, int]
    y: tuple[int, int]
    out: tuple[int, int]

    def run(self, origins: Any) -> None:
        """Compute it, of operands whose offsets count from these."""
        (x, at_x), (y, at_y), (out, at_out) = self.x, self.y, self.out
        self.product(origins[x] + at_x, origins[y] + at_y, origins[out] + at_out)


class _Group(NamedTuple):
    """Heads, or queries of one, that are computed together."""

    before: list[Call]
    after: list[Call]
    first: int
    heads: int
    height: int


class Plan(NamedTuple):
    """What follows from shapes, strides, masks and biases."""

    copied: tuple[bool, ...]
    """Which of the arrays given must be copied first."""
    lead: tuple[int, ...]
    batch: MatrixBatch
    workspace: tuple[int, int, int]
    tiles: list[tuple[int, tuple[int, ...], list[_Group]]]
    """First query, bytes by which the arrays given and those made move there, and groups."""
    extras: tuple[tuple[int, int, int], ...]
    """For mask and bias: their operand, or -1, and elements from query to query and from key to key."""
    back: NarrowBack | None
    """In place of the products before the kernel, and of the kernel, on the way back: of narrow heads."""


class _Kept(threading.local):
    """Plans of one thread, by the kind of call."""

    def __init__(self) -> None:
        self.plans: dict[Any, Plan | None] = {}


_kept = _Kept()


def planned(
    arrays: list[Array], bias: Array | None, mask: Array | None, scale: float | None, *, backwards: bool
) -> Plan | None:
    """The plan of a call on q, k, v (and g); None where the kernels are not made for it."""
    q, char, address = arrays[0], arrays[0].dtype.char, 0
    for x in arrays:
        address |= x.data.ptr
    kind = (
        *(tuple((x.shape, x.strides, x.dtype.char) for x in arrays), scale, backwards, address % 16),
        *(WORKSPACE, FEWEST),
        *(None if x is None else (x.shape, x.strides, x.dtype.char) for x in (mask, bias)),
        *(blas.precision(char), q.device.id),
    )
    plans = _kept.plans
    if kind not in plans:
        if len(plans) >= MOST:
            plans.clear()
        if _suits(arrays[0], arrays[1], arrays[2], bias, mask):
            check_shapes(q, arrays[1], bias, mask)
            plans[kind] = _plan(arrays, bias, mask, scale_factor(q, scale), address % 16 == 0, backwards)
        else:
            plans[kind] = None
    return plans[kind]


def _plan(
    arrays: list[Array], bias: Array | None, mask: Array | None, factor: float, aligned: bool, backwards: bool
) -> Plan:
    q, k, v = arrays[:3]
    (n, d), (m, e), char, size = q.shape[-2:], v.shape[-2:], q.dtype.char, q.itemsize
    lead = np.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v, bias, mask) if x is not None))
    made = [(n, d), (m, d), (m, e)] if backwards else [(n, e)]
    operands = [_given(x) for x in arrays] + [_made(lead, rows, width, size) for rows, width in made]
    by_query = [0, *([3, 4] if backwards else [3])]
    rows, chunk = _division(int(np.prod(lead, dtype=np.int64)), n, m, size)
    extras, moving = [], len(operands)
    for x in (mask, bias):
        extras.append((-1, 0, 0) if x is None else (len(operands), *_steps(x)))
        if x is not None:
            operands.append(Operand(x.shape[:-2], x.strides[:-2], 0))
    spaces = [Workspace(chunk, rows * m * size, m)] * (1 + backwards)
    listed, aligned = mask is not None or bias is not None, aligned and (rows == n or rows % 4 == 0)
    batch = MatrixBatch(lead, operands, spaces, listed=listed, aligned=aligned)
    products: dict[Any, Any] = {}
    tiles = []
    back = _narrow_back(batch, char, (n, m, d, e), factor) if backwards and mask is None and bias is None else None
    for start in range(0, n, rows):
        height = min(rows, n - start)
        by = [start * operands[i].row * size if i in by_query else 0 for i in range(moving)]
        groups = []
        for first in range(0, batch.count, chunk):
            count = min(chunk, batch.count - first)
            key = (height, count, start > 0)
            if key not in products:
                make = _backward_calls if backwards else _forward_calls
                products[key] = make(batch, char, (height, m, d, e), len(operands), factor, *key[1:])
                products[key] = ([], products[key][1]) if back else products[key]
            before, after = ([_placed(batch, call, first) for call in calls] for calls in products[key])
            groups.append(_Group(before, after, first, count, height))
        tiles.append((start, (*by, *[0] * (len(operands) + len(spaces) - moving)), groups))
    copied = tuple(_copied(x) for x in arrays)
    return Plan(copied, lead, batch, (chunk, rows, m), tiles, tuple(extras), back)


Unplaced = tuple[Product, int, int, int]


def _forward_calls(
    batch: MatrixBatch, char: str, sizes: tuple[int, int, int, int], s: int, factor: float, count: int, again: bool
) -> tuple[list[Unplaced], list[Unplaced]]:
    """Scores; after the kernel, weights times values. Operands: q, k, v, out, ..., s the scores."""
    n, m, d, e = sizes
    del again
    make: Callable[..., Product] = batch.product
    scores = make(char, ProductSizes(n, m, d), 0, 1, s, turned="y", count=count, alpha=factor)
    out = make(char, ProductSizes(n, e, m), s, 2, 3, count=count)
    return [(scores, 0, 1, s)], [(out, s, 2, 3)]


def _backward_calls(
    batch: MatrixBatch, char: str, sizes: tuple[int, int, int, int], s: int, factor: float, count: int, again: bool
) -> tuple[list[Unplaced], list[Unplaced]]:
    """Scores and the weights' gradients; after the kernel, dv, dq and dk. Operands: q, k, v, g, dq, dk, dv, ..., s, ds.

    `again`: some queries were before these, and dk and dv are added to.
    """
    n, m, d, e = sizes
    ds, beta = s + 1, float(again)
    make: Callable[..., Product] = batch.product
    before = [
        (make(char, ProductSizes(n, m, d), 0, 1, s, turned="y", count=count, alpha=factor), 0, 1, s),
        (make(char, ProductSizes(n, m, e), 3, 2, ds, turned="y", count=count), 3, 2, ds),
    ]
    after = [
        (make(char, ProductSizes(m, e, n), s, 3, 6, turned="x", count=count, beta=beta), s, 3, 6),
        (make(char, ProductSizes(n, d, m), ds, 1, 4, count=count, alpha=factor), ds, 1, 4),
        (make(char, ProductSizes(m, d, n), ds, 0, 5, turned="x", count=count, alpha=factor, beta=beta), ds, 0, 5),
    ]
    return before, after


def _narrow_back(batch: MatrixBatch, char: str, sizes: tuple[int, int, int, int], factor: float) -> NarrowBack | None:
    """The kernel of narrow heads and values; None where they are not."""
    n, m, d, e = sizes
    pairs = ((0, 1, d), (3, 2, e))
    if not all(batch.narrow(char, ProductSizes(n, m, width), x, y, batch.count) for x, y, width in pairs):
        return None
    sides = tuple(batch.matrices(i) for i in (0, 1, 3, 2))
    return NarrowBack(sides, (d, e), factor, listed=batch.listed)


def _placed(batch: MatrixBatch, call: Unplaced, first: int) -> Call:
    product, *operands = call
    x, y, out = ((i, batch.offset(i, first)) for i in operands)
    return Call(product, x, y, out)


def _suits(q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None) -> bool:
    """Whether the kernels are made for these."""
    if not (fits(q, k, v, bias) and all(x.ndim > 1 for x in (q, k, v)) and blas.available()):
        return False
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2] or (bias is not None and not bias.ndim):
        return False
    return mask is None or (mask.dtype == bool and mask.ndim > 0 and mask.size > 0)


def _copied(x: Array) -> bool:
    """Whether x (..., rows, columns) has rows that are not contiguous, or that overlap."""
    rows, columns = x.shape[-2:]
    fine = x.strides[-1] == x.itemsize or columns == 1
    return not (fine and (rows == 1 or x.strides[-2] >= columns * x.itemsize))


def _given(x: Array) -> Operand:
    if _copied(x):
        return Operand(x.shape[:-2], _row_major(x.shape, x.itemsize)[:-2], x.shape[-1])
    row = x.strides[-2] // x.itemsize if x.shape[-2] > 1 else x.shape[-1]
    return Operand(x.shape[:-2], x.strides[:-2], row)


def _row_major(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    strides = [size]
    for n in shape[:0:-1]:
        strides.insert(0, strides[0] * n)
    return tuple(strides)


def memory(lead: tuple[int, ...], rows: int, columns: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape in memory of a result, and the axes that make it (*lead, rows, columns): heads side by side in a row."""
    if len(lead) < 2:
        return (*lead, rows, columns), tuple(range(len(lead) + 2))
    return (lead[0], rows, *lead[1:], columns), (0, *range(2, len(lead) + 1), 1, len(lead) + 1)


def _made(lead: tuple[int, ...], rows: int, columns: int, size: int) -> Operand:
    shape, axes = memory(lead, rows, columns)
    strides = _row_major(shape, size)
    strides = tuple(strides[axis] for axis in axes)
    return Operand(lead, strides[:-2], strides[-2] // size)


def _division(count: int, n: int, m: int, itemsize: int) -> tuple[int, int]:
    """(queries of a head, heads) whose scores are in the workspace at a time."""
    one = n * m * itemsize
    if one > WORKSPACE:
        rows = WORKSPACE // (m * itemsize) // FEWEST * FEWEST
        return min(max(rows, FEWEST), n), 1
    return n, min(WORKSPACE // one, count)


def _steps(x: Array) -> tuple[int, int]:
    """Elements of a mask or bias from query to query and from key to key."""
    by_query = x.strides[-2] // x.itemsize if x.ndim > 1 and x.shape[-2] > 1 else 0
    return by_query, x.strides[-1] // x.itemsize if x.shape[-1] > 1 else 0
