#include "retention-scan.h"
#include "retention-rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace retention {

namespace {

constexpr int64_t BLOCK = 32; // numbers of a block, of either type

// A block's numbers with an offset that makes them unsigned: 8 or 128. The sums of products in fours are of the unsigned numbers
// with queries of either sign; less has what that is too much.

#if !defined(RETENTION_PORTABLE) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

struct sums { __m256 v; };

inline sums zero() { return { _mm256_setzero_ps() }; }

inline __m256i unsigned_of(const block_q4_0 & b) {
    const __m128i x = _mm_loadu_si128((const __m128i *) b.qs);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), _mm256_set1_epi8(15));
}

inline __m256i unsigned_of(const block_q8_0 & b) {
    return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *) b.qs), _mm256_set1_epi8((char) 0x80));
}

struct query { __m256i q, less; };

inline query load_block(const int8_t * q, const int32_t * less) {
    return { _mm256_loadu_si256((const __m256i *) q), _mm256_loadu_si256((const __m256i *) less) };
}

// acc += d*(k.q + less) in fours
inline sums add_block(sums acc, __m256i k, float d, const query & x, bool wide) {
    const __m256i y = x.q;
    __m256i       p = x.less;
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    (void) wide;
    p = _mm256_dpbusd_epi32(p, k, y);
#elif defined(__AVXVNNI__)
    (void) wide;
    p = _mm256_dpbusd_avx_epi32(p, k, y);
#else
    if (wide) { // products of two may not fit 16 bits
        const __m256i k0 = _mm256_unpacklo_epi8(k, _mm256_setzero_si256());
        const __m256i k1 = _mm256_unpackhi_epi8(k, _mm256_setzero_si256());
        const __m256i y0 = _mm256_srai_epi16(_mm256_unpacklo_epi8(_mm256_setzero_si256(), y), 8);
        const __m256i y1 = _mm256_srai_epi16(_mm256_unpackhi_epi8(_mm256_setzero_si256(), y), 8);
        p = _mm256_add_epi32(p, _mm256_hadd_epi32(_mm256_madd_epi16(k0, y0), _mm256_madd_epi16(k1, y1)));
    } else {
        p = _mm256_add_epi32(p, _mm256_madd_epi16(_mm256_maddubs_epi16(k, y), _mm256_set1_epi16(1)));
    }
#endif
    return { _mm256_fmadd_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(p), acc.v) };
}

inline void store4(float * s, sums a, sums b, sums c, sums d) {
    const __m256 x = _mm256_hadd_ps(_mm256_hadd_ps(a.v, b.v), _mm256_hadd_ps(c.v, d.v));
    _mm_storeu_ps(s, _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}

#elif !defined(RETENTION_PORTABLE) && defined(__ARM_NEON) && defined(__aarch64__)

struct sums { float32x4_t v; };

inline sums zero() { return { vdupq_n_f32(0.0f) }; }

struct bytes { uint8x16_t lo, hi; };

inline bytes unsigned_of(const block_q4_0 & b) {
    const uint8x16_t x = vld1q_u8(b.qs);
    return { vandq_u8(x, vdupq_n_u8(15)), vshrq_n_u8(x, 4) };
}

inline bytes unsigned_of(const block_q8_0 & b) {
    const uint8x16_t flip = vdupq_n_u8(0x80);
    return { veorq_u8(vreinterpretq_u8_s8(vld1q_s8(b.qs)), flip), veorq_u8(vreinterpretq_u8_s8(vld1q_s8(b.qs + 16)), flip) };
}

// products of 16 numbers, added up in fours
inline int32x4_t fours(uint8x16_t k, int8x16_t y) {
    const int16x8_t lo_k = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(k))), hi_k = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(k)));
    const int16x8_t lo_y = vmovl_s8(vget_low_s8(y)), hi_y = vmovl_s8(vget_high_s8(y));

    const int32x4_t a = vmull_s16(vget_low_s16(lo_k), vget_low_s16(lo_y)), b = vmull_s16(vget_high_s16(lo_k), vget_high_s16(lo_y));
    const int32x4_t c = vmull_s16(vget_low_s16(hi_k), vget_low_s16(hi_y)), d = vmull_s16(vget_high_s16(hi_k), vget_high_s16(hi_y));
    return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
}

struct query { int8x16_t lo, hi; int32x4_t less; };

inline query load_block(const int8_t * q, const int32_t * less) {
    return { vld1q_s8(q), vld1q_s8(q + 16), vaddq_s32(vld1q_s32(less), vld1q_s32(less + 4)) };
}

inline sums add_block(sums acc, bytes k, float d, const query & x, bool) {
    const int32x4_t p = vaddq_s32(x.less, vaddq_s32(fours(k.lo, x.lo), fours(k.hi, x.hi)));
    return { vfmaq_n_f32(acc.v, vcvtq_f32_s32(p), d) };
}

inline void store4(float * s, sums a, sums b, sums c, sums d) {
    vst1q_f32(s, vpaddq_f32(vpaddq_f32(a.v, b.v), vpaddq_f32(c.v, d.v)));
}

#else

struct sums { float v; };

inline sums zero() { return { 0.0f }; }

struct bytes { uint8_t v[BLOCK]; };

