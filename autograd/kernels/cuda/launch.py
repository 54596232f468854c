"""Kernels in CUDA C++: compiled once for each element type on first use, by NVRTC, and kept in CuPy's cache on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from ...backend import Array
from ...core import Sum

TYPES = {"f": "float", "d": "double"}
"""The element types that kernels exist for, by NumPy's character; arrays of others go to the definitions."""

ITEMS = 8
"""Elements of a row that each thread keeps in registers."""

THREADS = 512
"""The most threads of a block that has one row: enough of a multiprocessor's registers are left for each."""

LONGEST = ITEMS * THREADS
"""The longest row that a block keeps in registers."""

WORTH = 1 << 20
"""Bytes from which an output is computed again on the way back: keeping less is faster than a launch."""

_COMMON = (
    f"""
#define ITEMS {ITEMS}
#define ROW_KERNEL extern "C" __global__ __launch_bounds__({THREADS}) void
"""
    + """
typedef long long Int;
#define INFINITE ((T)(1.0 / 0.0))

// four elements that are read or written at once, from a multiple of 16 bytes
struct __align__(16) Four { T a, b, c, d; };

__device__ __forceinline__ T warp_sum(T x) {
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
    return x;
}
__device__ __forceinline__ T warp_max(T x) {
    for (int o = 16; o; o >>= 1) x = max(x, __shfl_xor_sync(0xffffffffu, x, o));
    return x;
}
// Sums of a and b, and the largest a, over the threads of a block, of a multiple of 32; all of them get the result.
__device__ __forceinline__ void block_sums(T& a, T& b) {
    __shared__ T of_warps[2][32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    a = warp_sum(a);
    b = warp_sum(b);
    if (warps == 1) return;
    __syncthreads();
    if (lane == 0) { of_warps[0][warp] = a; of_warps[1][warp] = b; }
    __syncthreads();
    a = warp_sum(lane < warps ? of_warps[0][lane] : (T)0);
    b = warp_sum(lane < warps ? of_warps[1][lane] : (T)0);
}
__device__ __forceinline__ T block_sum(T a) {
    __shared__ T of_warps[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    a = warp_sum(a);
    if (warps == 1) return a;
    __syncthreads();
    if (lane == 0) of_warps[warp] = a;
    __syncthreads();
    return warp_sum(lane < warps ? of_warps[lane] : (T)0);
}
__device__ __forceinline__ T block_max(T a) {
    __shared__ T of_warps[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    a = warp_max(a);
    if (warps == 1) return a;
    __syncthreads();
    if (lane == 0) of_warps[warp] = a;
    __syncthreads();
    return warp_max(lane < warps ? of_warps[lane] : -INFINITE);
}
"""
)


@cache
def function(source: str, name: str, char: str) -> Any:
    """The kernel `name` of a source text for one element type, ready to launch: `f(grid, block, arguments)`.

    Integers are `long long` there and floats `double`; `T` is the element type.
    """
    return _module(source, char).get_function(name)


@cache
def _module(source: str, char: str) -> Any:
    import cupy

    return cupy.RawModule(code=f"typedef {TYPES[char]} T;\n{_COMMON}{source}", options=("-std=c++17",))


def fits(*arrays: Array | None) -> bool:
    """All arrays (None aside) hold elements, of one type that kernels exist for."""
    there = [x for x in arrays if x is not None]
    char = there[0].dtype.char
    return char in TYPES and all(x.dtype.char == char and x.size for x in there)


