// retention-device.cuh - what the kernels use of a GPU's language: pairs of 16-bit floats, and the product of small matrices
//
// Pairs are 32-bit words, the first number in the low half. On the CPU, tests/cuda-emulation.h gives all of it its meaning.

#pragma once

#include <cstdint>

#ifdef RETENTION_EMULATION
#include "cuda-emulation.h"
#else
#include "common.cuh"

#define RETENTION_LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#endif

namespace retention {

constexpr int LANES = 32;

// how a 16-bit half of a word is read
enum class half_type { f16, bf16 };

#ifndef RETENTION_EMULATION

// the shared memory that a launch asks for
static __device__ __forceinline__ void * dynamic_shared() {
    extern __shared__ uint4 retention_shared[];
    return retention_shared;
}

static __device__ __forceinline__ float exp2_fast(float x) {
    return exp2f(x); // ex2.approx under -use_fast_math
}

static __device__ __forceinline__ float float_of(uint32_t bits) {
    return __uint_as_float(bits);
}

template <half_type T>
static __device__ __forceinline__ uint32_t pack(float lo, float hi) {
    union { uint32_t word; half2 f16; nv_bfloat162 bf16; } x;
    if constexpr (T == half_type::f16) {
        x.f16 = __floats2half2_rn(lo, hi);
    } else {
        x.bf16 = __float22bfloat162_rn(make_float2(lo, hi));
    }
    return x.word;
}

template <half_type T>
static __device__ __forceinline__ float2 unpack(uint32_t word) {
    if constexpr (T == half_type::f16) {
        union { uint32_t word; half2 f16; } x = { word };
        return __half22float2(x.f16);
    } else {
        return make_float2(float_of(word << 16), float_of(word & 0xffff0000u));
    }
}

// (a - b)*c in f16, pair by pair
static __device__ __forceinline__ uint32_t sub_mul_f16(uint32_t a, uint32_t b, uint32_t c) {
    union { uint32_t word; half2 f16; } x = { a }, y = { b }, z = { c };
    x.f16 = __hmul2(__hsub2(x.f16, y.f16), z.f16);
    return x.word;
}

static __device__ __forceinline__ uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    return __byte_perm(a, b, selector);
}

// bit i: whether x holds in lane i
static __device__ __forceinline__ uint32_t lanes_where(bool x) {
#ifdef GGML_USE_HIP
    return (uint32_t) (__ballot(x) >> threadIdx.x % warpSize / LANES * LANES); // of a wavefront of 64 lanes these 32
#else
    return __ballot_sync(0xffffffffu, x);
#endif
}

// what another block wrote while this one runs: not from this multiprocessor's cache
template <typename T>
static __device__ __forceinline__ T load_written(const T * src) {
#ifdef GGML_USE_HIP
    return *src;
#else
    return __ldcg(src);
#endif
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750 && !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
#define RETENTION_HAS_MMA
#endif

// 16 bytes from global to shared memory, there after wait_copies()
static __device__ __forceinline__ void start_copy_16(void * shared, const void * global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
    const uint32_t to = (uint32_t) __cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(global) : "memory");
#else
    *(uint4 *) shared = *(const uint4 *) global;
#endif
}

static __device__ __forceinline__ void end_copy_group() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// until all groups but the last n are there
template <int n>
static __device__ __forceinline__ void wait_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
    asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory");
#endif
}

#endif // RETENTION_EMULATION

static __device__ __forceinline__ float lane_max(float x, int first, int last) {
    for (int mask = first; mask <= last; mask *= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask, LANES));
    }
    return x;
}

static __device__ __forceinline__ float lane_sum(float x, int first, int last) {
    for (int mask = first; mask <= last; mask *= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, mask, LANES);
    }
    return x;
}

