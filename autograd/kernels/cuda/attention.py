"""Attention by cuBLAS and one kernel a direction between its products, in a workspace of bounded size.

The scores of a group of heads, or of some queries of one, are written to the workspace by one product, turned into
weights there by the kernel, a row at a time, and multiplied with the values; the next group overwrites them. Memory is
linear in queries + keys: a fixed size, or 128 rows of scores where that is more. Arrays are read and written where they
lie: (B, H, N, d) as a view of (B, N, H, d) costs no copy, and results come in that layout. What follows from shapes and
strides alone is kept from call to call.

Traffic beyond the products': forward reads and writes the scores once, and reads rows twice that are longer than the
registers of a block hold; backward reads scores and gradients and writes weights and gradients. Heads of at most 64
channels have their scores from `narrow`, on the way back with weights and gradients at once, and nothing beyond that.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from ...backend import Array
from ...branches import one_after_the_other, side_by_side
from ...ops.attention import MaskedRows, check_shapes, keep_used, slopes
from ..attention import backward as tiled_backward
from ..attention import without_empty_rows
from .attention_plan import Call, Plan, memory, planned
from .attention_source import Kernel
from .launch import LONGEST, contiguous, function

_ROWS = 8  # of a block, one for each warp

_SOURCE = """
extern "C" __global__ void inners(const T* g, const T* out, T* sums, Int rows, Int width, Int queries, Int heads) {
    Int row = (Int)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (row >= rows) return;
    T sum = 0;
    for (Int j = threadIdx.x & 31; j < width; j += 32) sum += g[row * width + j] * out[row * width + j];
    sum = warp_sum(sum);
    Int head = row % heads, query = row / heads % queries, batch = row / heads / queries;
    if ((threadIdx.x & 31) == 0) sums[(batch * heads + head) * queries + query] = sum;
}
"""

_UNIFORM = {"zero": 0, "uniform": 1, "added": 2}
"""What the kernels are told of rows without any key."""


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
    keys, values = k, v
    if mask is not None:
        check_shapes(q, k, bias, mask)
        keys, values = keep_used(k, mask, "zero"), keep_used(v, mask, masked_rows)
    arrays = [q, keys, values]
    plan = planned(arrays, bias, mask, scale, backwards=False)
    if plan is None:
        return NotImplemented
    import cupy

    n, (m, e) = q.shape[-2], v.shape[-2:]
    arrays = [x.copy(order="C") if copied else x for x, copied in zip(arrays, plan.copied)]
    out, log_sum = _empty(plan.lead, n, e, q.dtype), cupy.empty((*plan.lead, n, 1), q.dtype)
    scores = cupy.empty(plan.workspace, q.dtype)
    rows = Kernel("weights", q.dtype.char, m, plain=mask is None and bias is None)
    extra = [x.data.ptr for x in (mask, bias) if x is not None]
    addresses = (*(x.data.ptr for x in (*arrays, out)), *extra, scores.data.ptr)
    uniform = _UNIFORM[masked_rows]
    for start, moves, groups in plan.tiles:
        origins, table = plan.batch.origins([a + move for a, move in zip(addresses, moves)] if start else addresses)
        told = _told(plan, origins)
        for before, after, first, count, height in groups:
            for call in before:
                call.run(origins)
            rows(count * height, (scores, log_sum), told, (height, m, first, start, n, uniform))
            for call in after:
                call.run(origins)
        del table
    return out, (q, k, v, bias, out, log_sum)


def backward(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    out: Array,
    log_sum: Array,
    *,
    mask: Array | None,
    scale: float | None,
    masked_rows: MaskedRows,
    needs: tuple[bool, ...],
) -> Any:
    """As the backward rule of `ops.attention.attention`."""
    keys, values = k, v
    if mask is not None:
        keys, values = keep_used(k, mask, slopes(masked_rows)), keep_used(v, mask, masked_rows)
    g = without_empty_rows(g, log_sum, bias, mask)
    arrays = [q, keys, values, g]
    plan = planned(arrays, bias, mask, scale, backwards=True)
    if plan is None:
        return tiled_backward(
            g, q, k, v, bias, out, log_sum, mask=mask, scale=scale, masked_rows=masked_rows, needs=needs
        )
    import cupy

    (n, d), (m, e) = q.shape[-2:], v.shape[-2:]
    arrays = [x.copy(order="C") if copied else x for x, copied in zip(arrays, plan.copied)]
    dq, dk, dv = (_empty(plan.lead, rows, width, q.dtype) for rows, width in ((n, d), (m, d), (m, e)))
    dbias = cupy.empty((*plan.lead, n, m), q.dtype) if len(needs) > 3 and needs[3] else None
    scores, gradients = cupy.empty(plan.workspace, q.dtype), cupy.empty(plan.workspace, q.dtype)
    log_sum = _whole(log_sum, (*plan.lead, n, 1))
    inners: Any = 0 if m <= LONGEST and plan.back is None else _inners(g, out, plan.lead)
    rows = Kernel("weights_back", q.dtype.char, m, plain=mask is None and bias is None)
    extra = [x.data.ptr for x in (mask, bias) if x is not None]
    addresses = (*(x.data.ptr for x in (*arrays, dq, dk, dv)), *extra, scores.data.ptr, gradients.data.ptr)
    uniform = _UNIFORM[masked_rows]
    for start, moves, groups in plan.tiles:
        origins, table = plan.batch.origins([a + move for a, move in zip(addresses, moves)] if start else addresses)
        told = _told(plan, origins)
        for before, after, first, count, height in groups:
            made = (scores, gradients, log_sum, inners)
            if plan.back is None:
                _together(plan, before, origins)
                rows(count * height, made, told, (height, m, first, start, n, uniform))
            else:
                places = [origins[i] + plan.batch.offset(i, first) for i in (0, 1, 3, 2)]
                plan.back(tuple(places), made, count, height, m, (first, start, n))
            _together(plan, after, origins)
            if dbias is not None:
                part = dbias.reshape(-1, n, m)[first : first + count, start : start + height]
                part[...] = gradients.reshape(-1)[: count * height * m].reshape(count, height, m)
        del table
    return dq, dk, dv, dbias


def _together(plan: Plan, calls: list[Call], origins: Any) -> None:
    """Products that need nothing of each other. Those by addresses share cuBLAS's own workspace."""
    runs = [partial(call.run, origins) for call in calls]
    one_after_the_other(runs) if plan.batch.listed else side_by_side(*runs)


