// cuda-emulation.h - what the retention kernels use of CUDA, as it is meant, on the CPU
//
// The kernels' own source is compiled with this header. Blocks run one after the other, the threads of a block as fibers: each
// runs up to the next place where it meets others (a barrier, a shuffle, a product of matrices), and goes on when all of
// them are there. Fibers run in ascending or descending order, so that code which relies on one of them gives another result
// in the other. Shared memory begins as NaN in every block.

#pragma once

#pragma GCC diagnostic ignored "-Wunknown-pragmas" // unroll, which is for nvcc

#include "ggml.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct uint4  { uint32_t x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };

inline uint4  make_uint4 (uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return { x, y, z, w }; }
inline float2 make_float2(float x, float y)                               { return { x, y }; }
inline float4 make_float4(float x, float y, float z, float w)             { return { x, y, z, w }; }

typedef void * cudaStream_t;

namespace emulation {

extern dim3 block_index;
extern dim3 thread_index;
extern bool descending; // the order of the threads
extern bool has_matrix_units; // or the lanes hand each other their numbers, as on GPUs without them

constexpr int WARP = 32;

// run a kernel for each thread of each block
void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> & kernel);

// the dynamic shared memory of the block that runs
void * shared_memory();

// until all threads of the block are here
void sync_block();

// until all threads of the warp are here: gives each n bytes of every lane, as [lane][n]
const char * meet_warp(const void * mine, size_t n);

template <typename T>
T from_lane(T mine, int lane) {
    T res;
    memcpy(&res, meet_warp(&mine, sizeof(T)) + lane*sizeof(T), sizeof(T));
    return res;
}

// C += A*B as retention::mma describes it
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool is_f16);

// as retention::load_transposed describes it
inline void load_transposed(uint32_t (&x)[4], const char * row) {
    const int    g     = thread_index.x % WARP / 4;
    const int    t     = thread_index.x % 4;
    const char * slots = meet_warp(&row, sizeof(row));
    const auto number = [&](int lane) -> uint32_t {
        const uint16_t * from;
        memcpy(&from, slots + lane*sizeof(from), sizeof(from));
        return from[g];
    };
    for (int m = 0; m < 4; ++m) {
        x[m] = number(8*m + 2*t) | number(8*m + 2*t + 1) << 16;
    }
}

float   widen(uint16_t half, bool is_f16);
uint16_t round(float x, bool is_f16);

} // namespace emulation

#define blockIdx  emulation::block_index
#define threadIdx emulation::thread_index

#define RETENTION_LAUNCH(kernel, grid, block, shared, stream, ...) \
    emulation::launch(grid, block, shared, [=] { (void) stream; kernel(__VA_ARGS__); })

inline void __syncthreads() { emulation::sync_block(); }
inline void __threadfence() {}

inline int32_t atomicAdd(int32_t * at, int32_t x) {
    const int32_t before = *at;
    *at += x;
    return before;
}

template <typename T> T __shfl_sync    (uint32_t, T x, int lane, int) { return emulation::from_lane(x, lane); }
template <typename T> T __shfl_xor_sync(uint32_t, T x, int mask, int) { return emulation::from_lane(x, (threadIdx.x ^ mask) % emulation::WARP); }
template <typename T> T __shfl_up_sync (uint32_t, T x, int step, int) {
    const int lane = threadIdx.x % emulation::WARP;
    return emulation::from_lane(x, lane >= step ? lane - step : lane);
}

inline int __ffs(uint32_t x) { return __builtin_ffs(x); }

namespace retention {

enum class half_type;

inline void * dynamic_shared() { return emulation::shared_memory(); }

inline uint32_t lanes_where(bool x) {
    const char * lanes = emulation::meet_warp(&x, sizeof(x));
    uint32_t res = 0;
    for (int lane = 0; lane < emulation::WARP; ++lane) {
        res |= (uint32_t) (lanes[lane] != 0) << lane;
    }
    return res;
}

inline float exp2_fast(float x) { return exp2f(x); }

template <typename T> T load_written(const T * src) { return *src; }

inline float float_of(uint32_t bits) {
    float res;
    memcpy(&res, &bits, sizeof(res));
    return res;
}

template <half_type T> uint32_t pack(float lo, float hi) {
    return emulation::round(lo, T == half_type(0)) | (uint32_t) emulation::round(hi, T == half_type(0)) << 16;
}

template <half_type T> float2 unpack(uint32_t word) {
    return { emulation::widen(word & 0xffff, T == half_type(0)), emulation::widen(word >> 16, T == half_type(0)) };
}

inline uint32_t sub_mul_f16(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t res = 0;
    for (int shift = 0; shift < 32; shift += 16) {
        const auto x = [&](uint32_t word) { return emulation::widen(word >> shift & 0xffff, true); };
        const float difference = emulation::widen(emulation::round(x(a) - x(b), true), true);
        res |= (uint32_t) emulation::round(difference*x(c), true) << shift;
    }
    return res;
}

inline uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = a | (uint64_t) b << 32;
    uint32_t res = 0;
    for (int i = 0; i < 4; ++i) {
        res |= (uint32_t) (bytes >> 8*(selector >> 4*i & 7) & 0xff) << 8*i;
    }
    return res;
}

// Copies arrive when they are waited for, so that a kernel that does not wait reads what was there before.
void start_copy_16(void * shared, const void * global);
void end_copy_group();
void wait_copies_but(int n);

template <int n> void wait_copies() { wait_copies_but(n); }

} // namespace retention