def threads_of_row(length: int) -> int:
    """Threads of a block that has one row, in registers up to `LONGEST` elements."""
    return min(-(-length // (32 * ITEMS)) * 32, THREADS)


def contiguous(x: Array) -> Array:
    """x in row-major order, itself if it is."""
    return x if x.flags.c_contiguous else x.copy()


_COLUMNS = """
// First stage, in double: blocks of 64 columns by 4 rows walk down a share of the rows. One read of x.
extern "C" __global__ void column_parts(const T* x, T* parts, Int rows, Int columns, Int share) {
    __shared__ double lanes[4][64];
    int tx = threadIdx.x & 63, ty = threadIdx.x >> 6;
    Int column = (Int)blockIdx.x * 64 + tx, start = (Int)blockIdx.y * share, stop = min(start + share, rows);
    double total = 0;
    if (column < columns) {
        #pragma unroll 8
        for (Int row = start + ty; row < stop; row += 4) total += x[row * columns + column];
    }
    lanes[ty][tx] = total;
    __syncthreads();
    if (ty == 0 && column < columns)
        parts[(Int)blockIdx.y * columns + column] = (T)((lanes[0][tx] + lanes[1][tx]) + (lanes[2][tx] + lanes[3][tx]));
}
// The same for columns that are a multiple of 4 at a multiple of 16 bytes: 16 threads read 64 columns, of 16 rows.
extern "C" __global__ void column_parts_4(const Four* x, Four* parts, Int rows, Int columns, Int share) {
    __shared__ double lanes[16][64];
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    Int fours = columns / 4, column = (Int)blockIdx.x * 16 + tx;
    Int start = (Int)blockIdx.y * share, stop = min(start + share, rows);
    double a = 0, b = 0, c = 0, d = 0;
    if (column < fours) {
        #pragma unroll 4
        for (Int row = start + ty; row < stop; row += 16) {
            Four there = x[row * fours + column];
            a += there.a;
            b += there.b;
            c += there.c;
            d += there.d;
        }
    }
    double* mine = lanes[ty] + 4 * tx;
    mine[0] = a, mine[1] = b, mine[2] = c, mine[3] = d;
    __syncthreads();
    if (threadIdx.x >= 64 || (Int)blockIdx.x * 64 + threadIdx.x >= columns) return;
    double total = 0;
    #pragma unroll
    for (int i = 0; i < 16; ++i) total += lanes[i][threadIdx.x];
    ((T*)parts)[(Int)blockIdx.y * columns + blockIdx.x * 64 + threadIdx.x] = (T)total;
}
// Second stage, in double: columns before `half` go to `first`, the others to `second`, on top of what may be before.
extern "C" __global__ void column_totals(
    const T* parts, const T* before_first, const T* before_second, T* first, T* second, Int count, Int columns, Int half
) {
    __shared__ double lanes[16][16];
    int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
    Int column = (Int)blockIdx.x * 16 + tx;
    double total = 0;
    if (column < columns) {
        #pragma unroll 8
        for (Int i = ty; i < count; i += 16) total += parts[i * columns + column];
    }
    lanes[ty][tx] = total;
    __syncthreads();
    if (ty == 0 && column < columns) {
        for (int i = 1; i < 16; ++i) total += lanes[i][tx];
        const T* before = column < half ? before_first : before_second;
        Int at = column < half ? column : column - half;
        (column < half ? first : second)[at] = (T)(before ? before[at] + total : total);
    }
}
"""

_BLOCKS = 1056  # 8 for each multiprocessor of an H100


def column_sums(x: Array, onto: Sum | None = None) -> Array:
    """The sum over all axes but the last, (..., E) -> (E,): in float64, rounded once for a block of rows.

    Reads x once. With `onto` (E,) added, as a backward rule adds.
    """
    import cupy

    columns, char = x.shape[-1], x.dtype.char
    x, rows = contiguous(x), x.size // columns
    across = -(-columns // 64)
    share = max(-(-rows * across // _BLOCKS), 16)
    count = -(-rows // share)
    parts = cupy.empty((count, columns), x.dtype)
    kernel = "column_parts_4" if columns % 4 == 0 and x.data.ptr % 16 == 0 else "column_parts"
    function(_COLUMNS, kernel, char)((across, count), (256,), (x, parts, rows, columns, share))
    return column_totals(parts, onto)[0]


def column_totals(parts: Array, *onto: Sum | None) -> list[Array]:
    """The sums of the rows of `parts`, in float64: one array for each of `onto`, 1 or 2, which is added to it."""
    import cupy

    count, columns = parts.shape
    half = columns // len(onto)
    before = [None if there is None else contiguous(there.array) for there in onto]
    sums = [
        there.array if there is not None and there.own and array is there.array else cupy.empty(half, parts.dtype)
        for there, array in zip(onto, before)
    ]
    given = [0 if array is None else array for array in before]
    arguments: Sequence[Any] = (parts, given[0], given[-1], sums[0], sums[-1], count, columns, half)
    function(_COLUMNS, "column_totals", parts.dtype.char)((-(-columns // 16),), (256,), arguments)
    return sums
