// retention-simd.h - a vector of floats, and loads of f32, f16 and bf16 into it
//
// VF lanes; every function has a portable form, so that the kernels are written once.

#pragma once

#include "ggml-cpu-impl.h"
#include "simd-mappings.h"

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)

#define VF 16
typedef __m512 vf32;

static inline vf32  vf_zero ()                         { return _mm512_setzero_ps(); }
static inline vf32  vf_set1 (float x)                  { return _mm512_set1_ps(x); }
static inline vf32  vf_load (const float * p)          { return _mm512_loadu_ps(p); }
static inline vf32  vf_load (const ggml_fp16_t * p)    { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
static inline vf32  vf_load (const ggml_bf16_t * p)    {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) p)), 16));
}
static inline void  vf_store(float * p, vf32 x)        { _mm512_storeu_ps(p, x); }
static inline vf32  vf_fma  (vf32 a, vf32 b, vf32 acc) { return _mm512_fmadd_ps(a, b, acc); }
static inline vf32  vf_max  (vf32 a, vf32 b)           { return _mm512_max_ps(a, b); }
static inline float vf_sum  (vf32 x)                   { return _mm512_reduce_add_ps(x); }

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
static inline void  vf_store(float * p, vf32 x)        { _mm256_storeu_ps(p, x); }
static inline vf32  vf_fma  (vf32 a, vf32 b, vf32 acc) { return _mm256_fmadd_ps(a, b, acc); }
static inline vf32  vf_max  (vf32 a, vf32 b)           { return _mm256_max_ps(a, b); }
static inline float vf_sum  (vf32 x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
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
static inline void  vf_store(float * p, vf32 x)        { vst1q_f32(p, x); }
static inline vf32  vf_fma  (vf32 a, vf32 b, vf32 acc) { return vfmaq_f32(acc, a, b); }
static inline vf32  vf_max  (vf32 a, vf32 b)           { return vmaxq_f32(a, b); }
static inline float vf_sum  (vf32 x)                   { return vaddvq_f32(x); }

#else

// four lanes in a struct: compilers turn this into vectors where they can
#define VF 4
struct vf32 { float v[VF]; };

#define VF_EACH(expr) vf32 r; for (int i = 0; i < VF; ++i) { r.v[i] = (expr); } return r

static inline vf32  vf_zero ()                         { VF_EACH(0.0f); }
static inline vf32  vf_set1 (float x)                  { VF_EACH(x); }
static inline vf32  vf_load (const float * p)          { VF_EACH(p[i]); }
static inline vf32  vf_load (const ggml_fp16_t * p)    { VF_EACH(GGML_CPU_FP16_TO_FP32(p[i])); }
static inline vf32  vf_load (const ggml_bf16_t * p)    { VF_EACH(GGML_BF16_TO_FP32(p[i])); }
static inline void  vf_store(float * p, vf32 x)        { memcpy(p, x.v, sizeof(x.v)); }
static inline vf32  vf_fma  (vf32 a, vf32 b, vf32 acc) { VF_EACH(acc.v[i] + a.v[i]*b.v[i]); }
static inline vf32  vf_max  (vf32 a, vf32 b)           { VF_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline float vf_sum  (vf32 x)                   { return (x.v[0] + x.v[1]) + (x.v[2] + x.v[3]); }

#undef VF_EACH

#endif

static inline float vf_scalar(const float       * p) { return *p; }
static inline float vf_scalar(const ggml_fp16_t * p) { return GGML_CPU_FP16_TO_FP32(*p); }
static inline float vf_scalar(const ggml_bf16_t * p) { return GGML_BF16_TO_FP32(*p); }
