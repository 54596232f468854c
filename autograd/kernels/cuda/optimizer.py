"""One kernel for the step of an optimizer over all parameters, which need not lie together.

New parameters and moments are written to one flat buffer each, of which the returned arrays are views. Traffic of Adam
and AdamW: reads of p, g and both moments, writes of p and the moments, 28 bytes a float32 parameter; LAMB writes and
reads the direction and reads p again, 40 bytes; a bound on the norm reads g once more, 4 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array
from ..fused import Chain
from .launch import TYPES, function

_CHUNK = 4096
_BLOCK = 256
_ALIGNED = 64  # elements: arrays in a flat buffer begin at multiples of 256 bytes, for cuBLAS

_SOURCE = """
#define CHUNK 4096
// chunks: (parameter, first element, length); addresses: (p, g, mean, square) of each parameter
#define TABLES const Int* chunks, const Int* addresses, const Int* places
#define EACH(j) for (Int j = begin + threadIdx.x; j < end; j += blockDim.x)
#define WHERE \\
    Int which = chunks[3 * blockIdx.x], begin = chunks[3 * blockIdx.x + 1], end = begin + chunks[3 * blockIdx.x + 2]; \\
    const T* p = (const T*)addresses[4 * which]; \\
    const T* g = (const T*)addresses[4 * which + 1]; \\
    Int place = places[which];

extern "C" __global__ void norms(TABLES, double* sums) {
    WHERE
    T total = 0;
    EACH(j) total += g[j] * g[j];
    total = block_sum(total);
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
    (void)p; (void)place;
}
extern "C" __global__ void bound(const double* sums, double* factor, Int count, double most) {
    __shared__ double lanes[256];
    double total = 0;
    for (Int i = threadIdx.x; i < count; i += 256) total += sums[i];
    lanes[threadIdx.x] = total;
    __syncthreads();
    for (int n = 128; n; n >>= 1) {
        if (threadIdx.x < n) lanes[threadIdx.x] += lanes[threadIdx.x + n];
        __syncthreads();
    }
    if (threadIdx.x == 0) { double norm = sqrt(lanes[0]); factor[0] = norm <= most ? 1.0 : most / norm; }
}
extern "C" __global__ void step(
    TABLES, const Int* flags, T* new_p, T* new_mean, T* new_square, const double* factor, double* sums,
    double rate, double before, double after, double b1, double b2, double of_mean, double of_gradient,
    double of_square, double eps, double eps_root
) {
    WHERE
    const T* mean = (const T*)addresses[4 * which + 2];
    const T* square = (const T*)addresses[4 * which + 3];
    T scale = factor ? (T)factor[0] : (T)1, sizes = 0, lengths = 0;
    T l2 = flags[which] & 1 ? (T)before : (T)0, decay = flags[which] & 2 ? (T)after : (T)0;
    #pragma unroll 4
    EACH(j) {
        T at = p[j], u = scale * g[j] + l2 * at;
        T m = (T)b1 * mean[j] + (T)(1 - b1) * u, v = (T)b2 * square[j] + (T)(1 - b2) * u * u;
        new_mean[place + j] = m;
        new_square[place + j] = v;
        u = ((T)of_mean * m + (T)of_gradient * u) / (sqrt((T)of_square * v + (T)eps_root) + (T)eps) + decay * at;
        new_p[place + j] = sums ? u : at - (T)rate * u;
        sizes += at * at;
        lengths += u * u;
    }
    if (sums) {
        block_sums(sizes, lengths);
        if (threadIdx.x == 0) { sums[2 * blockIdx.x] = sizes; sums[2 * blockIdx.x + 1] = lengths; }
    }
}
// one block of 32 threads a parameter: its ratio of norms
extern "C" __global__ void ratios(const double* sums, const Int* bounds, double* ratio, double least, double most) {
    double size = 0, length = 0;
    for (Int i = bounds[blockIdx.x] + threadIdx.x; i < bounds[blockIdx.x + 1]; i += 32) {
        size += sums[2 * i];
        length += sums[2 * i + 1];
    }
    for (int o = 16; o; o >>= 1) {
        size += __shfl_xor_sync(0xffffffffu, size, o);
        length += __shfl_xor_sync(0xffffffffu, length, o);
    }
    size = min(max(sqrt(size), least), most);
    length = sqrt(length);
    if (threadIdx.x == 0) ratio[blockIdx.x] = size == 0 || length == 0 ? 1.0 : size / length;
}
extern "C" __global__ void apply(TABLES, T* new_p, const double* ratio, double rate) {
    WHERE
    T scale = (T)rate * (T)ratio[which];
    EACH(j) new_p[place + j] = p[j] - scale * new_p[place + j];
    (void)g;
}
"""


class _Tables(NamedTuple):
    """What follows from the parameters' sizes alone, on the device but for `places`."""

    chunks: Any
    flags: Any
    first_chunks: Any
    places_there: Any
    places: tuple[int, ...]
    total: int
    """Elements of a flat buffer."""


