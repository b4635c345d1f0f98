// retention-gate.cuh - what the kernels of gates share
//
//     retention-gate.cu           the op, and the kernel for few tokens
//     retention-gate-prompt.cuh   many tokens: products on matrix units

#pragma once

#include "retention-ops.cuh"

namespace retention {

constexpr int GATE_LAYERS = 64; // of one launch: kernels take 4 KB of arguments

// y = fn(w*x + b) of one layer
struct dense_layer {
    const float * x;
    const char  * w;
    const float * b;
    float       * y;
    int64_t       x_row; // floats from token to token
    int64_t       y_row;
    int32_t       n_out;
};

enum class dense_fn { silu, gelu, gelu_erf, relu, logsigmoid, none };

struct dense_args {
    dense_layer layers[GATE_LAYERS];
    int32_t     n_in;
    int32_t     n_tokens;
    int32_t     n_row_blocks;
    int64_t     w_row; // bytes
    dense_fn    fn;
};

// 8 bytes of a row of q8_0, from number i0 on, which is a multiple of 8
static __device__ __forceinline__ void load_q8_bytes(const char * row, int i0, uint32_t (&res)[2]) {
    // every second block is 2 bytes off the words of 4
    const char   * from  = row + i0/32*34 + 2 + i0%32;
    const bool     odd   = ((uintptr_t) from & 2) != 0;
    const uint32_t first = odd ? *(const uint16_t *) from : 0;
    const uint32_t * at  = (const uint32_t *) (from + (odd ? 2 : 0));
    const uint32_t low   = at[0];
    const uint32_t high  = odd ? *(const uint16_t *) (at + 1) : at[1];
    res[0] = odd ? pick_bytes(first, low, 0x5410) : low;
    res[1] = odd ? pick_bytes(low, high, 0x5432) : high;
}

static __device__ __forceinline__ uint16_t load_q8_scale(const char * row, int i0) {
    return *(const uint16_t *) (row + i0/32*34);
}

static __device__ __forceinline__ float apply(dense_fn fn, float x) {
    switch (fn) {
        case dense_fn::silu:     return x/(1.0f + exp2_fast(-x*1.442695041f));
        // tanh by its definition: the approximate instruction is off by 5e-4
        case dense_fn::gelu:     return x/(1.0f + exp2_fast(-x*(1.0f + 0.044715f*x*x)*2.302208198f));
        case dense_fn::gelu_erf: return 0.5f*x*(1.0f + erff(x*0.707106781f));
        case dense_fn::relu:     return fmaxf(x, 0.0f);
        // log(1/(1 + e^-x)), in double so that -use_fast_math does not round small results away; there are few of them
        case dense_fn::logsigmoid:
            return (float) ((x < 0.0f ? (double) x : 0.0) - log1p(exp(-fabs((double) x))));
        case dense_fn::none:     return x;
    }
    return x;
}

} // namespace retention
