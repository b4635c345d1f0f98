// retention-scan-simd.h - vectors of keys for scans: a lane is a key, and holds four of its numbers or their product
//
// LANES keys at once. What kind of numbers a key's are, signed or with an offset that makes them unsigned, is what the
// instructions at hand multiply best; offset_of() tells which.

#pragma once

#include "retention-simd.h"

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

#include <cstdint>
#include <cstring>

namespace retention {

template <typename BLOCK_T>
constexpr bool IS_Q4 = sizeof(BLOCK_T) == sizeof(block_q4_0);

// four of a query's numbers
inline int32_t four_of(const int8_t * q) {
    int32_t x;
    memcpy(&x, q, sizeof(x));
    return x;
}

#if !defined(RETENTION_PORTABLE) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)

constexpr int LANES     = 16;
constexpr int SCAN_ROWS = 8; // queries at once, as many as the registers hold

template <typename BLOCK_T>
constexpr int offset_of() { return IS_Q4<BLOCK_T> ? 8 : 128; }

using lane_bytes = __m512i;
using lane_sums  = __m512i;
using lane_f32   = __m512;

inline lane_bytes lanes_load (const uint8_t * p)                    { return _mm512_loadu_si512(p); }
inline void       lanes_store(uint8_t * p, lane_bytes x)            { _mm512_storeu_si512(p, x); }
inline lane_bytes lanes_low  (lane_bytes x)                         { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline lane_bytes lanes_high (lane_bytes x)                         { return lanes_low(_mm512_srli_epi16(x, 4)); }
inline lane_bytes lanes_flip (lane_bytes x)                         { return _mm512_xor_si512(x, _mm512_set1_epi8((char) 0x80)); }
inline lane_f32   lanes_zero ()                                     { return _mm512_setzero_ps(); }
inline lane_f32   lanes_load (const float * p)                      { return _mm512_loadu_ps(p); }
inline lane_f32   lanes_half (const ggml_fp16_t * p)                { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
inline void       lanes_store(float * p, lane_f32 x)                { _mm512_storeu_ps(p, x); }
inline lane_f32   lanes_scale(lane_f32 x, float a)                  { return _mm512_mul_ps(x, _mm512_set1_ps(a)); }
inline lane_f32   lanes_add  (lane_f32 acc, lane_sums p, lane_f32 d) { return _mm512_fmadd_ps(_mm512_cvtepi32_ps(p), d, acc); }

// the 16 bytes at p, p + nb, ..., in four vectors, so that a lane of vector i has bytes 4*i to 4*i + 3 of its key
inline void lanes_transpose(const uint8_t * const * p, lane_bytes * x) {
    lane_bytes y[4];
    VF_UNROLL
    for (int i = 0; i < 4; ++i) { // keys i, i + 4, i + 8, i + 12
        const auto at = [&](int k) { return _mm_loadu_si128((const __m128i *) p[k]); };
        y[i] = _mm512_castsi128_si512(at(i));
        y[i] = _mm512_inserti32x4(y[i], at(i +  4), 1);
        y[i] = _mm512_inserti32x4(y[i], at(i +  8), 2);
        y[i] = _mm512_inserti32x4(y[i], at(i + 12), 3);
    }
    const lane_bytes a = _mm512_unpacklo_epi32(y[0], y[1]), b = _mm512_unpacklo_epi32(y[2], y[3]);
    const lane_bytes c = _mm512_unpackhi_epi32(y[0], y[1]), d = _mm512_unpackhi_epi32(y[2], y[3]);
    x[0] = _mm512_unpacklo_epi64(a, b);
    x[1] = _mm512_unpackhi_epi64(a, b);
    x[2] = _mm512_unpacklo_epi64(c, d);
    x[3] = _mm512_unpackhi_epi64(c, d);
}

// products of a block: p += k.q in fours, eight times
template <typename BLOCK_T>
struct lane_products {
    lane_sums p;

    void start(int32_t less)              { p = _mm512_set1_epi32(less); }
    void add(lane_bytes k, int32_t four)  { p = _mm512_dpbusd_epi32(p, k, _mm512_set1_epi32(four)); }
    lane_sums end() const                 { return p; }
};

#elif !defined(RETENTION_PORTABLE) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

constexpr int LANES     = 8;
constexpr int SCAN_ROWS = 4;

template <typename BLOCK_T>
constexpr int offset_of() {
#if defined(__AVXVNNI__)
    return IS_Q4<BLOCK_T> ? 8 : 128;
#else
    return IS_Q4<BLOCK_T> ? 8 : 0;
#endif
}

using lane_bytes = __m256i;
using lane_sums  = __m256i;
using lane_f32   = __m256;

inline lane_bytes lanes_load (const uint8_t * p)                    { return _mm256_loadu_si256((const __m256i *) p); }
inline void       lanes_store(uint8_t * p, lane_bytes x)            { _mm256_storeu_si256((__m256i *) p, x); }
inline lane_bytes lanes_low  (lane_bytes x)                         { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline lane_bytes lanes_high (lane_bytes x)                         { return lanes_low(_mm256_srli_epi16(x, 4)); }
inline lane_bytes lanes_flip (lane_bytes x)                         { return _mm256_xor_si256(x, _mm256_set1_epi8((char) 0x80)); }
inline lane_f32   lanes_zero ()                                     { return _mm256_setzero_ps(); }
inline lane_f32   lanes_load (const float * p)                      { return _mm256_loadu_ps(p); }
inline lane_f32   lanes_half (const ggml_fp16_t * p)                { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
inline void       lanes_store(float * p, lane_f32 x)                { _mm256_storeu_ps(p, x); }
inline lane_f32   lanes_scale(lane_f32 x, float a)                  { return _mm256_mul_ps(x, _mm256_set1_ps(a)); }
inline lane_f32   lanes_add  (lane_f32 acc, lane_sums p, lane_f32 d) { return _mm256_fmadd_ps(_mm256_cvtepi32_ps(p), d, acc); }

inline void lanes_transpose(const uint8_t * const * p, lane_bytes * x) {
    lane_bytes y[4];
    VF_UNROLL
    for (int i = 0; i < 4; ++i) { // keys i, i + 4
        const auto at = [&](int k) { return _mm_loadu_si128((const __m128i *) p[k]); };
        y[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(at(i)), at(i + 4), 1);
    }
    const lane_bytes a = _mm256_unpacklo_epi32(y[0], y[1]), b = _mm256_unpacklo_epi32(y[2], y[3]);
    const lane_bytes c = _mm256_unpackhi_epi32(y[0], y[1]), d = _mm256_unpackhi_epi32(y[2], y[3]);
    x[0] = _mm256_unpacklo_epi64(a, b);
    x[1] = _mm256_unpackhi_epi64(a, b);
    x[2] = _mm256_unpacklo_epi64(c, d);
    x[3] = _mm256_unpackhi_epi64(c, d);
}

#if defined(__AVXVNNI__)

template <typename BLOCK_T>
struct lane_products {
    lane_sums p;

    void start(int32_t less)             { p = _mm256_set1_epi32(less); }
    void add(lane_bytes k, int32_t four) { p = _mm256_dpbusd_avx_epi32(p, k, _mm256_set1_epi32(four)); }
    lane_sums end() const                { return p; }
};

#else

template <typename BLOCK_T>
struct lane_products {
    lane_sums p;
    int32_t   less;

    void start(int32_t x) {
        p    = _mm256_setzero_si256();
        less = x;
    }
    void add(lane_bytes k, int32_t four) {
        const __m256i y = _mm256_set1_epi32(four);
        if constexpr (IS_Q4<BLOCK_T>) { // 16 products of 15*127 fit 16 bits
            p = _mm256_add_epi16(p, _mm256_maddubs_epi16(k, y));
        } else {
            const __m256i two = _mm256_maddubs_epi16(_mm256_abs_epi8(k), _mm256_sign_epi8(y, k));
            p = _mm256_add_epi32(p, _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
        }
    }
    lane_sums end() const {
        const __m256i sum = IS_Q4<BLOCK_T> ? _mm256_madd_epi16(p, _mm256_set1_epi16(1)) : p;
        return _mm256_add_epi32(sum, _mm256_set1_epi32(less));
    }
};

#endif

#elif !defined(RETENTION_PORTABLE) && defined(__ARM_NEON) && defined(__aarch64__)

constexpr int LANES     = 4;
constexpr int SCAN_ROWS = 4;

template <typename BLOCK_T>
constexpr int offset_of() { return IS_Q4<BLOCK_T> ? 8 : 0; } // signed queries with unsigned keys: 15 fits a signed number as well

using lane_bytes = uint8x16_t;
using lane_sums  = int32x4_t;
using lane_f32   = float32x4_t;

inline lane_bytes lanes_load (const uint8_t * p)                    { return vld1q_u8(p); }
inline void       lanes_store(uint8_t * p, lane_bytes x)            { vst1q_u8(p, x); }
inline lane_bytes lanes_low  (lane_bytes x)                         { return vandq_u8(x, vdupq_n_u8(15)); }
inline lane_bytes lanes_high (lane_bytes x)                         { return vshrq_n_u8(x, 4); }
inline lane_bytes lanes_flip (lane_bytes x)                         { return x; }
inline lane_f32   lanes_zero ()                                     { return vdupq_n_f32(0.0f); }
inline lane_f32   lanes_load (const float * p)                      { return vld1q_f32(p); }
inline lane_f32   lanes_half (const ggml_fp16_t * p)                { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *) p))); }
inline void       lanes_store(float * p, lane_f32 x)                { vst1q_f32(p, x); }
inline lane_f32   lanes_scale(lane_f32 x, float a)                  { return vmulq_n_f32(x, a); }
inline lane_f32   lanes_add  (lane_f32 acc, lane_sums p, lane_f32 d) { return vfmaq_f32(acc, vcvtq_f32_s32(p), d); }

inline void lanes_transpose(const uint8_t * const * p, lane_bytes * x) {
    const auto at = [&](int k) { return vreinterpretq_u32_u8(vld1q_u8(p[k])); };
    const uint32x4x2_t a = vtrnq_u32(at(0), at(1)), b = vtrnq_u32(at(2), at(3));
    x[0] = vreinterpretq_u8_u32(vcombine_u32(vget_low_u32 (a.val[0]), vget_low_u32 (b.val[0])));
    x[1] = vreinterpretq_u8_u32(vcombine_u32(vget_low_u32 (a.val[1]), vget_low_u32 (b.val[1])));
    x[2] = vreinterpretq_u8_u32(vcombine_u32(vget_high_u32(a.val[0]), vget_high_u32(b.val[0])));
    x[3] = vreinterpretq_u8_u32(vcombine_u32(vget_high_u32(a.val[1]), vget_high_u32(b.val[1])));
}

template <typename BLOCK_T>
struct lane_products {
    lane_sums p;

    void start(int32_t less) { p = vdupq_n_s32(less); }
    void add(lane_bytes k, int32_t four) {
        const int8x16_t x = vreinterpretq_s8_u8(k);
        const int8x16_t y = vreinterpretq_s8_s32(vdupq_n_s32(four));
#if defined(__ARM_FEATURE_DOTPROD)
        p = vdotq_s32(p, x, y);
#else
        const int16x8_t a = vmull_s8(vget_low_s8(x), vget_low_s8(y)), b = vmull_high_s8(x, y);
        p = vaddq_s32(p, vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b)));
#endif
    }
    lane_sums end() const { return p; }
};

