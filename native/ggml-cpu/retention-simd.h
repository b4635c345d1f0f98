// retention-simd.h - a vector of floats, and loads of f32, f16, bf16 and 8-bit integers into it
//
// VF lanes; every function has a portable form, so that the kernels are written once. vf_load_q4_0 loads the 32 values of
// a block before they are scaled; vf_above has a bit for each lane where a > b, and vf_pack stores the lanes of some bits together,
// and anything after them, VF floats in all.

#pragma once

#include "ggml-cpu-impl.h"
#include "simd-mappings.h"
#include "vec.h"

#include <cmath>
#include <cstdint>
#include <cstring>

// unroll the next loop: arrays of vectors stay in registers only when all their indices are constants
#if defined(__GNUC__) || defined(__clang__)
#define VF_UNROLL _Pragma("GCC unroll 16")
#else
#define VF_UNROLL
#endif

#if defined(RETENTION_PORTABLE) // to test it where there are vectors
#define VF_PORTABLE
#elif defined(__AVX512F__)

#define VF 16
typedef __m512 vf32;

static inline vf32  vf_zero ()                         { return _mm512_setzero_ps(); }
static inline vf32  vf_set1 (float x)                  { return _mm512_set1_ps(x); }
static inline vf32  vf_load (const float * p)          { return _mm512_loadu_ps(p); }
static inline vf32  vf_load (const ggml_fp16_t * p)    { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
static inline vf32  vf_load (const ggml_bf16_t * p)    {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) p)), 16));
}
static inline vf32  vf_load (const int8_t * p)         { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p))); }
static inline void  vf_load_q4_0(const uint8_t * p, vf32 * x) {
    const __m128i q = _mm_loadu_si128((const __m128i *) p);
    const __m128i m = _mm_set1_epi8(15);
    const __m128i z = _mm_set1_epi8(8);
    x[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_sub_epi8(_mm_and_si128(q, m), z)));
    x[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(q, 4), m), z)));
}
static inline void  vf_store(float * p, vf32 x)        { _mm512_storeu_ps(p, x); }
static inline vf32  vf_add  (vf32 a, vf32 b)           { return _mm512_add_ps(a, b); }
static inline vf32  vf_sub  (vf32 a, vf32 b)           { return _mm512_sub_ps(a, b); }
static inline vf32  vf_mul  (vf32 a, vf32 b)           { return _mm512_mul_ps(a, b); }
static inline vf32  vf_fma  (vf32 a, vf32 b, vf32 acc) { return _mm512_fmadd_ps(a, b, acc); }
static inline vf32  vf_max  (vf32 a, vf32 b)           { return _mm512_max_ps(a, b); }
static inline vf32  vf_min  (vf32 a, vf32 b)           { return _mm512_min_ps(a, b); }
static inline uint32_t vf_above(vf32 a, vf32 b)        { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline void  vf_pack (float * p, vf32 x, uint32_t bits) { _mm512_storeu_ps(p, _mm512_maskz_compress_ps((__mmask16) bits, x)); }
static inline vf32  vf_exp  (vf32 x)                   { return ggml_v_expf(x); }
static inline float vf_sum  (vf32 x)                   { return _mm512_reduce_add_ps(x); }
static inline __m256 vf_halves(vf32 x) {
    return _mm256_add_ps(_mm512_castps512_ps256(x), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
}
static inline void  vf_sum4 (float * p, vf32 a, vf32 b, vf32 c, vf32 d) {
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(vf_halves(a), vf_halves(b)), _mm256_hadd_ps(vf_halves(c), vf_halves(d)));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#define VF 8
typedef __m256 vf32;

static inline vf32  vf_zero ()                         { return _mm256_setzero_ps(); }
static inline vf32  vf_set1 (float x)                  { return _mm256_set1_ps(x); }
static inline vf32  vf_load (const float * p)          { return _mm256_loadu_ps(p); }
static inline vf32  vf_load (const ggml_fp16_t * p)    { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
static inline vf32  vf_load (const ggml_bf16_t * p)    {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p)), 16));
}
static inline vf32  vf_load (const int8_t * p)         { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p))); }
static inline void  vf_load_q4_0(const uint8_t * p, vf32 * x) {
    const __m128i m = _mm_set1_epi8(15);
    const __m128i z = _mm_set1_epi8(8);
    for (int i = 0; i < 2; ++i) {
        const __m128i q = _mm_loadl_epi64((const __m128i *) (p + i*8));
        x[i]     = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_sub_epi8(_mm_and_si128(q, m), z)));
        x[i + 2] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(q, 4), m), z)));
    }
}
static inline void  vf_store(float * p, vf32 x)        { _mm256_storeu_ps(p, x); }
static inline vf32  vf_add  (vf32 a, vf32 b)           { return _mm256_add_ps(a, b); }
static inline vf32  vf_sub  (vf32 a, vf32 b)           { return _mm256_sub_ps(a, b); }
static inline vf32  vf_mul  (vf32 a, vf32 b)           { return _mm256_mul_ps(a, b); }
static inline vf32  vf_fma  (vf32 a, vf32 b, vf32 acc) { return _mm256_fmadd_ps(a, b, acc); }
static inline vf32  vf_max  (vf32 a, vf32 b)           { return _mm256_max_ps(a, b); }
static inline vf32  vf_min  (vf32 a, vf32 b)           { return _mm256_min_ps(a, b); }
static inline uint32_t vf_above(vf32 a, vf32 b)        { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
static inline vf32  vf_exp  (vf32 x)                   { return ggml_v_expf(x); }
static inline float vf_sum  (vf32 x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}
static inline void  vf_sum4 (float * p, vf32 a, vf32 b, vf32 c, vf32 d) {
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#elif defined(__ARM_NEON) && defined(__aarch64__)

#define VF 4
typedef float32x4_t vf32;

static inline vf32  vf_zero ()                         { return vdupq_n_f32(0.0f); }
static inline vf32  vf_set1 (float x)                  { return vdupq_n_f32(x); }
static inline vf32  vf_load (const float * p)          { return vld1q_f32(p); }
static inline vf32  vf_load (const ggml_fp16_t * p)    { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *) p))); }
static inline vf32  vf_load (const ggml_bf16_t * p)    {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16((const uint16_t *) p)), 16));
}
static inline vf32  vf_load (const int8_t * p)         {
    uint32_t x;
    memcpy(&x, p, sizeof(x));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(x))))));
}
static inline void  vf_load_q4_0(const uint8_t * p, vf32 * x) {
    const uint8x16_t q    = vld1q_u8(p);
    const int8x16_t  z    = vdupq_n_s8(8);
    const int8x16_t  h[2] = {
        vsubq_s8(vreinterpretq_s8_u8(vandq_u8(q, vdupq_n_u8(15))), z),
        vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(q, 4)), z),
    };
    for (int i = 0; i < 2; ++i) {
        const int16x8_t lo = vmovl_s8(vget_low_s8(h[i]));
        const int16x8_t hi = vmovl_s8(vget_high_s8(h[i]));
        x[4*i + 0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo)));
        x[4*i + 1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo)));
        x[4*i + 2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi)));
        x[4*i + 3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi)));
    }
}
static inline void  vf_store(float * p, vf32 x)        { vst1q_f32(p, x); }
static inline vf32  vf_add  (vf32 a, vf32 b)           { return vaddq_f32(a, b); }
static inline vf32  vf_sub  (vf32 a, vf32 b)           { return vsubq_f32(a, b); }
static inline vf32  vf_mul  (vf32 a, vf32 b)           { return vmulq_f32(a, b); }
static inline vf32  vf_fma  (vf32 a, vf32 b, vf32 acc) { return vfmaq_f32(acc, a, b); }
static inline vf32  vf_max  (vf32 a, vf32 b)           { return vmaxq_f32(a, b); }
static inline vf32  vf_min  (vf32 a, vf32 b)           { return vminq_f32(a, b); }
static inline uint32_t vf_above(vf32 a, vf32 b)        {
    static const uint32_t bits[VF] = { 1, 2, 4, 8 };
    return vaddvq_u32(vandq_u32(vcgtq_f32(a, b), vld1q_u32(bits)));
}
static inline float vf_sum  (vf32 x)                   { return vaddvq_f32(x); }
static inline void  vf_sum4 (float * p, vf32 a, vf32 b, vf32 c, vf32 d) { vst1q_f32(p, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))); }
static inline vf32  vf_exp  (vf32 x) {
#if defined(__ARM_FEATURE_SVE)
    float v[VF]; // ggml's own is for sizeless vectors here
    vst1q_f32(v, x);
    for (int i = 0; i < VF; ++i) {
        v[i] = expf(v[i]);
    }
    return vld1q_f32(v);
#else
    return ggml_v_expf(x);
#endif
}

