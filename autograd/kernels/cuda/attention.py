"""Attention by cuBLAS and one kernel a direction between its products, in a workspace of bounded size.

The scores of a group of heads, or of some queries of one, are written to the workspace by one product, turned into
weights there by the kernel, one block a row, and multiplied with the values; the next group overwrites them. Memory is
linear in queries + keys: a fixed size, or 128 rows of scores where that is more. Arrays are read and written where they
lie: (B, H, N, d) as a view of (B, N, H, d) costs no copy, and results come in that layout. What follows from shapes and
strides alone is kept from call to call.

Traffic beyond the products': forward reads and writes the scores once; backward reads scores and gradients and writes
weights and gradients. Rows longer than the registers of a block hold are read twice.
"""

from __future__ import annotations

from typing import Any

from ...backend import Array
from ...ops.attention import MaskedRows, check_shapes, keep_used, slopes
from ..attention import backward as tiled_backward
from ..attention import without_empty_rows
from .attention_plan import Plan, memory, planned
from .launch import function, threads_of_row

_SOURCE = """
// Row blockIdx.x of a group of scores: matrix i of the batch, query n of all.
struct Row {
    Int i, n;
    const bool* mask;
    const T* bias;
    Int mask_step, bias_step;
    __device__ Row(const bool* const* masks, Int mask_row, Int mask_step, const T* const* biases, Int bias_row,
                   Int bias_step, Int rows, Int first, Int start) : mask_step(mask_step), bias_step(bias_step) {
        i = first + blockIdx.x / rows;
        n = start + blockIdx.x % rows;
        mask = masks ? masks[i] + n * mask_row : 0;
        bias = biases ? biases[i] + n * bias_row : 0;
    }
    __device__ __forceinline__ bool open(Int j) const { return !mask || mask[j * mask_step]; }
    __device__ __forceinline__ T score(T s, Int j) const {
        if (bias) s += bias[j * bias_step];
        return open(j) ? s : -INFINITE;
    }
    // whether an average of all replaces this row: it may attend to nothing
    __device__ bool closed(Int keys) const {
        bool any = false;
        for (Int j = threadIdx.x; j < keys && !any; j += blockDim.x) any = open(j);
        return !__syncthreads_or(any);
    }
};
#define MASKS const bool* const* masks, Int mask_row, Int mask_step
#define BIASES const T* const* biases, Int bias_row, Int bias_step

ROW_KERNEL weights(
    T* scores, T* log_sum, MASKS, BIASES, Int rows, Int keys, Int first, Int start, Int queries, Int uniform
) {
    Row row(masks, mask_row, mask_step, biases, bias_row, bias_step, rows, first, start);
    T* s = scores + (Int)blockIdx.x * keys;
    T top = -INFINITE, total = 0;
    bool replaced = uniform && masks && row.closed(keys);
    if (keys <= (Int)ITEMS * blockDim.x) {
        T values[ITEMS];
        #pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            int j = threadIdx.x + i * blockDim.x;
            values[i] = j < keys ? (replaced ? (T)0 : row.score(s[j], j)) : -INFINITE;
            top = max(top, values[i]);
        }
        top = block_max(top);
        T safe = top == -INFINITE ? (T)0 : top;
        #pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            values[i] = exp(values[i] - safe);
            total += values[i];
        }
        total = block_sum(total);
        T inverse = total == 0 ? (T)1 : (T)1 / total;
        #pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            int j = threadIdx.x + i * blockDim.x;
            if (j < keys) s[j] = values[i] * inverse;
        }
    } else {
        // each thread keeps a running maximum and sum (Milakov and Gimelshein 2018, arXiv 1805.02867)
        #pragma unroll 4
        for (Int j = threadIdx.x; j < keys; j += blockDim.x) {
            T x = replaced ? (T)0 : row.score(s[j], j);
            if (x > top) {
                total = total * exp(top - x) + (T)1;
                top = x;
            } else if (x != -INFINITE) {
                total += exp(x - top);
            }
        }
        T mine = top;
        top = block_max(top);
        T safe = top == -INFINITE ? (T)0 : top;
        total = block_sum(mine == -INFINITE ? total : total * exp(mine - safe));
        T inverse = total == 0 ? (T)1 : (T)1 / total;
        #pragma unroll 4
        for (Int j = threadIdx.x; j < keys; j += blockDim.x)
            s[j] = exp((replaced ? (T)0 : row.score(s[j], j)) - safe) * inverse;
    }
    if (threadIdx.x == 0)
        log_sum[row.i * queries + row.n] = total == 0 ? INFINITE : (top == -INFINITE ? (T)0 : top) + log(total);
}

// scores -> weights p, and gradients of the weights -> gradients of the scores, p (gradient - sum of p gradient)
ROW_KERNEL weights_back(
    T* scores, T* gradients, const T* log_sum, MASKS, BIASES,
    Int rows, Int keys, Int first, Int start, Int queries, Int uniform
) {
    Row row(masks, mask_row, mask_step, biases, bias_row, bias_step, rows, first, start);
    T* s = scores + (Int)blockIdx.x * keys;
    T* g = gradients + (Int)blockIdx.x * keys;
    T logs = log_sum[row.i * queries + row.n], inner = 0;
    bool replaced = uniform && masks && row.closed(keys);
    if (keys <= (Int)ITEMS * blockDim.x) {
        T p[ITEMS], of_p[ITEMS];
        #pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            int j = threadIdx.x + i * blockDim.x;
            p[i] = of_p[i] = 0;
            if (j < keys) {
                p[i] = exp((replaced ? (T)0 : row.score(s[j], j)) - logs);
                of_p[i] = g[j];
            }
            inner += p[i] * of_p[i];
        }
        inner = block_sum(inner);
        #pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            int j = threadIdx.x + i * blockDim.x;
            if (j < keys) {
                s[j] = p[i];
                g[j] = row.open(j) || (replaced && uniform == 2) ? p[i] * (of_p[i] - inner) : (T)0;
            }
        }
    } else {
        #pragma unroll 4
        for (Int j = threadIdx.x; j < keys; j += blockDim.x) {
            T p = exp((replaced ? (T)0 : row.score(s[j], j)) - logs);
            s[j] = p;
            inner += p * g[j];
        }
        inner = block_sum(inner);
        #pragma unroll 4
        for (Int j = threadIdx.x; j < keys; j += blockDim.x)
            g[j] = row.open(j) || (replaced && uniform == 2) ? s[j] * (g[j] - inner) : (T)0;
    }
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
    launch, threads = function(_SOURCE, "weights", q.dtype.char), (threads_of_row(m),)
    extra = [x.data.ptr for x in (mask, bias) if x is not None]
    addresses = (*(x.data.ptr for x in (*arrays, out)), *extra, scores.data.ptr)
    uniform = _UNIFORM[masked_rows]
    for start, moves, groups in plan.tiles:
        origins, table = plan.batch.origins([a + move for a, move in zip(addresses, moves)] if start else addresses)
        told = _told(plan, origins)
        for before, after, first, count, height in groups:
            for call in before:
                call.run(origins)
            launch((count * height,), threads, (scores, log_sum, *told, height, m, first, start, n, uniform))
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
    launch, threads = function(_SOURCE, "weights_back", q.dtype.char), (threads_of_row(m),)
    extra = [x.data.ptr for x in (mask, bias) if x is not None]
    addresses = (*(x.data.ptr for x in (*arrays, dq, dk, dv)), *extra, scores.data.ptr, gradients.data.ptr)
    uniform = _UNIFORM[masked_rows]
    for start, moves, groups in plan.tiles:
        origins, table = plan.batch.origins([a + move for a, move in zip(addresses, moves)] if start else addresses)
        told = _told(plan, origins)
        for before, after, first, count, height in groups:
            for call in before:
                call.run(origins)
            arguments = (scores, gradients, log_sum, *told, height, m, first, start, n, uniform)
            launch((count * height,), threads, arguments)
            for call in after:
                call.run(origins)
            if dbias is not None:
                part = dbias.reshape(-1, n, m)[first : first + count, start : start + height]
                part[...] = gradients.reshape(-1)[: count * height * m].reshape(count, height, m)
        del table
    return dq, dk, dv, dbias


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
