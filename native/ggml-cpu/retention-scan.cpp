// retention-scan.cpp - products of archived keys with queries of 8 bits
//
// As many keys as a vector has lanes are widened to bytes and turned so that a lane holds one of them. Their products with a query
// then need no sums over lanes, and what turning costs is shared by all queries: those of a group of heads, and of the tokens of a
// prompt.

#include "retention-scan.h"
#include "retention-scan-simd.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace retention {

namespace {

constexpr int64_t BLOCK = scan_queries::BLOCK;

static_assert(LANES <= scan_queries::MAX_LANES);

inline void store_block(uint8_t * dst, const uint8_t * const * qs, block_q4_0 *) {
    lane_bytes x[4];
    lanes_transpose(qs, x);
    VF_UNROLL
    for (int i = 0; i < 4; ++i) {
        lanes_store(dst + i*4*LANES,       lanes_low(x[i]));
        lanes_store(dst + (4 + i)*4*LANES, lanes_high(x[i]));
    }
}

inline void store_block(uint8_t * dst, const uint8_t * const * qs, block_q8_0 *) {
    const uint8_t * high[LANES];
    for (int k = 0; k < LANES; ++k) {
        high[k] = qs[k] + 16;
    }
    lane_bytes x[8];
    lanes_transpose(qs,   x);
    lanes_transpose(high, x + 4);
    VF_UNROLL
    for (int i = 0; i < 8; ++i) {
        lanes_store(dst + i*4*LANES, offset_of<block_q8_0>() ? lanes_flip(x[i]) : x[i]);
    }
}

// widen and turn a lane's worth of keys, of which the first n are there
template <typename BLOCK_T>
void turn_keys(const scan_queries & q, const char * keys, int64_t n) {
    const int64_t n_blocks = q.n_embd/BLOCK;

    const BLOCK_T * rows[LANES];
    for (int k = 0; k < LANES; ++k) {
        rows[k] = (const BLOCK_T *) keys + std::min<int64_t>(k, n - 1)*n_blocks;
    }
    for (int64_t i = 0; i < n_blocks; ++i) {
        const uint8_t * qs[LANES];
        ggml_fp16_t     d [LANES];
        VF_UNROLL
        for (int k = 0; k < LANES; ++k) {
            qs[k] = (const uint8_t *) rows[k][i].qs;
            d [k] = rows[k][i].d;
        }
        store_block(q.keys + i*BLOCK*LANES, qs, (BLOCK_T *) nullptr);
        lanes_store(q.scales + i*LANES, lanes_half(d));
    }
}

// RB queries with the keys that were turned
template <typename BLOCK_T, int RB>
void multiply(const scan_queries & q, int64_t r0, float * s, int64_t stride) {
    const int64_t n_blocks = q.n_embd/BLOCK;

    const int8_t  * x    = q.q    + r0*q.n_embd;
    const int32_t * less = q.less + r0*n_blocks;

    lane_f32 acc[RB];
    VF_UNROLL
    for (int r = 0; r < RB; ++r) {
        acc[r] = lanes_zero();
    }
    for (int64_t i = 0; i < n_blocks; ++i) {
        lane_products<BLOCK_T> p[RB];
        VF_UNROLL
        for (int r = 0; r < RB; ++r) {
            p[r].start(less[r*n_blocks + i]);
        }
        VF_UNROLL
        for (int j = 0; j < BLOCK/4; ++j) {
            const lane_bytes k = lanes_load(q.keys + (i*BLOCK/4 + j)*4*LANES);
            VF_UNROLL
            for (int r = 0; r < RB; ++r) {
                p[r].add(k, four_of(x + r*q.n_embd + i*BLOCK + 4*j));
            }
        }
        const lane_f32 d = lanes_load(q.scales + i*LANES);
        VF_UNROLL
        for (int r = 0; r < RB; ++r) {
            acc[r] = lanes_add(acc[r], p[r].end(), d);
        }
    }
    VF_UNROLL
    for (int r = 0; r < RB; ++r) {
        lanes_store(s + (r0 + r)*stride, lanes_scale(acc[r], q.scale[r0 + r]));
    }
}

template <typename BLOCK_T>
void scan_rows(const scan_queries & q, const char * keys, int64_t n_cells, float * s, int64_t stride, const char * next) {
    const size_t nb = q.n_embd/BLOCK*sizeof(BLOCK_T);
    for (int64_t c = 0; c < n_cells; c += LANES) {
        // pages lie anywhere: ask for the next one while this one is read
        for (size_t i = 0; next && i < LANES*nb; i += 64) {
            vf_prefetch(next + c*nb + i);
        }
        turn_keys<BLOCK_T>(q, keys + c*nb, std::min<int64_t>(LANES, n_cells - c));

        int64_t r = 0;
        for (; r + SCAN_ROWS <= q.n_rows; r += SCAN_ROWS) { multiply<BLOCK_T, SCAN_ROWS>(q, r, s + c, stride); }
        if constexpr (SCAN_ROWS > 4) {
            for (; r + 4 <= q.n_rows; r += 4) { multiply<BLOCK_T, 4>(q, r, s + c, stride); }
        }
        for (; r + 2 <= q.n_rows; r += 2) { multiply<BLOCK_T, 2>(q, r, s + c, stride); }
        for (; r     <  q.n_rows; r += 1) { multiply<BLOCK_T, 1>(q, r, s + c, stride); }
    }
}

} // namespace

void scan_queries::load(const float * x, ggml_type type) {
    const int32_t offset = type == GGML_TYPE_Q4_0 ? offset_of<block_q4_0>() : offset_of<block_q8_0>();
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
        for (int64_t i = 0; i < n_embd; i += BLOCK) {
            int32_t sum = 0;
            for (int64_t j = 0; j < BLOCK; ++j) {
                sum += q[r*n_embd + i + j];
            }
            less[(r*n_embd + i)/BLOCK] = -offset*sum;
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
