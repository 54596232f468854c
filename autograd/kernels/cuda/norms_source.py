"""The kernels of layer and root-mean-square normalisation, for rows that a block keeps in registers."""

from __future__ import annotations

SOURCE = """
__device__ __forceinline__ T sum_of(const Four& x) { return (x.a + x.b) + (x.c + x.d); }
__device__ __forceinline__ T dot(const Four& x, const Four& y) {
    return (x.a * y.a + x.b * y.b) + (x.c * y.c + x.d * y.d);
}
__device__ __forceinline__ Four plus(const Four& x, T y) { return Four{x.a + y, x.b + y, x.c + y, x.d + y}; }
__device__ __forceinline__ Four times(const Four& x, T y) { return Four{x.a * y, x.b * y, x.c * y, x.d * y}; }
__device__ __forceinline__ Four mapped(const Four& x, const Four& y, const Four& z) {
    return Four{fma(x.a, y.a, z.a), fma(x.b, y.b, z.b), fma(x.c, y.c, z.c), fma(x.d, y.d, z.d)};
}
ROW_KERNEL forward(
    const T* x, const T* scale, const T* offset, T* y, T* unit, T* inverse, Int width, double eps, Int centred
) {
    Int row = blockIdx.x, start = row * width;
    T values[ITEMS], total = 0, squares = 0;
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        int j = threadIdx.x + i * blockDim.x;
        values[i] = j < width ? x[start + j] : (T)0;
        total += values[i];
    }
    T mean = centred ? block_sum(total) / (T)width : (T)0;
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        values[i] -= mean;
        if (threadIdx.x + i * blockDim.x < width) squares += values[i] * values[i];
    }
    T r = (T)1 / sqrt(block_sum(squares) / (T)width + (T)eps);
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        int j = threadIdx.x + i * blockDim.x;
        if (j < width) {
            T u = values[i] * r;
            if (unit) unit[start + j] = u;
            y[start + j] = fma(u, scale[j], offset ? offset[j] : (T)0);  // rounded once, whether `unit` is kept or not
        }
    }
    if (inverse && threadIdx.x == 0) inverse[row] = r;
}
// The same for rows of a multiple of 4 at multiples of 16 bytes: two fours a thread.
ROW_KERNEL forward_4(
    const Four* x, const Four* scale, const Four* offset, Four* y, Four* unit, T* inverse,
    Int width, double eps, Int centred
) {
    int fours = width / 4, first = threadIdx.x, second = threadIdx.x + blockDim.x;
    Int start = (Int)blockIdx.x * fours;
    bool one = first < fours, two = second < fours;
    Four zero = {0, 0, 0, 0}, a = one ? x[start + first] : zero, b = two ? x[start + second] : zero;
    Four scales[2] = {one ? scale[first] : zero, two ? scale[second] : zero}, offsets[2] = {zero, zero};
    if (offset) {
        if (one) offsets[0] = offset[first];
        if (two) offsets[1] = offset[second];
    }
    T mean = centred ? block_sum(sum_of(a) + sum_of(b)) / (T)width : (T)0;
    if (one) a = plus(a, -mean);
    if (two) b = plus(b, -mean);
    T r = (T)1 / sqrt(block_sum(dot(a, a) + dot(b, b)) / (T)width + (T)eps);
    a = times(a, r);
    b = times(b, r);
    if (one) {
        if (unit) unit[start + first] = a;
        y[start + first] = mapped(a, scales[0], offsets[0]);
    }
    if (two) {
        if (unit) unit[start + second] = b;
        y[start + second] = mapped(b, scales[1], offsets[1]);
    }
    if (inverse && threadIdx.x == 0) inverse[blockIdx.x] = r;
}
ROW_KERNEL affine_4(const Four* unit, const Four* scale, const Four* offset, Four* y, Int width) {
    int fours = width / 4;
    Int start = (Int)blockIdx.x * fours;
    for (int j = threadIdx.x; j < fours; j += blockDim.x)
        y[start + j] = mapped(unit[start + j], scale[j], offset ? offset[j] : Four{0, 0, 0, 0});
}
ROW_KERNEL affine(const T* unit, const T* scale, const T* offset, T* y, Int width) {
    Int start = (Int)blockIdx.x * width;
    for (int j = threadIdx.x; j < width; j += blockDim.x)
        y[start + j] = fma(unit[start + j], scale[j], offset ? offset[j] : (T)0);
}
// Of float, registers are left for 1024 threads of a multiprocessor.
extern "C" __global__ __launch_bounds__(512, sizeof(T) == 4 ? 2 : 1) void backward_4(
    const Four* g, const Four* unit, const T* inverse, const Four* scale, const Four* before, Four* dx, Four* parts,
    Int rows, Int width, Int centred
) {
    int fours = width / 4, places[2] = {(int)threadIdx.x, (int)(threadIdx.x + blockDim.x)};
    bool in[2] = {places[0] < fours, places[1] < fours};
    Four zero = {0, 0, 0, 0}, weight[2], of_scale[2] = {zero, zero}, of_offset[2] = {zero, zero};
    #pragma unroll
    for (int i = 0; i < 2; ++i) weight[i] = in[i] ? scale[places[i]] : zero;
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        Int start = (Int)row * fours;
        Four gs[2], us[2], there[2];
        T a = 0, b = 0, r = dx ? inverse[row] : (T)0;
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            gs[i] = in[i] ? g[start + places[i]] : zero;
            us[i] = in[i] ? unit[start + places[i]] : zero;
            there[i] = before && in[i] ? before[start + places[i]] : zero;
        }
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            of_scale[i] = mapped(gs[i], us[i], of_scale[i]);
            of_offset[i] = mapped(gs[i], Four{1, 1, 1, 1}, of_offset[i]);
            gs[i] = mapped(gs[i], weight[i], zero);
            a += sum_of(gs[i]);
            b += dot(gs[i], us[i]);
        }
        if (dx) {
            block_sums(a, b);
            a = centred ? a / (T)width : (T)0;
            b /= -(T)width;
            #pragma unroll
            for (int i = 0; i < 2; ++i) {
                gs[i] = mapped(us[i], Four{b, b, b, b}, plus(gs[i], -a));
                if (in[i]) dx[start + places[i]] = mapped(gs[i], Four{r, r, r, r}, there[i]);
            }
        }
    }
    if (parts) {
        Four* mine = parts + (Int)blockIdx.x * (centred ? 2 : 1) * fours;
        #pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (in[i]) {
                mine[places[i]] = of_scale[i];
                if (centred) mine[fours + places[i]] = of_offset[i];
            }
        }
    }
}
ROW_KERNEL backward(
    const T* g, const T* unit, const T* inverse, const T* scale, const T* before, T* dx, T* parts,
    Int rows, Int width, Int centred
) {
    T weight[ITEMS], of_scale[ITEMS], of_offset[ITEMS];
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        int j = threadIdx.x + i * blockDim.x;
        weight[i] = j < width ? scale[j] : (T)0;
        of_scale[i] = of_offset[i] = 0;
    }
    for (Int row = blockIdx.x; row < rows; row += gridDim.x) {
        Int start = row * width;
        T gs[ITEMS], us[ITEMS], there[ITEMS], a = 0, b = 0;
        #pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            int j = threadIdx.x + i * blockDim.x;
            gs[i] = j < width ? g[start + j] : (T)0;
            us[i] = j < width ? unit[start + j] : (T)0;
            there[i] = before && j < width ? before[start + j] : (T)0;
        }
        #pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            of_scale[i] += gs[i] * us[i];
            of_offset[i] += gs[i];
            gs[i] *= weight[i];
            a += gs[i];
            b += gs[i] * us[i];
        }
        if (dx) {
            block_sums(a, b);
            a = centred ? a / (T)width : (T)0;
            b /= (T)width;
            T r = inverse[row];
            #pragma unroll
            for (int i = 0; i < ITEMS; ++i) {
                int j = threadIdx.x + i * blockDim.x;
                if (j < width) dx[start + j] = r * (gs[i] - a - us[i] * b) + there[i];
            }
        }
    }
    if (parts) {
        T* mine = parts + (Int)blockIdx.x * (centred ? 2 : 1) * width;
        #pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            int j = threadIdx.x + i * blockDim.x;
            if (j < width) {
                mine[j] = of_scale[i];
                if (centred) mine[width + j] = of_offset[i];
            }
        }
    }
}
"""