@lru_cache(maxsize=8)
def _tables(sizes: tuple[int, ...], flags: tuple[int, ...], device: int) -> _Tables:
    import cupy

    places, chunks, first_chunks, total = [], [], [0], 0
    for i, size in enumerate(sizes):
        places.append(total)
        total += -(-size // _ALIGNED) * _ALIGNED
        chunks += [(i, start, min(_CHUNK, size - start)) for start in range(0, size, _CHUNK)]
        first_chunks.append(len(chunks))

    def there(table: Any) -> Any:
        return cupy.asarray(np.asarray(table, np.int64))

    return _Tables(there(chunks), there(flags), there(first_chunks), there(places), tuple(places), total)


def suits(given: Chain, leaves: Sequence[Sequence[Array]], counts: Sequence[int]) -> bool:
    """Whether the kernel is made for these (p, g, mean, square): one element type, in row-major order, not empty; and
    one count."""
    chars = {x.dtype.char for group in leaves for x in group}
    if len(chars) != 1 or not chars <= set(TYPES) or len(set(counts)) != 1:  # one launch has one count
        return False
    return all(x.size and x.flags.c_contiguous for group in leaves for x in group)


def step(
    given: Chain,
    leaves: Sequence[Sequence[Array]],
    flags: Sequence[int],
    *,
    counts: Sequence[int],
    rate: float,
    max_norm: float | None,
) -> list[tuple[Array, Array, Array]]:
    """New (p, mean, square) for each (p, g, mean, square) after its update number, from 1, in `counts`.

    `flags` are 1 where the decay before the moments is for a parameter, plus 2 where the one after them is.
    """
    import cupy

    first = leaves[0][0]
    char, double = first.dtype.char, np.float64
    tables = _tables(tuple(x[0].size for x in leaves), tuple(flags), cupy.cuda.runtime.getDevice())
    addresses = cupy.asarray(np.asarray([[x.data.ptr for x in group] for group in leaves], np.int64))
    blocks = len(tables.chunks)
    where = (tables.chunks, addresses, tables.places_there)
    factor: Any = 0
    if max_norm is not None:
        sums, factor = cupy.empty(blocks, double), cupy.empty(1, double)
        function(_SOURCE, "norms", char)((blocks,), (_BLOCK,), (*where, sums))
        function(_SOURCE, "bound", char)((1,), (256,), (sums, factor, blocks, float(max_norm)))
    flat = [cupy.empty(tables.total, first.dtype) for _ in range(3)]
    norms: Any = 0 if given.ratio is None else cupy.empty((blocks, 2), double)
    arguments = (*where, tables.flags, *flat, factor, norms, float(rate), *_factors(given, counts[0]))
    function(_SOURCE, "step", char)((blocks,), (_BLOCK,), arguments)
    if given.ratio is not None:
        ratio = cupy.empty(len(leaves), double)
        bounds = (float(given.ratio["least"]), float(given.ratio["most"]))
        function(_SOURCE, "ratios", char)((len(leaves),), (32,), (norms, tables.first_chunks, ratio, *bounds))
        function(_SOURCE, "apply", char)((blocks,), (_BLOCK,), (*where, flat[0], ratio, float(rate)))
    new = []
    for place, (p, *_) in zip(tables.places, leaves):
        views = [x[place : place + p.size].reshape(p.shape) for x in flat]
        new.append((views[0], views[1], views[2]))
    return new


def _factors(given: Chain, count: int) -> tuple[float, ...]:
    """The numbers of `step` after the rate: see `optim.parts.adaptive` for the equations."""
    a = given.adaptive
    b1, b2 = float(a["b1"]), float(a["b2"])
    first, following, second = (1 - b1**count, 1 - b1 ** (count + 1), 1 - b2**count)
    if not a["bias_correction"]:
        first = following = second = 1.0
    of_mean, of_gradient = (b1 / following, (1 - b1) / first) if a["nesterov"] else (1 / first, 0.0)
    before, after = (0.0 if x is None else float(x["weight_decay"]) for x in (given.before, given.after))
    return before, after, b1, b2, of_mean, of_gradient, 1 / second, float(a["eps"]), float(a["eps_root"])
