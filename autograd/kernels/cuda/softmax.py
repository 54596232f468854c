"""Softmax and log-softmax over the last axis, one block a row, which stays in registers.

Traffic: forward reads x and writes y; backward reads g and y and writes dx.
"""

from __future__ import annotations

from typing import Any

from ...backend import Array
from ...core import Op
from ...ops.normalise import log_softmax, softmax
from .launch import LONGEST, contiguous, fits, function, threads_of_row

_SOURCE = """
ROW_KERNEL forward(const T* x, T* y, Int width, Int logarithm) {
    Int start = (Int)blockIdx.x * width;
    T values[ITEMS], top = -INFINITE, total = 0;
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        int j = threadIdx.x + i * blockDim.x;
        values[i] = j < width ? x[start + j] : -INFINITE;
        top = max(top, values[i]);
    }
    top = block_max(top);
    T powers[ITEMS];
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        values[i] -= top;
        powers[i] = threadIdx.x + i * blockDim.x < width ? exp(values[i]) : (T)0;
        total += powers[i];
    }
    total = block_sum(total);
    T logs = log(total);
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        int j = threadIdx.x + i * blockDim.x;
        if (j < width) y[start + j] = logarithm ? values[i] - logs : powers[i] / total;
    }
}
ROW_KERNEL backward(const T* g, const T* y, T* dx, Int width, Int logarithm) {
    Int start = (Int)blockIdx.x * width;
    T gs[ITEMS], ys[ITEMS], total = 0;
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        int j = threadIdx.x + i * blockDim.x;
        gs[i] = j < width ? g[start + j] : (T)0;
        ys[i] = j < width ? y[start + j] : (T)0;
        total += logarithm ? gs[i] : gs[i] * ys[i];
    }
    total = block_sum(total);
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        int j = threadIdx.x + i * blockDim.x;
        if (j < width) dx[start + j] = logarithm ? gs[i] - exp(ys[i]) * total : ys[i] * (gs[i] - total);
    }
}
"""


def softmax_forward(x: Array, *, axis: int = -1) -> Any:
    """As `ops.normalise.softmax`."""
    return _forward(x, axis, logarithm=False)


def softmax_backward(g: Array, y: Array, axis: int) -> Any:
    """As the backward rule of `ops.normalise.softmax`."""
    return _backward(softmax, g, y, axis, logarithm=False)


def log_softmax_forward(x: Array, *, axis: int = -1) -> Any:
    """As `ops.normalise.log_softmax`."""
    return _forward(x, axis, logarithm=True)


def log_softmax_backward(g: Array, y: Array, axis: int) -> Any:
    """As the backward rule of `ops.normalise.log_softmax`."""
    return _backward(log_softmax, g, y, axis, logarithm=True)


def _suits(x: Array, axis: int) -> bool:
    return x.ndim > 0 and axis in (-1, x.ndim - 1) and fits(x) and x.shape[-1] <= LONGEST


def _forward(x: Array, axis: int, *, logarithm: bool) -> Any:
    if not _suits(x, axis):
        return NotImplemented
    import cupy

    x, width = contiguous(x), x.shape[-1]
    y = cupy.empty(x.shape, x.dtype)
    launch = function(_SOURCE, "forward", x.dtype.char)
    launch((x.size // width,), (threads_of_row(width),), (x, y, width, int(logarithm)))
    return y, (y,)


def _backward(op: Op, g: Array, y: Array, axis: int, *, logarithm: bool) -> Any:
    if not _suits(y, axis):
        return op.definition.backward(g, y, axis=axis)
    import cupy

    g, y, width = contiguous(g), contiguous(y), y.shape[-1]
    dx = cupy.empty(y.shape, y.dtype)
    launch = function(_SOURCE, "backward", y.dtype.char)
    launch((y.size // width,), (threads_of_row(width),), (g, y, dx, width, int(logarithm)))
    return dx