// The same product without matrix units, for GPUs that lack them or lack bf16: the lanes hand each other their rows.
template <half_type T>
static __device__ __forceinline__ void mma_by_lanes(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const int lane = threadIdx.x % LANES;
    const int row  = lane/4;
    const int col  = lane%4*2;
    // not unrolled: with all numbers of many products under way, registers would not suffice
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float2 x0 = unpack<T>(__shfl_sync(0xffffffffu, a[2*half + 0], row*4 + i, LANES));
            const float2 x1 = unpack<T>(__shfl_sync(0xffffffffu, a[2*half + 1], row*4 + i, LANES));
            const float2 y0 = unpack<T>(__shfl_sync(0xffffffffu, b[half], col*4 + i, LANES));
            const float2 y1 = unpack<T>(__shfl_sync(0xffffffffu, b[half], col*4 + 4 + i, LANES));
            c[0] += x0.x*y0.x + x0.y*y0.y;
            c[1] += x0.x*y1.x + x0.y*y1.y;
            c[2] += x1.x*y0.x + x1.y*y0.y;
            c[3] += x1.x*y1.x + x1.y*y1.y;
        }
    }
}

// C += A*B for A of 16 x 16, B of 16 x 8, C of 16 x 8 in f32, held by the lanes of a warp. With g = lane/4 and t = lane%4 a
// lane has of A rows g (a[0], a[2]) and g + 8 (a[1], a[3]) at columns 2t, 2t + 1 (a[0], a[1]) and 2t + 8, 2t + 9; of B
// column g at rows 2t, 2t + 1 (b[0]) and 2t + 8, 2t + 9 (b[1]); of C columns 2t, 2t + 1 of rows g (c[0], c[1]) and g + 8
// (c[2], c[3]): the layout of mma.m16n8k16 in NVIDIA's PTX ISA.
template <half_type T>
static __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(RETENTION_EMULATION)
    if (emulation::has_matrix_units) {
        emulation::mma(c, a, b, T == half_type::f16);
    } else {
        mma_by_lanes<T>(c, a, b);
    }
#elif defined(RETENTION_HAS_MMA)
#if __CUDA_ARCH__ >= 800
    if constexpr (T == half_type::f16) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
#else
    if constexpr (T == half_type::f16) {
        for (int half = 0; half < 2; ++half) {
            asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                : "r"(a[2*half]), "r"(a[2*half + 1]), "r"(b[half]));
        }
    } else {
        mma_by_lanes<T>(c, a, b);
    }
#endif
#else
    mma_by_lanes<T>(c, a, b);
#endif
}

// The same as load_transposed() below, for GPUs that lack the instruction.
static __device__ __forceinline__ void load_transposed_by_lanes(uint32_t (&x)[4], const char * row) {
    const int g = threadIdx.x % LANES / 4;
    const int t = threadIdx.x % 4;
    for (int m = 0; m < 4; ++m) {
        const auto * lo = (const uint16_t *) __shfl_sync(0xffffffffu, (unsigned long long) row, 8*m + 2*t, LANES);
        const auto * hi = (const uint16_t *) __shfl_sync(0xffffffffu, (unsigned long long) row, 8*m + 2*t + 1, LANES);
        x[m] = lo[g] | (uint32_t) hi[g] << 16;
    }
}

// Four matrices of 8 x 8 numbers of 16 bits in shared memory, transposed. Lane 8m + r says where row r of matrix m is, 16 bytes;
// of each matrix a lane gets column g of rows 2t and 2t + 1, which is how mma() takes its second factor.
static __device__ __forceinline__ void load_transposed(uint32_t (&x)[4], const char * row) {
#if defined(RETENTION_EMULATION)
    if (emulation::has_matrix_units) {
        emulation::load_transposed(x, row);
    } else {
        load_transposed_by_lanes(x, row);
    }
#elif defined(RETENTION_HAS_MMA)
    const uint32_t from = (uint32_t) __cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(from) : "memory");
#else
    load_transposed_by_lanes(x, row);
#endif
}

} // namespace retention