inline bytes unsigned_of(const block_q4_0 & b) {
    bytes res;
    for (int64_t i = 0; i < BLOCK/2; ++i) {
        res.v[i]           = b.qs[i] & 15;
        res.v[i + BLOCK/2] = b.qs[i] >> 4;
    }
    return res;
}

inline bytes unsigned_of(const block_q8_0 & b) {
    bytes res;
    for (int64_t i = 0; i < BLOCK; ++i) {
        res.v[i] = (uint8_t) (b.qs[i] + 128);
    }
    return res;
}

struct query { const int8_t * q; const int32_t * less; };

inline query load_block(const int8_t * q, const int32_t * less) { return { q, less }; }

inline sums add_block(sums acc, const bytes & k, float d, const query & x, bool) {
    int32_t p = 0;
    for (int64_t i = 0; i < BLOCK; ++i) {
        p += k.v[i]*x.q[i];
    }
    for (int64_t i = 0; i < BLOCK/4; ++i) {
        p += x.less[i];
    }
    return { acc.v + d*p };
}

inline void store4(float * s, sums a, sums b, sums c, sums d) {
    s[0] = a.v;
    s[1] = b.v;
    s[2] = c.v;
    s[3] = d.v;
}

#endif

// RB queries with four cells, of which the first n are there
template <typename BLOCK_T, int RB>
void scan_four(const scan_queries & q, int64_t r0, const char * keys, int64_t n, float * s, int64_t stride) {
    const size_t nb = q.n_embd/BLOCK*sizeof(BLOCK_T);

    const BLOCK_T * rows[4];
    sums            acc[RB][4];
    VF_UNROLL
    for (int c = 0; c < 4; ++c) {
        rows[c] = (const BLOCK_T *) (keys + std::min<int64_t>(c, n - 1)*nb);
        for (int r = 0; r < RB; ++r) {
            acc[r][c] = zero();
        }
    }

    for (int64_t i = 0; i < q.n_embd/BLOCK; ++i) {
        query x[RB];
        VF_UNROLL
        for (int r = 0; r < RB; ++r) {
            const int64_t at = (r0 + r)*q.n_embd + i*BLOCK;
            x[r] = load_block(q.q + at, q.less + at/4);
        }
        VF_UNROLL
        for (int c = 0; c < 4; ++c) {
            const auto  k = unsigned_of(rows[c][i]);
            const float d = GGML_CPU_COMPUTE_FP16_TO_FP32(rows[c][i].d); // not from a table, which the first cache cannot hold
            for (int r = 0; r < RB; ++r) {
                acc[r][c] = add_block(acc[r][c], k, d, x[r], sizeof(BLOCK_T) == sizeof(block_q8_0));
            }
        }
    }

    VF_UNROLL
    for (int r = 0; r < RB; ++r) {
        float four[4];
        store4(four, acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
        const float scale = q.scale[r0 + r];
        for (float & x : four) {
            x *= scale;
        }
        memcpy(s + (r0 + r)*stride, four, n*sizeof(float));
    }
}

template <typename BLOCK_T>
void scan_rows(const scan_queries & q, const char * keys, int64_t n_cells, float * s, int64_t stride, const char * next) {
    const size_t nb = q.n_embd/BLOCK*sizeof(BLOCK_T);
    for (int64_t c = 0; c < n_cells; c += 4) {
        const int64_t n = std::min<int64_t>(4, n_cells - c);

        // pages lie anywhere: ask for the next one while this one is read
        for (size_t i = 0; next && i < 4*nb; i += 64) {
            vf_prefetch(next + c*nb + i);
        }

        int64_t r = 0;
        for (; r + 2 <= q.n_rows; r += 2) { scan_four<BLOCK_T, 2>(q, r, keys + c*nb, n, s + c, stride); }
        for (; r     <  q.n_rows; r += 1) { scan_four<BLOCK_T, 1>(q, r, keys + c*nb, n, s + c, stride); }
    }
}

} // namespace

void scan_queries::load(const float * x, ggml_type type) {
    const int32_t offset = type == GGML_TYPE_Q4_0 ? 8 : 128;
    for (int64_t r = 0; r < n_rows; ++r, x += n_embd) {
        float most = 0.0f;
        for (int64_t i = 0; i < n_embd; ++i) {
            most = std::max(most, fabsf(x[i]));
        }
        scale[r] = most/127.0f;

        const float inv = most > 0.0f ? 127.0f/most : 0.0f;
        for (int64_t i = 0; i < n_embd; ++i) {
            q[r*n_embd + i] = (int8_t) roundf(x[i]*inv);
        }
        for (int64_t i = 0; i < n_embd/4; ++i) {
            const int8_t * four = q + r*n_embd + 4*i;
            less[r*n_embd/4 + i] = -offset*(four[0] + four[1] + four[2] + four[3]);
        }
    }
}

void scan_keys(const scan_queries & q, ggml_type type, const char * keys, int64_t n_cells, float * s, int64_t stride, const char * next) {
    if (type == GGML_TYPE_Q4_0) {
        scan_rows<block_q4_0>(q, keys, n_cells, s, stride, next);
    } else {
        scan_rows<block_q8_0>(q, keys, n_cells, s, stride, next);
    }
}

} // namespace retention
