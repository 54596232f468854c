"""GELU, each direction in one pass.

Traffic: forward reads x and writes y; backward reads g and x and writes dx, and computes the second residual again,
which arithmetic hides behind the reads. The bias before it is added by the linear map's matrix product, without
traffic of its own.
"""

from __future__ import annotations

from typing import Any

from ...backend import Array
from .launch import WORTH, contiguous, fits, function

_PER_THREAD = 4
_BLOCK = 256

_SOURCE = """
#define SQRT_HALF ((T)0.7071067811865476)
#define SQRT_2_OVER_PI ((T)0.7978845608028654)
#define ONE_OVER_SQRT_2PI ((T)0.3989422804014327)
#define CUBE ((T)0.044715)

extern "C" __global__ void forward(const T* x, T* y, Int size, Int kind) {
    Int start = (Int)blockIdx.x * (blockDim.x * 4) + threadIdx.x;
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
        Int j = start + i * blockDim.x;
        if (j < size) {
            T a = x[j], r;
            if (kind) {
                r = tanh(SQRT_2_OVER_PI * (a + CUBE * a * a * a));
                y[j] = (T)0.5 * a * ((T)1 + r);
            } else {
                r = (T)0.5 * ((T)1 + erf(a * SQRT_HALF));
                y[j] = a * r;
            }
        }
    }
}
extern "C" __global__ void backward(const T* g, const T* x, T* dx, Int size, Int kind) {
    Int start = (Int)blockIdx.x * (blockDim.x * 4) + threadIdx.x;
    #pragma unroll
    for (int i = 0; i < 4; ++i) {
        Int j = start + i * blockDim.x;
        if (j < size) {
            T a = x[j], r, slope;
            if (kind) {
                r = tanh(SQRT_2_OVER_PI * (a + CUBE * a * a * a));
                T inner = SQRT_2_OVER_PI * ((T)1 + (T)3 * CUBE * a * a);
                slope = (T)0.5 * ((T)1 + r) + (T)0.5 * a * ((T)1 - r * r) * inner;
            } else {
                r = (T)0.5 * ((T)1 + erf(a * SQRT_HALF));
                slope = r + a * (ONE_OVER_SQRT_2PI * exp((T)-0.5 * a * a));
            }
            dx[j] = g[j] * slope;
        }
    }
}
"""


def gelu_erf_forward(x: Array) -> Any:
    """As `ops.activation.gelu_erf`, without the second residual."""
    return _forward(x, 0)


def gelu_erf_backward(g: Array, x: Array) -> Any:
    """As the backward rule of `ops.activation.gelu_erf`."""
    return _backward(g, x, 0)


def gelu_tanh_forward(x: Array) -> Any:
    """As `ops.activation.gelu_tanh`, without the second residual."""
    return _forward(x, 1)


def gelu_tanh_backward(g: Array, x: Array) -> Any:
    """As the backward rule of `ops.activation.gelu_tanh`."""
    return _backward(g, x, 1)


def _forward(x: Array, kind: int) -> Any:
    if not fits(x):
        return NotImplemented
    import cupy

    x = contiguous(x)
    y = cupy.empty(x.shape, x.dtype)
    _launch("forward", x, (x, y), kind)
    return y, (x,), (lambda: _forward(x, kind)[0]) if x.nbytes >= WORTH else None


def _backward(g: Array, x: Array, kind: int) -> Any:
    import cupy

    dx = cupy.empty(x.shape, x.dtype)
    _launch("backward", x, (contiguous(g), contiguous(x), dx), kind)
    return dx


def _launch(name: str, x: Array, arguments: tuple[Any, ...], kind: int) -> None:
    blocks = -(-x.size // (_BLOCK * _PER_THREAD))
    function(_SOURCE, name, x.dtype.char)((blocks,), (_BLOCK,), (*arguments, x.size, kind))