#else
#define VF_PORTABLE
#endif

#if defined(VF_PORTABLE)

// four lanes in a struct: compilers turn this into vectors where they can
#define VF 4
struct vf32 { float v[VF]; };

#define VF_EACH(expr) vf32 r; for (int i = 0; i < VF; ++i) { r.v[i] = (expr); } return r

static inline vf32  vf_zero ()                         { VF_EACH(0.0f); }
static inline vf32  vf_set1 (float x)                  { VF_EACH(x); }
static inline vf32  vf_load (const float * p)          { VF_EACH(p[i]); }
static inline vf32  vf_load (const ggml_fp16_t * p)    { VF_EACH(GGML_CPU_FP16_TO_FP32(p[i])); }
static inline vf32  vf_load (const ggml_bf16_t * p)    { VF_EACH(GGML_BF16_TO_FP32(p[i])); }
static inline vf32  vf_load (const int8_t      * p)    { VF_EACH(p[i]); }
static inline void  vf_load_q4_0(const uint8_t * p, vf32 * x) {
    for (int i = 0; i < 16; ++i) {
        x[i/VF].v[i%VF]         = (float) ((p[i] & 15) - 8);
        x[16/VF + i/VF].v[i%VF] = (float) ((p[i] >> 4) - 8);
    }
}
static inline void  vf_store(float * p, vf32 x)        { memcpy(p, x.v, sizeof(x.v)); }
static inline vf32  vf_add  (vf32 a, vf32 b)           { VF_EACH(a.v[i] + b.v[i]); }
static inline vf32  vf_sub  (vf32 a, vf32 b)           { VF_EACH(a.v[i] - b.v[i]); }
static inline vf32  vf_mul  (vf32 a, vf32 b)           { VF_EACH(a.v[i]*b.v[i]); }
static inline vf32  vf_fma  (vf32 a, vf32 b, vf32 acc) { VF_EACH(acc.v[i] + a.v[i]*b.v[i]); }
static inline vf32  vf_max  (vf32 a, vf32 b)           { VF_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline vf32  vf_min  (vf32 a, vf32 b)           { VF_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
static inline uint32_t vf_above(vf32 a, vf32 b)        {
    uint32_t res = 0;
    for (int i = 0; i < VF; ++i) {
        res |= (uint32_t) (a.v[i] > b.v[i]) << i;
    }
    return res;
}
static inline vf32  vf_exp  (vf32 x)                   { VF_EACH(expf(x.v[i])); }
static inline float vf_sum  (vf32 x)                   { return (x.v[0] + x.v[1]) + (x.v[2] + x.v[3]); }
static inline void  vf_sum4 (float * p, vf32 a, vf32 b, vf32 c, vf32 d) {
    p[0] = vf_sum(a);
    p[1] = vf_sum(b);
    p[2] = vf_sum(c);
    p[3] = vf_sum(d);
}

#undef VF_EACH

#endif

static inline float vf_scalar(const float       * p) { return *p; }
static inline float vf_scalar(const ggml_fp16_t * p) { return GGML_CPU_FP16_TO_FP32(*p); }
static inline float vf_scalar(const ggml_bf16_t * p) { return GGML_BF16_TO_FP32(*p); }

// keep a vector that is used several times in a register: a compiler may well load it anew for each use
static inline vf32 vf_hold(vf32 x) {
#if defined(__GNUC__) && !defined(VF_PORTABLE)
#if defined(__ARM_NEON)
    __asm__("" : "+w"(x));
#elif VF == 16
    __asm__("" : "+v"(x));
#else
    __asm__("" : "+x"(x));
#endif
#endif
    return x;
}

static constexpr uint32_t VF_BITS = (1u << VF) - 1; // all lanes

// of bits of lanes: the first, of which there must be one, and how many there are
static inline int vf_first(uint32_t bits) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctz(bits);
#else
    int i = 0;
    for (; !(bits >> i & 1); ++i) {}
    return i;
#endif
}

static inline int vf_count(uint32_t bits) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_popcount(bits);
#else
    int n = 0;
    for (; bits; bits &= bits - 1) { ++n; }
    return n;
#endif
}

#if defined(VF_PORTABLE) || VF != 16
static inline void vf_pack(float * p, vf32 x, uint32_t bits) {
    float lanes[VF];
    vf_store(lanes, x);
    for (; bits; bits &= bits - 1) {
        *p++ = lanes[vf_first(bits)];
    }
}
#endif

// ask for the cache line at p in the second cache, which has more misses under way than the first; any address will do
static inline void vf_prefetch(const void * p) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(p, 0, 2);
#elif defined(_M_X64) || defined(_M_IX86)
    _mm_prefetch((const char *) p, _MM_HINT_T1);
#else
    (void) p;
#endif
}