def _inners(g: Array, out: Array, lead: tuple[int, ...]) -> Array:
    """The sums over channels of g times the output, (*lead, N): those over keys of weights times their gradients."""
    import cupy

    (n, e), axes = out.shape[-2:], memory(lead, *out.shape[-2:])[1]
    inners, heads = cupy.empty((*lead, n), out.dtype), math.prod(lead[1:])
    lying = [contiguous(x.transpose(np.argsort(axes).tolist())) for x in (g, out)]  # (B, N, heads, e)
    launch = function(_SOURCE, "inners", out.dtype.char)
    launch((-(-inners.size // _ROWS),), (32 * _ROWS,), (*lying, inners, inners.size, e, n, heads))
    return inners


def _told(plan: Plan, origins: Any) -> tuple[int, ...]:
    """What the kernels are told of mask and bias: a table of addresses; elements from query to query, key to key."""
    told: list[int] = []
    for operand, by_query, by_key in plan.extras:
        told += (0, 0, 0) if operand < 0 else (origins[operand] + plan.batch.offset(operand, 0), by_query, by_key)
    return tuple(told)


def _empty(lead: tuple[int, ...], rows: int, columns: int, dtype: Any) -> Array:
    import cupy

    shape, axes = memory(lead, rows, columns)
    return cupy.empty(shape, dtype).transpose(axes)


def _whole(log_sum: Array, shape: tuple[int, ...]) -> Array:
    """The rows' sums for all of the batch: the definition leaves out leading axes that only values have."""
    import cupy

    if log_sum.shape == shape and log_sum.flags.c_contiguous:
        return log_sum
    return cupy.broadcast_to(log_sum, shape).copy(order="C")
