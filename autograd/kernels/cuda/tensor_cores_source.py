"""The kernels of `tensor_cores`, in CUDA C++ for Hopper.

`tensor_cores.source` puts the lengths of a tile (BM, BN), the parts in shared memory at a time (STAGES), the layouts
(XK, YK: products lie side by side in x, in y) and the numbers of a load (VX, VY: 4 or 1) before it, and the operands of
the instruction for that width in place of COLUMNS, OUTPUTS, OPERANDS and %WIDTH.
"""

from __future__ import annotations

SOURCE = """
typedef long long Int;
__device__ __forceinline__ bool finite(float x) { return fabsf(x) <= 3.402823466e38f; }
__device__ __forceinline__ void split(float x, unsigned& big, unsigned& small) {
    big = (__float_as_uint(x) + 0x1000u) & 0xffffe000u;
    small = __float_as_uint(x - __uint_as_float(big));  // the tensor core cuts it
}
__device__ __noinline__ float plainly(const float* x, const float* y, Int i, Int j, Int k, Int ldx, Int ldy) {
    float total = 0;
    for (Int l = 0; l < k; ++l)
        total = fmaf(x[XK ? i * ldx + l : l * ldx + i], y[YK ? j * ldy + l : l * ldy + j], total);
    return total;
}

struct Call {  // out (n, m) = alpha x (n, k) y (k, m) + bias + beta out, for a batch; `share` products a block
    Int x, y, out, x_step, y_step, out_step, listed, n, m, k, ldx, ldy, ldo;
    double alpha, beta;
    Int onto;  // what beta is for: laid out as out, and listed with it
    const float* bias;
    Int count, shares, share;
    float* parts;
    __device__ __forceinline__ float* at(Int base, Int step, Int i) const {
        return listed ? ((float* const*)base)[i] : (float*)(base + i * step);
    }
};
#define CALL Int x_, Int y_, Int out_, Int x_step, Int y_step, Int out_step, Int listed, Int n_, Int m_, Int k_, \\
    Int ldx_, Int ldy_, Int ldo_, double alpha, double beta, Int onto, const float* bias, Int count, Int shares, \\
    Int share, float* parts
#define THE_CALL {x_, y_, out_, x_step, y_step, out_step, listed, n_, m_, k_, ldx_, ldy_, ldo_, alpha, beta, onto, \\
    bias, count, shares, share, parts}

struct Block {  // which tile of which matrices, and which of their products
    const float *x, *y;
    Int which, k0, k1;
    int row0, column0, rows, columns;
    __device__ __forceinline__ Block(const Call& c) {
        const int down = (int)((c.n + BM - 1) / BM), across = (int)((c.m + BN - 1) / BN), tiles = down * across;
        which = blockIdx.x / tiles;
        int at = blockIdx.x % tiles;
        // eight rows of tiles at a time, so that what is read again is in the cache
        const int group = at / (8 * across), high = min(8, down - group * 8);
        at -= group * 8 * across;
        row0 = (group * 8 + at % high) * BM;
        column0 = at / high * BN;
        rows = (int)min((Int)BM, c.n - row0);
        columns = (int)min((Int)BN, c.m - column0);
        x = c.at(c.x, c.x_step, which);
        y = c.at(c.y, c.y_step, which);
        k0 = blockIdx.y * c.share;
        k1 = min(c.k, k0 + c.share);
    }
};
// two elements of a row, or the first alone where the second is beyond the matrix
__device__ __forceinline__ void store(const Call& c, const Block& b, int row, int column, float2 v) {
    if (row >= b.rows || column >= b.columns) return;
    const bool both = column + 1 < b.columns, whole = c.shares == 1;
    const Int i = b.row0 + row, j = b.column0 + column, ld = whole ? c.ldo : c.m;
    float* place = (whole ? c.at(c.out, c.out_step, b.which)
                          : c.parts + ((Int)blockIdx.y * c.count + b.which) * c.n * c.m) + i * ld + j;
    if (whole) {
        if (!finite(v.x)) v.x = plainly(b.x, b.y, i, j, c.k, c.ldx, c.ldy);
        if (both && !finite(v.y)) v.y = plainly(b.x, b.y, i, j + 1, c.k, c.ldx, c.ldy);
        v.x *= (float)c.alpha;
        v.y *= (float)c.alpha;
        if (c.beta != 0) {
            const float* before = c.at(c.onto, c.out_step, b.which) + i * ld + j;
            v.x += (float)c.beta * before[0];
            if (both) v.y += (float)c.beta * before[1];
        }
        if (c.bias) {
            v.x += c.bias[j];
            if (both) v.y += c.bias[j + 1];
        }
    }
    if (both && ((Int)place & 7) == 0) *(float2*)place = v;
    else {
        place[0] = v.x;
        if (both) place[1] = v.y;
    }
}

// the sum of the shares' parts
extern "C" __global__ void together(CALL) {
    const Call c = THE_CALL;
    const Int size = c.count * c.n * c.m;
    for (Int at = (Int)blockIdx.x * blockDim.x + threadIdx.x; at < size; at += (Int)gridDim.x * blockDim.x) {
        float sum = 0;
        #pragma unroll 4
        for (Int s = 0; s < c.shares; ++s) sum += c.parts[s * size + at];
        const Int column = at % c.m, row = at / c.m % c.n, which = at / c.m / c.n;
        if (!finite(sum))
            sum = plainly(c.at(c.x, c.x_step, which), c.at(c.y, c.y_step, which), row, column, c.k, c.ldx, c.ldy);
        float* place = c.at(c.out, c.out_step, which) + row * c.ldo + column;
        sum *= (float)c.alpha;
        if (c.beta != 0) sum += (float)c.beta * c.at(c.onto, c.out_step, which)[row * c.ldo + column];
        *place = c.bias ? sum + c.bias[column] : sum;
    }
}

// Two groups of four warps multiply 64 rows each, x in registers; a third splits y into the two parts in shared memory.
#define BK 32
#define PART (BN * 128)  // bytes of a part of y: rows of 32 numbers
#define EACH (BN / 16)   // times 4 numbers of y for each thread that splits

__device__ __forceinline__ void barrier_make(unsigned barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}
__device__ __forceinline__ void arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void await(unsigned barrier, int parity) {
    unsigned done;
    do {
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
            : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    } while (!done);
}
// rows of 128 bytes, whose pieces of 16 are exchanged by the row
__device__ __forceinline__ unsigned long long described(unsigned address) {
    return (unsigned long long)((address & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
__device__ __forceinline__ void
multiply(float (&d)[BN / 2], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned long long b, int more) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %WIDTH5, 0;"
        "wgmma.mma_async.sync.aligned.m64nCOLUMNSk8.f32.tf32.tf32 {OUTPUTS}, "
        "{%WIDTH0, %WIDTH1, %WIDTH2, %WIDTH3}, %WIDTH4, p, 1, 1;}"
        : OPERANDS : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(more));
}
// four numbers of a row, of which `left` exist; zeros for the others
template <int V> __device__ __forceinline__ float4 four(const float* from, int left) {
    float4 v = {0, 0, 0, 0};
    if (V == 4 && left >= 4) return *(const float4*)from;
    if (left > 0) v.x = from[0];
    if (left > 1) v.y = from[1];
    if (left > 2) v.z = from[2];
    if (left > 3) v.w = from[3];
    return v;
}

extern "C" __global__ __launch_bounds__(384, 1) void product(CALL) {
    extern __shared__ __align__(1024) unsigned char memory[];
    __shared__ __align__(8) unsigned long long barriers[2 * STAGES];
    const unsigned base = (unsigned)__cvta_generic_to_shared(memory);
    const unsigned full = (unsigned)__cvta_generic_to_shared(barriers), empty = full + 8 * STAGES;
    const Call call = THE_CALL;
    const Block here(call);
    const Int ldx = call.ldx, ldy = call.ldy, k0 = here.k0, k1 = here.k1;
    const int blocks = (int)((k1 - k0 + BK - 1) / BK);
    const int rows = here.rows, columns = here.columns;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;

    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            barrier_make(full + 8 * s, 128);
            barrier_make(empty + 8 * s, 8);
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();

    // The products of a block of 32 may be in any order, the same for x and y: number 16 q + 4 t + e is at
    // 16 q + 4 e + t, so that a thread's four numbers of x lie side by side.
    if (warp >= 8) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 88;");
        const int w = warp - 8;
        float4 raw[EACH];
        auto load = [&](int block, int i) {
            const Int at = k0 + (Int)block * BK;
            const int left = (int)min((Int)BK, k1 - at);
            if (YK) {  // a row of y^T, four numbers of it
                const int row = i * 16 + w * 4 + (lane >> 3), l = (lane & 7) * 4;
                raw[i] = four<VY>(here.y + (here.column0 + row) * ldy + at + l, row < columns ? left - l : 0);
            } else {  // four columns of y
                const int l = (i & 1) * 16 + (lane >> 1), column = ((i >> 1) * 4 + w) * 8 + (lane & 1) * 4;
                raw[i] = four<VY>(here.y + (at + l) * ldy + here.column0 + column, l < left ? columns - column : 0);
            }
        };
        #pragma unroll
        for (int i = 0; i < EACH; ++i) load(0, i);
        for (int block = 0; block < blocks; ++block) {
            const int stage = block % STAGES;
            await(empty + 8 * stage, (block / STAGES & 1) ^ 1);
            const unsigned to = base + stage * 2 * PART;
            #pragma unroll
            for (int i = 0; i < EACH; ++i) {
                const float numbers[4] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
                #pragma unroll
                for (int e = 0; e < 4; ++e) {
                    int row, piece, within;
                    if (YK) {
                        row = i * 16 + w * 4 + (lane >> 3);
                        piece = (lane & 4) + e;
                        within = lane & 3;
                    } else {
                        row = ((i >> 1) * 4 + w) * 8 + (lane & 1) * 4 + e;
                        piece = (i & 1) * 4 + (lane >> 1 & 3);
                        within = lane >> 3;
                    }
                    unsigned big, small;
                    split(numbers[e], big, small);
                    const unsigned place = to + row * 128 + ((piece ^ (row & 7)) << 4) + within * 4;
                    asm volatile("st.shared.b32 [%0], %1;" ::"r"(place), "r"(big) : "memory");
                    asm volatile("st.shared.b32 [%0], %1;" ::"r"(place + PART), "r"(small) : "memory");
                }
            }
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            arrive(full + 8 * stage);
            if (block + 1 < blocks) {  // after the parts: 8 % faster than between them
                #pragma unroll
                for (int i = 0; i < EACH; ++i) load(block + 1, i);
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
        const int row = warp * 16 + g;
        float raw[2][2][4];  // half of the block, row or row + 8, number
        auto load = [&](int block) {
            const Int at = k0 + (Int)block * BK;
            const int left = (int)min((Int)BK, k1 - at);
            #pragma unroll
            for (int q = 0; q < 2; ++q)
                #pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const int r = row + h * 8, l = q * 16 + t * 4;
                    if (XK) {
                        float4 v = four<VX>(here.x + (here.row0 + r) * ldx + at + l, r < rows ? left - l : 0);
                        raw[q][h][0] = v.x, raw[q][h][1] = v.y, raw[q][h][2] = v.z, raw[q][h][3] = v.w;
                    } else {
                        #pragma unroll
                        for (int e = 0; e < 4; ++e)
                            raw[q][h][e] = l + e < left && r < rows ? here.x[(at + l + e) * ldx + here.row0 + r] : 0.f;
                    }
                }
        };
        float total[BN / 2] = {}, part[BN / 2] = {};
        load(0);
        for (int block = 0; block < blocks; ++block) {
            unsigned big[4][4], small[4][4];  // step of 8, operand
            #pragma unroll
            for (int s = 0; s < 4; ++s)
                #pragma unroll
                for (int o = 0; o < 4; ++o)
                    split(raw[s >> 1][o & 1][(s & 1) * 2 + (o >> 1)], big[s][o], small[s][o]);
            if (block + 1 < blocks) load(block + 1);
            const int stage = block % STAGES;
            await(full + 8 * stage, block / STAGES & 1);
            const unsigned long long y1 = described(base + stage * 2 * PART), y2 = y1 + PART / 16;
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            #pragma unroll
            for (int s = 0; s < 4; ++s)
                multiply(part, small[s][0], small[s][1], small[s][2], small[s][3], y1 + 2 * s, s);
            #pragma unroll
            for (int s = 0; s < 4; ++s) multiply(part, big[s][0], big[s][1], big[s][2], big[s][3], y2 + 2 * s, 1);
            #pragma unroll
            for (int s = 0; s < 4; ++s) multiply(part, big[s][0], big[s][1], big[s][2], big[s][3], y1 + 2 * s, 1);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            #pragma unroll
            for (int i = 0; i < BN / 2; ++i) asm volatile("" : "+f"(part[i])::"memory");  // read no sooner
            if (lane == 0) arrive(empty + 8 * stage);
            #pragma unroll
            for (int i = 0; i < BN / 2; ++i) total[i] += part[i];
        }
        #pragma unroll
        for (int j = 0; j < BN / 8; ++j)
            #pragma unroll
            for (int h = 0; h < 2; ++h)
                store(call, here, row + h * 8, j * 8 + t * 2, {total[j * 4 + h * 2], total[j * 4 + h * 2 + 1]});
    }
}
"""
