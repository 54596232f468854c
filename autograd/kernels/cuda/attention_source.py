"""The kernels between attention's products: scores to weights, and back.

`weights` and `weights_back` take any rows, one block each. Rows without a mask or bias, of a multiple of 4 keys, are
read and written four elements at a time: by `weights_1`, `_2` and `_4` one warp a row of up to 128, 256 and 512 keys,
by `weights_block` one block a row of up to 4096, by `weights_long` one block a longer row; `weights_back_...` likewise.
"""

from __future__ import annotations

from typing import Any

from .launch import LONGEST, THREADS, function, threads_of_row

_WARPS = 4  # rows of a block, of those that a warp has
_OF_WARP = {128: "1", 256: "2", 512: "4"}  # keys -> fours that a thread holds


class Kernel:
    """A kernel of rows for so many keys, ready to launch on them: (elements at their start, ..., uniform)."""

    def __init__(self, name: str, char: str, keys: int, *, plain: bool) -> None:
        """`name`: "weights" or "weights_back"; `plain`: without a mask or bias."""
        self.of_block, self.threads = 1, threads_of_row(keys)
        self.plain = plain and keys % 4 == 0
        if self.plain:
            kind = next((kind for most, kind in _OF_WARP.items() if keys <= most), "")
            if kind:
                self.of_block, self.threads = _WARPS, 32 * _WARPS
            elif keys <= LONGEST:
                kind, self.threads = "block", -(-keys // (32 * 16)) * 32
            else:
                kind, self.threads = "long", THREADS
            name = f"{name}_{kind}"
        self._launch = function(SOURCE, name, char)

    def __call__(self, count: int, arrays: tuple[Any, ...], extras: tuple[int, ...], sizes: tuple[int, ...]) -> None:
        """`count` rows. `extras`: of mask and bias; `sizes`: rows of a head, keys, first head, first query, queries,
        what becomes of rows without a key."""
        told = (count,) if self.plain else extras
        self._launch((-(-count // self.of_block),), (self.threads,), (*arrays, *told, *sizes))


SOURCE = """
// Row blockIdx.x of a group of scores: matrix i of the batch, query n of all.
struct Row {
    Int i, n;
    const bool* mask;
    const T* bias;
    Int mask_step, bias_step;
    __device__ Row(const bool* const* masks, Int mask_row, Int mask_step, const T* const* biases, Int bias_row,
                   Int bias_step, Int rows, Int first, Int start) : mask_step(mask_step), bias_step(bias_step) {
        i = first + blockIdx.x / (unsigned)rows;
        n = start + blockIdx.x % (unsigned)rows;
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

// scores -> weights p, and gradients of the weights -> gradients of the scores, p (gradient - sum of p gradient).
// `inners`: those sums, for rows longer than registers hold.
ROW_KERNEL weights_back(
    T* scores, T* gradients, const T* log_sum, const T* inners, MASKS, BIASES,
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
        inner = inners[row.i * queries + row.n];
        #pragma unroll 4
        for (Int j = threadIdx.x; j < keys; j += blockDim.x) {
            T p = exp((replaced ? (T)0 : row.score(s[j], j)) - logs);
            s[j] = p;
            g[j] = row.open(j) || (replaced && uniform == 2) ? p * (g[j] - inner) : (T)0;
        }
    }
}

// Row `index` of a group, of rows without mask and bias: where its sums are.
__device__ __forceinline__ Int place(unsigned index, Int rows, Int first, Int start, Int queries) {
    return (first + index / (unsigned)rows) * queries + start + index % (unsigned)rows;
}
// The maximum and the sum of exponentials of a row, of those of warps; each warp's own go out of scale by `factor`.
__device__ __forceinline__ void whole_row(T& top, T& total, T& factor) {
    __shared__ T tops[32], totals[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    factor = 1;
    if (warps == 1) return;
    if (lane == 0) { tops[warp] = top; totals[warp] = total; }
    __syncthreads();
    T one = lane < warps ? tops[lane] : -INFINITE, sum = lane < warps ? totals[lane] : (T)0, mine = top;
    top = warp_max(one);
    T safe = top == -INFINITE ? (T)0 : top;
    total = warp_sum(one == -INFINITE ? sum : sum * exp(one - safe));
    factor = mine == -INFINITE ? (T)1 : exp(mine - safe);
}
#define PLACES Int count, Int rows, Int keys, Int first, Int start, Int queries, Int uniform

template <int COUNT, bool WARP>
__device__ __forceinline__ void plain(T* scores, T* log_sum, PLACES) {
    unsigned index = WARP ? blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5) : blockIdx.x;
    if (index >= (unsigned)count) return;  // a whole warp, where blocks have more than one row
    unsigned at = WARP ? threadIdx.x & 31 : threadIdx.x, step = WARP ? 32 : blockDim.x, fours = (unsigned)keys / 4;
    Four* s = (Four*)(scores + index * keys);
    Four x[COUNT];
    T top = -INFINITE, total = 0, factor = 1;
    #pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        if (at + i * step < fours) x[i] = s[at + i * step];
        else x[i].a = x[i].b = x[i].c = x[i].d = -INFINITE;
    }
    #pragma unroll
    for (int i = 0; i < COUNT; ++i) top = max(top, max(max(x[i].a, x[i].b), max(x[i].c, x[i].d)));
    top = warp_max(top);
    T safe = top == -INFINITE ? (T)0 : top;
    #pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        x[i] = Four{exp(x[i].a - safe), exp(x[i].b - safe), exp(x[i].c - safe), exp(x[i].d - safe)};
        total += (x[i].a + x[i].b) + (x[i].c + x[i].d);
    }
    total = warp_sum(total);
    if (!WARP) whole_row(top, total, factor);
    factor *= total == 0 ? (T)1 : (T)1 / total;
    #pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (at + i * step < fours)
            s[at + i * step] = Four{x[i].a * factor, x[i].b * factor, x[i].c * factor, x[i].d * factor};
    if (at == 0)
        log_sum[place(index, rows, first, start, queries)] =
            total == 0 ? INFINITE : (top == -INFINITE ? (T)0 : top) + log(total);
}
ROW_KERNEL weights_1(T* scores, T* log_sum, PLACES) {
    plain<1, true>(scores, log_sum, count, rows, keys, first, start, queries, uniform);
}
ROW_KERNEL weights_2(T* scores, T* log_sum, PLACES) {
    plain<2, true>(scores, log_sum, count, rows, keys, first, start, queries, uniform);
}
ROW_KERNEL weights_4(T* scores, T* log_sum, PLACES) {
    plain<4, true>(scores, log_sum, count, rows, keys, first, start, queries, uniform);
}
ROW_KERNEL weights_block(T* scores, T* log_sum, PLACES) {
    plain<4, false>(scores, log_sum, count, rows, keys, first, start, queries, uniform);
}
ROW_KERNEL weights_long(T* scores, T* log_sum, PLACES) {
    unsigned fours = (unsigned)keys / 4;
    Four* s = (Four*)(scores + blockIdx.x * keys);
    T top = -INFINITE, total = 0, factor;
    #pragma unroll 4
    for (unsigned j = threadIdx.x; j < fours; j += blockDim.x) {
        Four x = s[j];
        T most = max(max(x.a, x.b), max(x.c, x.d));
        if (most > top) {
            total *= exp(top - most);
            top = most;
        }
        T safe = top == -INFINITE ? (T)0 : top;
        total += (exp(x.a - safe) + exp(x.b - safe)) + (exp(x.c - safe) + exp(x.d - safe));
    }
    T mine = top;
    top = warp_max(top);
    total = warp_sum(mine == -INFINITE ? total : total * exp(mine - top));
    whole_row(top, total, factor);
    T safe = top == -INFINITE ? (T)0 : top, inverse = total == 0 ? (T)1 : (T)1 / total;
    for (unsigned j = threadIdx.x; j < fours; j += blockDim.x) {
        Four x = s[j];
        s[j] = Four{exp(x.a - safe) * inverse, exp(x.b - safe) * inverse,
                    exp(x.c - safe) * inverse, exp(x.d - safe) * inverse};
    }
    if (threadIdx.x == 0)
        log_sum[place(blockIdx.x, rows, first, start, queries)] = total == 0 ? INFINITE : safe + log(total);
}

__device__ __forceinline__ Four weighted(const Four& p, const Four& g, T inner) {
    return Four{p.a * (g.a - inner), p.b * (g.b - inner), p.c * (g.c - inner), p.d * (g.d - inner)};
}
template <int COUNT, bool WARP>
__device__ __forceinline__ void plain_back(T* scores, T* gradients, const T* log_sum, PLACES) {
    unsigned index = WARP ? blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5) : blockIdx.x;
    if (index >= (unsigned)count) return;
    unsigned at = WARP ? threadIdx.x & 31 : threadIdx.x, step = WARP ? 32 : blockDim.x, fours = (unsigned)keys / 4;
    Four* s = (Four*)(scores + index * keys);
    Four* g = (Four*)(gradients + index * keys);
    Four p[COUNT], of_p[COUNT];
    T logs = log_sum[place(index, rows, first, start, queries)], inner = 0;
    #pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        p[i].a = p[i].b = p[i].c = p[i].d = -INFINITE;
        of_p[i].a = of_p[i].b = of_p[i].c = of_p[i].d = 0;
        if (at + i * step < fours) {
            p[i] = s[at + i * step];
            of_p[i] = g[at + i * step];
        }
    }
    #pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        p[i] = Four{exp(p[i].a - logs), exp(p[i].b - logs), exp(p[i].c - logs), exp(p[i].d - logs)};
        if (at + i * step < fours)
            inner += (p[i].a * of_p[i].a + p[i].b * of_p[i].b) + (p[i].c * of_p[i].c + p[i].d * of_p[i].d);
    }
    inner = WARP ? warp_sum(inner) : block_sum(inner);
    #pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        if (at + i * step < fours) {
            s[at + i * step] = p[i];
            g[at + i * step] = weighted(p[i], of_p[i], inner);
        }
    }
}
#define BACK T* scores, T* gradients, const T* log_sum, const T* inners, PLACES
ROW_KERNEL weights_back_1(BACK) {
    plain_back<1, true>(scores, gradients, log_sum, count, rows, keys, first, start, queries, uniform);
}
ROW_KERNEL weights_back_2(BACK) {
    plain_back<2, true>(scores, gradients, log_sum, count, rows, keys, first, start, queries, uniform);
}
ROW_KERNEL weights_back_4(BACK) {
    plain_back<4, true>(scores, gradients, log_sum, count, rows, keys, first, start, queries, uniform);
}
ROW_KERNEL weights_back_block(BACK) {
    plain_back<4, false>(scores, gradients, log_sum, count, rows, keys, first, start, queries, uniform);
}
ROW_KERNEL weights_back_long(BACK) {
    Int at = place(blockIdx.x, rows, first, start, queries);
    T logs = log_sum[at], inner = inners[at];
    Four* s = (Four*)(scores + blockIdx.x * keys);
    Four* g = (Four*)(gradients + blockIdx.x * keys);
    unsigned fours = (unsigned)keys / 4;
    for (unsigned j = threadIdx.x; j < fours; j += blockDim.x) {
        Four x = s[j], of_p = g[j];
        Four p = Four{exp(x.a - logs), exp(x.b - logs), exp(x.c - logs), exp(x.d - logs)};
        s[j] = p;
        g[j] = weighted(p, of_p, inner);
    }
}
"""
