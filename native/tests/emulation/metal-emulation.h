// metal-emulation.h - what the Metal kernels of native/ggml-metal say, in C++ for the CPU
//
// It gives a meaning to the words of Metal's language that the kernels use, so that their own source runs in the tests. A
// threadgroup is a block of the CUDA emulation, and a simdgroup is a warp of it. Every thread of a simdgroup holds the whole
// of an 8x8 matrix.

#pragma once

#include "cuda-emulation.h"

#include "ggml.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace metal_emulation {

using std::exp;
using std::fabs;
using std::log;
using std::max;
using std::min;
using std::round;

namespace precise {
using std::tanh;
}

typedef unsigned char  uchar;
typedef unsigned short ushort;
typedef unsigned int   uint;

struct half {
    ggml_fp16_t bits;
    half() = default;
    explicit half(float x) : bits(ggml_fp32_to_fp16(x)) {}
    operator float() const { return ggml_fp16_to_fp32(bits); }
};

template <typename T, int n>
struct vec {
    T x[n];
    vec() = default;
    template <typename... U, typename = std::enable_if_t<sizeof...(U) == n>>
    vec(U... u) : x{ T(u)... } {}
    explicit vec(T u) { std::fill_n(x, n, u); }
    template <typename U>
    explicit vec(const vec<U, n> & u) {
        for (int i = 0; i < n; ++i) {
            x[i] = T(u.x[i]);
        }
    }
    T       & operator[](int i)       { return x[i]; }
    const T & operator[](int i) const { return x[i]; }

    vec & operator+=(const vec & b) { return *this = *this + b; }

    friend vec operator+(vec a, const vec & b) {
        for (int i = 0; i < n; ++i) {
            a.x[i] += b.x[i];
        }
        return a;
    }
    friend vec operator-(vec a, T b) {
        for (int i = 0; i < n; ++i) {
            a.x[i] -= b;
        }
        return a;
    }
    friend vec operator*(vec a, T b) {
        for (int i = 0; i < n; ++i) {
            a.x[i] *= b;
        }
        return a;
    }
    friend vec operator*(T a, vec b) { return b*a; }
    friend vec operator<<(vec a, uint b) {
        for (int i = 0; i < n; ++i) {
            a.x[i] <<= b;
        }
        return a;
    }
};

typedef vec<float, 4>  float4;
typedef vec<half, 4>   half4;
typedef vec<ushort, 4> ushort4;
typedef vec<uint, 4>   uint4;

struct uint3 {
    uint x;
    uint y;
    uint z;
};

inline float dot(const float4 & a, const float4 & b) {
    return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] + a[3]*b[3];
}

template <typename T, typename U>
T as_type(const U & u) {
    static_assert(sizeof(T) == sizeof(U));
    T res;
    memcpy(&res, &u, sizeof(T));
    return res;
}

// threads

constexpr int N_SIMDWIDTH = 32;

namespace mem_flags {
enum { mem_threadgroup };
}

inline int lane() { return emulation::thread_index.x%N_SIMDWIDTH; }

inline void threadgroup_barrier(int) { emulation::sync_block(); }
inline void simdgroup_barrier(int)   {
    const char nothing = 0;
    emulation::meet_warp(&nothing, sizeof(nothing));
}

template <typename T>
T simd_shuffle_xor(const T & x, int mask) {
    T res;
    memcpy(&res, emulation::meet_warp(&x, sizeof(x)) + (lane() ^ mask)*sizeof(x), sizeof(x));
    return res;
}

inline float simd_sum(float x) {
    for (int mask = N_SIMDWIDTH/2; mask > 0; mask /= 2) {
        x += simd_shuffle_xor(x, mask);
    }
    return x;
}

// matrices

template <typename T>
struct matrix8x8 {
    float x[8][8];
};

typedef matrix8x8<float> simdgroup_float8x8;
typedef matrix8x8<half>  simdgroup_half8x8;

template <typename T, int n>
matrix8x8<T> make_filled_simdgroup_matrix(T value) {
    matrix8x8<T> res;
    std::fill_n(&res.x[0][0], n*n, value);
    return res;
}

template <typename T>
void simdgroup_load(matrix8x8<T> & m, const T * src, int row, int, bool transposed) {
    for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) {
            (transposed ? m.x[j][i] : m.x[i][j]) = src[i*row + j];
        }
    }
}

template <typename T>
void simdgroup_store(const matrix8x8<T> & m, T * dst, int row, int, bool) {
    // a thread has two of the numbers, as on the device: the others are not there before a barrier
    for (int e = 2*lane(); e < 2*lane() + 2; ++e) {
        dst[e/8*row + e%8] = T(m.x[e/8][e%8]);
    }
}

template <typename D, typename A, typename B, typename C>
void simdgroup_multiply_accumulate(matrix8x8<D> & d, const matrix8x8<A> & a, const matrix8x8<B> & b, const matrix8x8<C> & c) {
    matrix8x8<D> res;
    for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) {
            float sum = c.x[i][j];
            for (int k = 0; k < 8; ++k) {
                sum += a.x[i][k]*b.x[k][j];
            }
            res.x[i][j] = sum;
        }
    }
    d = res;
}

template <typename D, typename A, typename B>
void simdgroup_multiply(matrix8x8<D> & d, const matrix8x8<A> & a, const matrix8x8<B> & b) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8>(0.0f));
}

#define device
#define threadgroup
#define kernel
#define constant const
#define RETENTION_CONSTANT(name, index) static int name
#define RETENTION_SHARED

} // namespace metal_emulation