#else

constexpr int LANES     = 4;
constexpr int SCAN_ROWS = 2;

template <typename BLOCK_T>
constexpr int offset_of() { return IS_Q4<BLOCK_T> ? 8 : 128; }

struct lane_bytes { uint8_t v[4*LANES]; };
struct lane_sums  { int32_t v[LANES]; };
struct lane_f32   { float   v[LANES]; };

inline lane_bytes lanes_load(const uint8_t * p) {
    lane_bytes res;
    memcpy(res.v, p, sizeof(res.v));
    return res;
}
inline lane_bytes lanes_low(lane_bytes x) {
    for (auto & v : x.v) { v &= 15; }
    return x;
}
inline lane_bytes lanes_high(lane_bytes x) {
    for (auto & v : x.v) { v >>= 4; }
    return x;
}
inline lane_bytes lanes_flip(lane_bytes x) {
    for (auto & v : x.v) { v ^= 0x80; }
    return x;
}
inline lane_f32 lanes_zero() { return {}; }
inline lane_f32 lanes_load(const float * p) {
    lane_f32 res;
    memcpy(res.v, p, sizeof(res.v));
    return res;
}
inline lane_f32 lanes_half(const ggml_fp16_t * p) {
    lane_f32 res;
    for (int i = 0; i < LANES; ++i) { res.v[i] = GGML_CPU_COMPUTE_FP16_TO_FP32(p[i]); }
    return res;
}
inline void lanes_store(uint8_t * p, const lane_bytes & x) { memcpy(p, x.v, sizeof(x.v)); }
inline void lanes_store(float   * p, const lane_f32   & x) { memcpy(p, x.v, sizeof(x.v)); }
inline lane_f32 lanes_scale(lane_f32 x, float a) {
    for (auto & v : x.v) { v *= a; }
    return x;
}
inline lane_f32 lanes_add(lane_f32 acc, const lane_sums & p, const lane_f32 & d) {
    for (int i = 0; i < LANES; ++i) { acc.v[i] += p.v[i]*d.v[i]; }
    return acc;
}
inline void lanes_transpose(const uint8_t * const * p, lane_bytes * x) {
    for (int i = 0; i < 4; ++i) {
        for (int k = 0; k < LANES; ++k) { memcpy(x[i].v + 4*k, p[k] + 4*i, 4); }
    }
}

template <typename BLOCK_T>
struct lane_products {
    lane_sums p;

    void start(int32_t less) {
        for (auto & v : p.v) { v = less; }
    }
    void add(const lane_bytes & k, int32_t four) {
        int8_t y[4];
        memcpy(y, &four, sizeof(y));
        for (int i = 0; i < 4*LANES; ++i) { p.v[i/4] += k.v[i]*y[i%4]; }
    }
    lane_sums end() const { return p; }
};

#endif

} // namespace retention
