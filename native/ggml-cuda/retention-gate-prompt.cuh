// retention-gate-prompt.cuh - a product of gates for many tokens, on matrix units
//
// A block has 32 tokens and 64 rows of the weights, and takes 64 or 128 numbers of each at a time; the next ones are on their way
// meanwhile. There are hardly more blocks than multiprocessors, so what is on its way has to be much. Numbers are multiplied as
// bf16, whose range is that of f32: inputs, f16 and f32 weights as a head and a tail, which have 16 bits together; those of q8_0 as
// their whole numbers, whose sum over a block of 32 is then scaled. Bias and function follow in the same kernel.

#pragma once

#include "retention-cells.cuh"
#include "retention-gate.cuh"

namespace retention {

template <ggml_type T>
struct dense_prompt {
    static constexpr int WARPS  = 4;
    static constexpr int TOKENS = 32;
    static constexpr int ROWS   = 16*WARPS; // of the weights
    static constexpr int STEP   = T == GGML_TYPE_Q8_0 ? 128 : 64; // numbers at a time
    static constexpr int N_RUNS = STEP/8;   // of a row
    static constexpr int X_RUNS = TOKENS*N_RUNS/(WARPS*LANES); // of a thread
    static constexpr int W_RUNS = ROWS*N_RUNS/(WARPS*LANES);

    static constexpr int W_PARTS = T == GGML_TYPE_Q8_0 ? 1 : 2;

    // bytes from row to row in shared memory: a quarter warp reads 64 bytes of two rows 4 apart, from different banks
    static constexpr int PITCH = 2*STEP + 16;

    struct numbers {
        char  x[2][TOKENS*PITCH];
        char  w[W_PARTS][ROWS*PITCH];
        float scale[ROWS][STEP/32]; // of q8_0
    };

    // row of a block of 8 that is number i of a product's 8
    static __device__ __forceinline__ int row_of_8(int i) {
        return i/2 + i%2*4;
    }

    // 8 numbers as they come from memory: f32 in both, f16 in the first, q8_0 as bytes and the scale
    struct run {
        uint4 a;
        uint4 b;
    };

    static __device__ __forceinline__ run load_x(const dense_args & args, const dense_layer & layer, int token, int i0) {
        run res = { make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0) };
        if (token < args.n_tokens && i0 < args.n_in) {
            const uint4 * from = (const uint4 *) (layer.x + token*layer.x_row + i0);
            res = { from[0], from[1] };
        }
        return res;
    }

    static __device__ __forceinline__ run load_w(const dense_args & args, const dense_layer & layer, int row, int i0) {
        run res = { make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0) };
        if (row < layer.n_out && i0 < args.n_in) {
            const char * from = layer.w + row*args.w_row;
            if constexpr (T == GGML_TYPE_F32) {
                const uint4 * at = (const uint4 *) (from + 4*i0);
                res = { at[0], at[1] };
            } else if constexpr (T == GGML_TYPE_F16) {
                res.a = *(const uint4 *) (from + 2*i0);
            } else {
                static_assert(T == GGML_TYPE_Q8_0, "no reader for this type");
                uint32_t bytes[2];
                load_q8_bytes(from, i0, bytes);
                res.a = make_uint4(bytes[0], bytes[1], load_q8_scale(from, i0), 0);
            }
        }
        return res;
    }

    static __device__ __forceinline__ void store_f32(const run & from, char * head, char * tail) {
        const uint32_t x[8] = { from.a.x, from.a.y, from.a.z, from.a.w, from.b.x, from.b.y, from.b.z, from.b.w };
        uint32_t parts[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            split<half_type::bf16>(float_of(x[2*i]), float_of(x[2*i + 1]), parts[0][i], parts[1][i]);
        }
        *(uint4 *) head = make_uint4(parts[0][0], parts[0][1], parts[0][2], parts[0][3]);
        *(uint4 *) tail = make_uint4(parts[1][0], parts[1][1], parts[1][2], parts[1][3]);
    }

    static __device__ __forceinline__ void store_w(const run & from, numbers & to, int row, int i_run) {
        char * const head = to.w[0] + row*PITCH + 16*i_run;
        if constexpr (T == GGML_TYPE_F32) {
            store_f32(from, head, to.w[W_PARTS - 1] + row*PITCH + 16*i_run);
        } else {
            const uint32_t x[4] = { from.a.x, from.a.y, from.a.z, from.a.w };
            uint32_t parts[2][4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if constexpr (T == GGML_TYPE_F16) {
                    const float2 pair = unpack<half_type::f16>(x[i]);
                    split<half_type::bf16>(pair.x, pair.y, parts[0][i], parts[1][i]);
                } else {
                    const uint32_t pair = x[i/2] >> i%2*16;
                    parts[0][i] = pack<half_type::bf16>((int8_t) (pair & 0xff), (int8_t) (pair >> 8 & 0xff));
                }
            }
            *(uint4 *) head = make_uint4(parts[0][0], parts[0][1], parts[0][2], parts[0][3]);
            if constexpr (T == GGML_TYPE_F16) {
                *(uint4 *) (to.w[W_PARTS - 1] + row*PITCH + 16*i_run) = make_uint4(parts[1][0], parts[1][1], parts[1][2], parts[1][3]);
            } else if (i_run%4 == 0) {
                to.scale[row][i_run/4] = unpack<half_type::f16>(from.a.z).x;
            }
        }
    }

    // acc[m][n] has tokens 16m to 16m + 15 and 8n to 8n + 7 of the warp's 16 rows of the weights
    static __device__ __forceinline__ void multiply(const numbers & from, float (&acc)[2][2][4]) {
        const int warp = threadIdx.x / LANES;
        const int row  = row_of_8(threadIdx.x % LANES / 4);
        const int t    = threadIdx.x % 4;
#pragma unroll
        for (int step = 0; step < STEP/32; ++step) {
            uint4 a[2][2][2]; // tokens 16m, part, tokens + 8
#pragma unroll
            for (int m = 0; m < 2; ++m) {
#pragma unroll
                for (int part = 0; part < 2; ++part) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        a[m][part][half] = *(const uint4 *) (from.x[part] + (16*m + 8*half + row)*PITCH + 64*step + 16*t);
                    }
                }
            }
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const int first = 16*warp + 8*n;
                uint4 b[W_PARTS];
