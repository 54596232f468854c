"""Scores of narrow heads, q k^T over at most 64 channels, in float32: on the way back with what follows from them.

cuBLAS takes most of its time there to begin and to end, since a sum is over before its pipeline has filled. A block of
256 threads makes 128 queries by 64 keys, 32 channels of both at a time in shared memory, 8 x 4 sums a thread.

Traffic: writes the scores; on the way back weights and the gradients of the scores, where scores and gradients of the
weights would be written, read and written again.
"""

from __future__ import annotations

from typing import Any

from .launch import function
from .prepared import Matrices, ProductSizes

WIDEST = 64
"""Channels up to which scores are made here."""

FEWEST = 128
"""Queries and keys from which they are."""

_QUERIES, _KEYS, _BLOCK = 128, 64, 256

SOURCE = """
#define QUERIES 128
#define KEYS 64
#define DEPTH 32
struct Side { Int at, step, row; };  // of matrices: address of the first, or of a table of all; bytes; elements

__device__ __forceinline__ const T* matrix(const Side& side, Int listed) {
    return (const T*)(listed ? ((const Int*)side.at)[blockIdx.z] : side.at + (Int)blockIdx.z * side.step);
}
// sums[i][j] over `depth` channels, of query 4 (thread / 16) + i (64 more from the fifth) and key 4 (thread % 16) + j
__device__ __forceinline__ void product(
    const T* x, Int x_row, const T* y, Int y_row, int n, int m, int depth, T (*xs)[QUERIES], T (*ys)[KEYS],
    T (&sums)[8][4]
) {
    int query = blockIdx.y * QUERIES, key = blockIdx.x * KEYS, tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    #pragma unroll
    for (int i = 0; i < 8; ++i)
        #pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = 0;
    for (int first = 0; first < depth; first += DEPTH) {
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 4; ++i) {
            int row = threadIdx.x & 127, c = 4 * ((threadIdx.x >> 7) + 2 * i);
            Four v = {0, 0, 0, 0};
            if (query + row < n && first + c < depth) v = *(const Four*)(x + (query + row) * x_row + first + c);
            xs[c][row] = v.a, xs[c + 1][row] = v.b, xs[c + 2][row] = v.c, xs[c + 3][row] = v.d;
        }
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            int row = threadIdx.x & 63, c = 4 * ((threadIdx.x >> 6) + 4 * i);
            Four v = {0, 0, 0, 0};
            if (key + row < m && first + c < depth) v = *(const Four*)(y + (key + row) * y_row + first + c);
            ys[c][row] = v.a, ys[c + 1][row] = v.b, ys[c + 2][row] = v.c, ys[c + 3][row] = v.d;
        }
        __syncthreads();
        #pragma unroll 8
        for (int c = 0; c < DEPTH; ++c) {
            Four a = *(const Four*)&xs[c][4 * ty], b = *(const Four*)&xs[c][64 + 4 * ty];
            Four k = *(const Four*)&ys[c][4 * tx];
            T of_x[8] = {a.a, a.b, a.c, a.d, b.a, b.b, b.c, b.d}, of_y[4] = {k.a, k.b, k.c, k.d};
            #pragma unroll
            for (int i = 0; i < 8; ++i)
                #pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] = fma(of_x[i], of_y[j], sums[i][j]);
        }
    }
}
#define HERE \\
    __shared__ __align__(16) T xs[DEPTH][QUERIES]; \\
    __shared__ __align__(16) T ys[DEPTH][KEYS]; \\
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4, key = blockIdx.x * KEYS + 4 * tx;
#define QUERY(i) (int)(blockIdx.y * QUERIES + ((i) < 4 ? 0 : 60) + 4 * ty + (i))

extern "C" __global__ __launch_bounds__(256, 2) void narrow(
    Int x_at, Int x_step, Int x_row, Int y_at, Int y_step, Int y_row, Int out_at, Int out_step, Int out_row,
    Int listed, Int n, Int m, Int depth, double alpha
) {
    HERE
    T sums[8][4];
    product(matrix(Side{x_at, x_step, x_row}, listed), x_row, matrix(Side{y_at, y_step, y_row}, listed), y_row,
            (int)n, (int)m, (int)depth, xs, ys, sums);
    if (key >= m) return;
    T* out = (T*)matrix(Side{out_at, out_step, out_row}, listed);
    T by = (T)alpha;
    #pragma unroll
    for (int i = 0; i < 8; ++i)
        if (QUERY(i) < n)
            *(Four*)(out + QUERY(i) * out_row + key) =
                Four{by * sums[i][0], by * sums[i][1], by * sums[i][2], by * sums[i][3]};
}
// q, k, g, v -> weights p = exp(alpha q k^T - log_sum) and the gradients of scores, p (g v^T - inner)
extern "C" __global__ __launch_bounds__(256, 2) void narrow_back(
    Int q_at, Int q_step, Int q_row, Int k_at, Int k_step, Int k_row,
    Int g_at, Int g_step, Int g_row, Int v_at, Int v_step, Int v_row,
    T* weights, T* gradients, const T* log_sum, const T* inners,
    Int listed, Int n, Int m, Int depth, Int width, double alpha, Int first, Int start, Int queries
) {
    HERE
    T s[8][4], of_p[8][4];
    product(matrix(Side{q_at, q_step, q_row}, listed), q_row, matrix(Side{k_at, k_step, k_row}, listed), k_row,
            (int)n, (int)m, (int)depth, xs, ys, s);
    product(matrix(Side{g_at, g_step, g_row}, listed), g_row, matrix(Side{v_at, v_step, v_row}, listed), v_row,
            (int)n, (int)m, (int)width, xs, ys, of_p);
    if (key >= m) return;
    T by = (T)alpha;
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (QUERY(i) >= n) continue;
        Int row = (first + blockIdx.z) * queries + start + QUERY(i), at = ((Int)blockIdx.z * n + QUERY(i)) * m + key;
        T logs = log_sum[row], inner = inners[row], p[4], d[4];
        #pragma unroll
        for (int j = 0; j < 4; ++j) {
            p[j] = exp(by * s[i][j] - logs);
            d[j] = p[j] * (of_p[i][j] - inner);
        }
        *(Four*)(weights + at) = Four{p[0], p[1], p[2], p[3]};
        *(Four*)(gradients + at) = Four{d[0], d[1], d[2], d[3]};
    }
}
"""


