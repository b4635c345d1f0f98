// retention-cells.cuh - where cells are, and how runs of 8 numbers of their rows are read and written
//
// The kernels compute with 16-bit floats, summed in f32. f16 and quantised cells are read as f16, bf16 ones as bf16, and f32
// ones as two bf16 whose sum has 16 bits: a head part and a tail part.

#pragma once

#include "ggml.h"
#include "ggml-retention.h"

#include "retention-device.cuh"

namespace retention {

template <ggml_type T> struct cell_traits;

template <> struct cell_traits<GGML_TYPE_F16>  { static constexpr half_type half = half_type::f16;  static constexpr int n_parts = 1; };
template <> struct cell_traits<GGML_TYPE_BF16> { static constexpr half_type half = half_type::bf16; static constexpr int n_parts = 1; };
template <> struct cell_traits<GGML_TYPE_F32>  { static constexpr half_type half = half_type::bf16; static constexpr int n_parts = 2; };
template <> struct cell_traits<GGML_TYPE_Q8_0> { static constexpr half_type half = half_type::f16;  static constexpr int n_parts = 1; };
template <> struct cell_traits<GGML_TYPE_Q4_0> { static constexpr half_type half = half_type::f16;  static constexpr int n_parts = 1; };

// bytes of a row of n numbers
template <ggml_type T>
static __host__ __device__ constexpr int cell_bytes(int n) {
    return T == GGML_TYPE_F32 ? 4*n : T == GGML_TYPE_Q8_0 ? n/32*34 : T == GGML_TYPE_Q4_0 ? n/32*18 : 2*n;
}

// 8 numbers as 4 pairs; with n_parts 2 their tails follow
template <int n_parts>
struct words {
    uint32_t x[n_parts][4];
};

// x = its value in T, and a tail in T that makes up for most of the rounding
template <half_type T>
static __device__ __forceinline__ void split(float x0, float x1, uint32_t & head, uint32_t & tail) {
    head = pack<T>(x0, x1);
    const float2 rounded = unpack<T>(head);
    tail = pack<T>(x0 - rounded.x, x1 - rounded.y);
}

static __device__ __forceinline__ uint32_t load_u16(const char * src) {
    return *(const uint16_t *) src;
}

// 8 numbers of a row as they lie in memory; of quantised ones 4 pairs of bytes, and the scale. They are loaded in one place and
// unpacked in another, since whoever unpacks one run before it asks for the next waits for the memory at each.
template <ggml_type T>
struct raw_8 {
    uint32_t x[T == GGML_TYPE_F32 ? 8 : T == GGML_TYPE_Q8_0 || T == GGML_TYPE_Q4_0 ? 5 : 4];
};

// numbers i0 to i0 + 7 of a row in global memory; i0 is a multiple of 8. Rows of f16, bf16 and f32 begin at multiples of 16
// bytes, quantised ones at multiples of 2.
template <ggml_type T>
static __device__ __forceinline__ raw_8<T> load_8(const char * row, int i0) {
    raw_8<T> res;
    if constexpr (T == GGML_TYPE_F16 || T == GGML_TYPE_BF16 || T == GGML_TYPE_F32) {
        constexpr int size = T == GGML_TYPE_F32 ? 4 : 2;
#pragma unroll
        for (int i = 0; i < size/2; ++i) {
            const uint4 x = *(const uint4 *) (row + size*i0 + 16*i);
            res.x[4*i + 0] = x.x;
            res.x[4*i + 1] = x.y;
            res.x[4*i + 2] = x.z;
            res.x[4*i + 3] = x.w;
        }
    } else {
        // a block is its scale in f16, and of q8_0 32 bytes, of q4_0 16: numbers 0 to 15 in the low halves, 16 to 31 in the high ones
        static_assert(T == GGML_TYPE_Q8_0 || T == GGML_TYPE_Q4_0, "no reader for this type");
        const char * block = row + i0/32*cell_bytes<T>(32);
        const char * bytes = block + 2 + i0%(T == GGML_TYPE_Q8_0 ? 32 : 16);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            res.x[i] = load_u16(bytes + 2*i);
        }
        res.x[4] = load_u16(block);
    }
    return res;
}

// what load_8() loaded, with the same i0
template <ggml_type T>
static __device__ __forceinline__ words<cell_traits<T>::n_parts> unpack_8(const raw_8<T> & raw, int i0) {
    words<cell_traits<T>::n_parts> res;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (T == GGML_TYPE_F16 || T == GGML_TYPE_BF16) {
            res.x[0][i] = raw.x[i];
        } else if constexpr (T == GGML_TYPE_F32) {
            split<half_type::bf16>(float_of(raw.x[2*i]), float_of(raw.x[2*i + 1]), res.x[0][i], res.x[1][i]);
        } else {
            // 0x6400 | n is 1024 + n in f16 for n below 1024
            const bool     is_q8 = T == GGML_TYPE_Q8_0;
            const uint32_t bytes = is_q8 ? raw.x[i] ^ 0x8080u : (raw.x[i] >> (i0%32 < 16 ? 0 : 4)) & 0x0f0fu;
            res.x[0][i] = sub_mul_f16(pick_bytes(bytes, 0x64u, 0x4140), is_q8 ? 0x64806480u : 0x64086408u, raw.x[4]*0x10001u);
        }
    }
    return res;
}