#pragma unroll
                for (int part = 0; part < W_PARTS; ++part) {
                    b[part] = *(const uint4 *) (from.w[part] + (first + row)*PITCH + 64*step + 16*t);
                }
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    float own[4] = {};
                    float (&sum)[4] = T == GGML_TYPE_Q8_0 ? own : acc[m][n];
                    multiply_parts(a[m], b, sum);
                    if constexpr (T == GGML_TYPE_Q8_0) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            acc[m][n][i] += sum[i]*from.scale[first + t + i%2*4][step];
                        }
                    }
                }
            }
        }
    }

    // heads with heads, tails with heads and heads with tails, over 32 numbers
    static __device__ __forceinline__ void multiply_parts(const uint4 (&a)[2][2], const uint4 (&b)[W_PARTS], float (&sum)[4]) {
#pragma unroll
        for (int i = 0; i < 1 + W_PARTS; ++i) {
            const uint4 (&x)[2] = a[i == 1 ? 1 : 0];
            const uint4 & w     = b[i == 2 ? W_PARTS - 1 : 0];
            const uint32_t low_x[4]  = { x[0].x, x[1].x, x[0].y, x[1].y };
            const uint32_t low_w[2]  = { w.x, w.y };
            const uint32_t high_x[4] = { x[0].z, x[1].z, x[0].w, x[1].w };
            const uint32_t high_w[2] = { w.z, w.w };
            mma<half_type::bf16>(sum, low_x, low_w);
            mma<half_type::bf16>(sum, high_x, high_w);
        }
    }

    // block: (rows of the weights for each run of tokens, layer)
    static __device__ __forceinline__ void run_block(const dense_args & args) {
        __shared__ __align__(16) numbers shared;

        const dense_layer & layer = args.layers[blockIdx.y];

        const int row0   = blockIdx.x%args.n_row_blocks*ROWS;
        const int token0 = blockIdx.x/args.n_row_blocks*TOKENS;

        run x[X_RUNS];
        run w[W_RUNS];
        const auto load = [&](int i0) {
#pragma unroll
            for (int i = 0; i < X_RUNS; ++i) {
                const int at = threadIdx.x + i*WARPS*LANES;
                x[i] = load_x(args, layer, token0 + at/N_RUNS, i0 + at%N_RUNS*8);
            }
#pragma unroll
            for (int i = 0; i < W_RUNS; ++i) {
                const int at = threadIdx.x + i*WARPS*LANES;
                w[i] = load_w(args, layer, row0 + at/N_RUNS, i0 + at%N_RUNS*8);
            }
        };

        float acc[2][2][4] = {};
        load(0);
        for (int i0 = 0; i0 < args.n_in; i0 += STEP) {
            __syncthreads(); // nobody reads the numbers before these any more
#pragma unroll
            for (int i = 0; i < X_RUNS; ++i) {
                const int at    = threadIdx.x + i*WARPS*LANES;
                const int place = at/N_RUNS*PITCH + at%N_RUNS*16;
                store_f32(x[i], shared.x[0] + place, shared.x[1] + place);
            }
#pragma unroll
            for (int i = 0; i < W_RUNS; ++i) {
                const int at = threadIdx.x + i*WARPS*LANES;
                store_w(w[i], shared, at/N_RUNS, at%N_RUNS);
            }
            __syncthreads();
            if (i0 + STEP < args.n_in) {
                load(i0 + STEP);
            }
            multiply(shared, acc);
        }

        const int warp = threadIdx.x / LANES;
        const int g    = threadIdx.x % LANES / 4;
        const int t    = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int token = token0 + 16*m + i/2*8 + row_of_8(g);
                    const int row   = row0 + 16*warp + 8*n + t + i%2*4;
                    if (token < args.n_tokens && row < layer.n_out) {
                        layer.y[token*layer.y_row + row] = apply(args.fn, acc[m][n][i] + layer.b[row]);
                    }
                }
            }
        }
    }
};

template <ggml_type T>
static __global__ void __launch_bounds__(dense_prompt<T>::WARPS*LANES) retention_dense_prompt(const dense_args args) {
    dense_prompt<T>::run_block(args);
}

} // namespace retention