def suits(sizes: ProductSizes, x: Matrices, y: Matrices, count: int) -> bool:
    """Whether x y^T of these is made here, for `count` of them; of float32, at multiples of 16 bytes."""
    if sizes.k > WIDEST or min(sizes.n, sizes.m) < FEWEST or x.transposed or not y.transposed or count >= 1 << 16:
        return False
    return not (sizes.k % 4 or sizes.m % 4 or x.row % 4 or y.row % 4)


class Narrow:
    """A prepared batch of products x y^T, evenly spaced or (`listed`) anywhere: called with addresses, as `blas`'s."""

    def __init__(
        self,
        sizes: ProductSizes,
        x: Matrices,
        y: Matrices,
        out: Matrices,
        *,
        count: int,
        alpha: float,
        listed: bool,
    ) -> None:
        self._launch = function(SOURCE, "narrow", "f")
        self._grid = _grid(sizes.n, sizes.m, count)
        self._x, self._y, self._out = ((each.step, each.row) for each in (x, y, out))
        self._sizes = (int(listed), *sizes, float(alpha))

    def __call__(self, x: int, y: int, out: int) -> None:
        self._launch(self._grid, (_BLOCK,), (x, *self._x, y, *self._y, out, *self._out, *self._sizes))


class NarrowBack:
    """What weights and gradients of scores are made by on the way back, of heads (..., d) and values (..., e)."""

    def __init__(self, sides: tuple[Matrices, ...], widths: tuple[int, int], alpha: float, *, listed: bool) -> None:
        """`sides`: q, k, g and v."""
        self._launch = function(SOURCE, "narrow_back", "f")
        self._sides, self._widths, self._alpha, self._listed = sides, widths, float(alpha), int(listed)

    def __call__(
        self, addresses: tuple[int, ...], made: tuple[Any, ...], count: int, n: int, m: int, places: tuple[int, ...]
    ) -> None:
        """`addresses`: of q, k, g, v; `made`: scores, gradients, sums of rows; `places`: first head, query; queries."""
        told: list[int] = []
        for at, side in zip(addresses, self._sides):
            told += (at, side.step, side.row)
        sizes = (self._listed, n, m, *self._widths, self._alpha, *places)
        self._launch(_grid(n, m, count), (_BLOCK,), (*told, *made, *sizes))


def _grid(n: int, m: int, count: int) -> tuple[int, int, int]:
    return -(-m // _KEYS), -(-n // _QUERIES), count