// the pool as the kernels see it
struct pool_view {
    char          * k;
    char          * v;
    int64_t         k_row; // bytes
    int64_t         v_row;
    const int32_t * pages;
    const int32_t * cell_lists;
    const int32_t * tokens;
    int32_t         page_shift; // log2 of the cells per page
    int32_t         k_stride;
    int32_t         v_stride;
    int32_t         v_first;
    int32_t         list_first;
    int32_t         list_stride;
};

// a cell list, as a token sees it
struct list_view {
    const int32_t * pages;
    int32_t         n_old;   // cells before this ubatch
    int32_t         n_cells; // those and the ones that the token sees of the ubatch
};

static __device__ __forceinline__ list_view view_list(const pool_view & pool, int token, int head) {
    const int32_t * tok  = pool.tokens + 3*token;
    const int32_t * list = pool.cell_lists + 2*(pool.list_first + (int64_t) tok[0]*pool.list_stride + head);
    return { pool.pages + list[0], list[1], list[1] + tok[1] };
}

static __device__ __forceinline__ int32_t page_of(const pool_view & pool, const list_view & list, int cell) {
    return list.pages[cell >> pool.page_shift];
}

static __device__ __forceinline__ int64_t row_of(const pool_view & pool, int32_t page, int cell, int32_t stride) {
    return (int64_t) page*stride + (cell & ((1 << pool.page_shift) - 1));
}

static __device__ __forceinline__ char * k_row_of(const pool_view & pool, int32_t page, int cell) {
    return pool.k + row_of(pool, page, cell, pool.k_stride)*pool.k_row;
}

static __device__ __forceinline__ char * v_row_of(const pool_view & pool, int32_t page, int cell) {
    return pool.v + (row_of(pool, page, cell, pool.v_stride) + pool.v_first)*pool.v_row;
}

// Write a row of D numbers in the type of cells, by the lanes of a warp. The rounding is that of ggml's reference
// quantisation: q8_0 to the nearest with ties away from zero, q4_0 from the number of largest magnitude. All numbers are asked
// for before any is written: the compiler cannot know that they lie apart, and would wait for each.
template <ggml_type T, int D>
static __device__ __forceinline__ void store_row(char * row, const float * src) {
    constexpr int bytes = cell_bytes<T>(32);
    constexpr int pair  = T == GGML_TYPE_F16 || T == GGML_TYPE_BF16 ? 2 : 1; // numbers of a lane that follow each other
    constexpr int n     = (D + pair*LANES - 1)/(pair*LANES);

    const int lane = threadIdx.x % LANES;
    float x[n][pair];
#pragma unroll
    for (int i = 0; i < n; ++i) {
#pragma unroll
        for (int j = 0; j < pair; ++j) {
            const int from = pair*(i*LANES + lane) + j;
            x[i][j] = from < D ? src[from] : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < n; ++i) {
        const int to = i*LANES + lane;
        if constexpr (T == GGML_TYPE_F32) {
            if (to < D) {
                ((float *) row)[to] = x[i][0];
            }
        } else if constexpr (pair == 2) {
            if (2*to < D) {
                ((uint32_t *) row)[to] = pack<cell_traits<T>::half>(x[i][0], x[i][1]);
            }
        } else {
            const float mine = x[i][0];
            const float amax = lane_max(fabsf(mine), 1, 16);
            char * block = row + i*bytes;
            float d;
            if constexpr (T == GGML_TYPE_Q8_0) {
                d = amax/127.0f;
                ((int8_t *) block)[2 + lane] = (int8_t) roundf(d != 0.0f ? mine*(1.0f/d) : 0.0f);
            } else {
                // of numbers of equal magnitude the first decides the sign
                int first = fabsf(mine) == amax ? lane : LANES;
                for (int mask = 1; mask < LANES; mask *= 2) {
                    const int other = __shfl_xor_sync(0xffffffffu, first, mask, LANES);
                    first = other < first ? other : first;
                }
                d = __shfl_sync(0xffffffffu, mine, first % LANES, LANES)/-8.0f;
                const float q    = mine*(d != 0.0f ? 1.0f/d : 0.0f) + 8.5f;
                const int   low  = q < 15.0f ? (int) q : 15;
                const int   high = __shfl_xor_sync(0xffffffffu, low, 16, LANES);
                if (lane < 16) {
                    block[2 + lane] = (char) (low | (high << 4));
                }
            }
            if (lane == 0) {
                *(uint16_t *) block = (uint16_t) pack<half_type::f16>(d, 0.0f);
            }
        }
    }
}

} // namespace retention
