// retention-attn.cpp - GGML_OP_RETENTION_ATTN on the CPU
//
// The rows of a tile are the query heads of one KV head, for a run of tokens of one sequence: K and V of a page are
// read once for all of them. A tile walks its stream block by block with an online softmax. Tiles with few rows
// (decoding) dot each cell with every row; tiles with many rows (prompt) go through small matrix products.
//
// When there are few tiles, their streams are cut into chunks of cells whose partial results are merged in order. The
// cut depends on the lengths alone, so the result is the same for every number of threads.

#include "retention-cpu.h"
#include "retention-simd.h"
#include "simd-gemm.h"
#include "vec.h"

#include "ggml-retention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace {

constexpr int64_t TILE_ROWS  = 256; // most rows of a tile: the more, the less often a cell is unpacked for a prompt
constexpr int64_t GEMM_ROWS  = 12;  // from here on matrix products are the faster way
constexpr int64_t BLOCK      = 64;  // cells per step of the online softmax
constexpr int64_t N_CHUNKS   = 64;  // chunks that the cells of an op are cut into
constexpr int64_t FEW_TILES  = 32;  // with fewer tiles than this, streams are cut

int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1)/b;
}

// everything about the op that does not change from tile to tile
struct op_view {
    ggml_retention_attn_params p;

    const ggml_tensor * q;
    const ggml_tensor * k;
    const ggml_tensor * v;
    const int32_t     * pages;
    const int32_t     * streams;
    const int32_t     * tokens;
    const float       * sinks;

    int64_t n_embd_k;
    int64_t n_embd_v;
    int64_t n_head;
    int64_t n_tokens;
    int64_t n_group;     // query heads per KV head
    int64_t tile_tokens; // most tokens of a tile

    ggml_from_float_t q_quantize; // null: q stays f32
    ggml_vec_dot_t    q_dot;
    ggml_type         q_type;

    explicit op_view(const ggml_tensor * dst) {
        memcpy(&p, dst->op_params, sizeof(p));

        q       = dst->src[0];
        k       = dst->src[1];
        v       = dst->src[2];
        pages   = (const int32_t *) dst->src[3]->data;
        streams = (const int32_t *) dst->src[4]->data;
        tokens  = (const int32_t *) dst->src[5]->data;
        sinks   = dst->src[6] ? (const float *) dst->src[6]->data : nullptr;

        n_embd_k = k->ne[0];
        n_embd_v = v->ne[0];
        n_head   = q->ne[1];
        n_tokens = q->ne[2];
        n_group  = n_head/p.n_head_kv;

        tile_tokens = std::max<int64_t>(1, TILE_ROWS/n_group);

        const auto * traits = ggml_get_type_traits_cpu(k->type);

        // quantised K is multiplied with q in the type that ggml's own kernels use, as stock attention does
        const bool quantized = ggml_is_quantized(k->type);
        q_type     = quantized ? traits->vec_dot_type : GGML_TYPE_F32;
        q_quantize = quantized ? ggml_get_type_traits_cpu(q_type)->from_float : nullptr;
        q_dot      = quantized ? traits->vec_dot : nullptr;
    }

    const char * k_row(int64_t page, int64_t i) const {
        return (const char *) k->data + (page*p.k_stride + i)*k->nb[1];
    }

    const char * v_row(int64_t page, int64_t i) const {
        return (const char *) v->data + (page*p.v_stride + p.v_first + i)*v->nb[1];
    }

    int64_t rows_max() const {
        return n_group*std::min(tile_tokens, n_tokens);
    }
};

// a run of tokens of one sequence and one KV head
struct tile {
    int64_t t0;
    int64_t n_t;
    int64_t head; // KV head
    int64_t n_rows;

    const int32_t * pages; // of the stream
    int64_t n_old;         // cells before this ubatch
    int64_t n_cells;       // cells that the last token sees
};

// call fn(t0, n_tokens) for each run of tokens of one sequence
template <typename F>
void for_each_run(const op_view & op, F fn) {
    for (int64_t t0 = 0; t0 < op.n_tokens; ) {
        int64_t t1 = t0 + 1;
        while (t1 < op.n_tokens && t1 - t0 < op.tile_tokens && op.tokens[2*t1] == op.tokens[2*t0]) {
            ++t1;
        }
        fn(t0, t1 - t0);
        t0 = t1;
    }
}

tile make_tile(const op_view & op, int64_t t0, int64_t n_t, int64_t head) {
    const int32_t * stream = op.streams + 2*(op.p.stream_first + (int64_t) op.tokens[2*t0]*op.p.stream_stride + head);

    tile res;
    res.t0      = t0;
    res.n_t     = n_t;
    res.head    = head;
    res.n_rows  = n_t*op.n_group;
    res.pages   = op.pages + stream[0];
    res.n_old   = stream[1];
    res.n_cells = res.n_old;
    for (int64_t t = t0; t < t0 + n_t; ++t) {
        res.n_cells = std::max<int64_t>(res.n_cells, res.n_old + op.tokens[2*t + 1]);
    }

    return res;
}

// scratch of one thread, sized for the largest tile
struct scratch {
    float * q;  // [rows, n_embd_k] scaled query rows
    char  * qq; // [rows] the same rows in q_type
    float * s;  // [rows, BLOCK] logits, then probabilities
    float * kt; // [n_embd_k, BLOCK] keys, transposed
    float * kr; // [BLOCK, n_embd_k] keys
    float * vb; // [BLOCK, n_embd_v] values

    static size_t row_bytes_q(const op_view & op) {
        return ggml_row_size(op.q_type, op.n_embd_k);
    }

    static size_t n_floats(const op_view & op) {
        const int64_t rows = op.rows_max();
        return rows*op.n_embd_k + ceil_div(rows*row_bytes_q(op), sizeof(float)) + rows*BLOCK +
               2*op.n_embd_k*BLOCK + BLOCK*op.n_embd_v + 64;
    }

    scratch(const op_view & op, float * base) {
        const int64_t rows = op.rows_max();
        q  = base;
        qq = (char *) (q + rows*op.n_embd_k);
        s  = q  + rows*op.n_embd_k + ceil_div(rows*row_bytes_q(op), sizeof(float));
        kt = s  + rows*BLOCK;
        kr = kt + op.n_embd_k*BLOCK;
        vb = kr + op.n_embd_k*BLOCK;
    }
};

// running softmax of a tile: per row the maximum, the sum and the weighted values
struct softmax_state {
    float * m;   // [rows]
    float * l;   // [rows]
    float * acc; // [rows, n_embd_v]

    static size_t n_floats(const op_view & op) {
        return op.rows_max()*(op.n_embd_v + 2);
    }

    softmax_state(const op_view & op, float * base) {
        m   = base;
        l   = m + op.rows_max();
        acc = l + op.rows_max();
    }

    void reset(int64_t n_rows, int64_t n_embd_v) {
        std::fill(m, m + n_rows, -INFINITY);
        std::fill(l, l + n_rows, 0.0f);
        std::fill(acc, acc + n_rows*n_embd_v, 0.0f);
    }
};

void scale_row(float * x, int64_t n, float f) {
    ggml_vec_scale_f32(n, x, f);
}

void load_q(const op_view & op, const tile & tl, const scratch & sc) {
    const float scale = op.p.softcap != 0.0f ? op.p.scale/op.p.softcap : op.p.scale;

    for (int64_t r = 0; r < tl.n_rows; ++r) {
        const int64_t t = tl.t0 + r/op.n_group;
        const int64_t h = tl.head*op.n_group + r%op.n_group;

        const float * src = (const float *) ((const char *) op.q->data + h*op.q->nb[1] + t*op.q->nb[2]);
        float       * dst = sc.q + r*op.n_embd_k;

        if (op.q_quantize) {
            // q is rounded before it is scaled, so that both ways below see the rounding that stock sees
            char * qq = sc.qq + r*scratch::row_bytes_q(op);
            op.q_quantize(src, qq, op.n_embd_k);
            ggml_get_type_traits(op.q_type)->to_float(qq, dst, op.n_embd_k);
        } else {
            memcpy(dst, src, op.n_embd_k*sizeof(float));
        }
        scale_row(dst, op.n_embd_k, scale);
    }
}

// s[r*BLOCK] = q[r] . k for RB rows
template <int RB, typename T>
void dot_rows(const float * q, int64_t n, const T * k, float * s) {
    vf32 acc[RB];
    for (int r = 0; r < RB; ++r) {
        acc[r] = vf_zero();
    }

    int64_t i = 0;
    for (; i + VF <= n; i += VF) {
        const vf32 x = vf_load(k + i);
        for (int r = 0; r < RB; ++r) {
            acc[r] = vf_fma(vf_load(q + r*n + i), x, acc[r]);
        }
    }

    for (int r = 0; r < RB; ++r) {
        float sum = vf_sum(acc[r]);
        for (int64_t j = i; j < n; ++j) {
            sum += q[r*n + j]*vf_scalar(k + j);
        }
        s[r*BLOCK] = sum;
    }
}

template <typename T>
void dot_cells(const op_view & op, int64_t n_rows, const float * q, const char * k, int64_t n_cells, float * s) {
    const int64_t n = op.n_embd_k;

    for (int64_t c = 0; c < n_cells; ++c) {
        const T * kc = (const T *) (k + c*op.k->nb[1]);

        int64_t r = 0;
        for (; r + 8 <= n_rows; r += 8) { dot_rows<8>(q + r*n, n, kc, s + r*BLOCK + c); }
        for (; r + 4 <= n_rows; r += 4) { dot_rows<4>(q + r*n, n, kc, s + r*BLOCK + c); }
        for (; r + 2 <= n_rows; r += 2) { dot_rows<2>(q + r*n, n, kc, s + r*BLOCK + c); }
        for (; r + 1 <= n_rows; r += 1) { dot_rows<1>(q + r*n, n, kc, s + r*BLOCK + c); }
    }
}

// acc[r, i..] += sum_c s[r, c]*v[c, i..] for RB rows and VB vectors
template <int RB, int VB, typename T>
void add_cells(const float * s, const char * v, size_t nb_v, int64_t n_cells, int64_t n, int64_t i, float * acc) {
    vf32 sum[RB][VB];
    for (int r = 0; r < RB; ++r) {
        for (int b = 0; b < VB; ++b) {
            sum[r][b] = vf_load(acc + r*n + i + b*VF);
        }
    }

    for (int64_t c = 0; c < n_cells; ++c) {
        const T * vc = (const T *) (v + c*nb_v) + i;
        vf32 x[VB];
        for (int b = 0; b < VB; ++b) {
            x[b] = vf_load(vc + b*VF);
        }
        for (int r = 0; r < RB; ++r) {
            const vf32 w = vf_set1(s[r*BLOCK + c]);
            for (int b = 0; b < VB; ++b) {
                sum[r][b] = vf_fma(w, x[b], sum[r][b]);
            }
        }
    }

    for (int r = 0; r < RB; ++r) {
        for (int b = 0; b < VB; ++b) {
            vf_store(acc + r*n + i + b*VF, sum[r][b]);
        }
    }
}

template <int RB, typename T>
void add_rows(const float * s, const char * v, size_t nb_v, int64_t n_cells, int64_t n, float * acc) {
    int64_t i = 0;
    for (; i + 4*VF <= n; i += 4*VF) { add_cells<RB, 4, T>(s, v, nb_v, n_cells, n, i, acc); }
    for (; i + 1*VF <= n; i += 1*VF) { add_cells<RB, 1, T>(s, v, nb_v, n_cells, n, i, acc); }
    for (; i < n; ++i) {
        for (int64_t c = 0; c < n_cells; ++c) {
            const float x = vf_scalar((const T *) (v + c*nb_v) + i);
            for (int r = 0; r < RB; ++r) {
                acc[r*n + i] += s[r*BLOCK + c]*x;
            }
        }
    }
}

template <typename T>
void add_values(int64_t n_rows, const float * s, const char * v, size_t nb_v, int64_t n_cells, int64_t n, float * acc) {
    int64_t r = 0;
    for (; r + 4 <= n_rows; r += 4) { add_rows<4, T>(s + r*BLOCK, v, nb_v, n_cells, n, acc + r*n); }
    for (; r + 2 <= n_rows; r += 2) { add_rows<2, T>(s + r*BLOCK, v, nb_v, n_cells, n, acc + r*n); }
    for (; r + 1 <= n_rows; r += 1) { add_rows<1, T>(s + r*BLOCK, v, nb_v, n_cells, n, acc + r*n); }
}

// call fn(page, first cell in the page, cells, offset in the block) for the runs of cells [c0, c0 + n) of a stream
template <typename F>
void for_each_page_run(const op_view & op, const tile & tl, int64_t c0, int64_t n, F fn) {
    for (int64_t c = c0; c < c0 + n; ) {
        const int64_t i   = c%op.p.page_size;
        const int64_t len = std::min(op.p.page_size - i, c0 + n - c);
        fn(tl.pages[c/op.p.page_size], i, len, c - c0);
        c += len;
    }
}

// logits of a block, one cell after the other
void block_logits_by_cell(const op_view & op, const tile & tl, const scratch & sc, int64_t c0, int64_t n) {
    for_each_page_run(op, tl, c0, n, [&](int64_t page, int64_t i, int64_t len, int64_t at) {
        const char * k = op.k_row(page, i);

        switch (op.k->type) {
            case GGML_TYPE_F32:  dot_cells<float>      (op, tl.n_rows, sc.q, k, len, sc.s + at); return;
            case GGML_TYPE_F16:  dot_cells<ggml_fp16_t>(op, tl.n_rows, sc.q, k, len, sc.s + at); return;
            case GGML_TYPE_BF16: dot_cells<ggml_bf16_t>(op, tl.n_rows, sc.q, k, len, sc.s + at); return;
            default: break;
        }

        const float scale = op.p.softcap != 0.0f ? op.p.scale/op.p.softcap : op.p.scale;
        for (int64_t c = 0; c < len; ++c) {
            for (int64_t r = 0; r < tl.n_rows; ++r) {
                float * s = sc.s + r*BLOCK + at + c;
                op.q_dot(op.n_embd_k, s, 0, k + c*op.k->nb[1], 0, sc.qq + r*scratch::row_bytes_q(op), 0, 1);
                *s *= scale;
            }
        }
    });
}

// x [BLOCK, n] to y [n, BLOCK], in squares that stay in the first cache
void transpose(const float * x, float * y, int64_t n) {
    constexpr int64_t SQUARE = 16;

    for (int64_t c0 = 0; c0 < BLOCK; c0 += SQUARE) {
        for (int64_t i0 = 0; i0 < n; i0 += SQUARE) {
            const int64_t i1 = std::min(i0 + SQUARE, n);
            for (int64_t i = i0; i < i1; ++i) {
                for (int64_t c = c0; c < c0 + SQUARE; ++c) {
                    y[i*BLOCK + c] = x[c*n + i];
                }
            }
        }
    }
}

// logits of a block as one matrix product
void block_logits_by_gemm(const op_view & op, const tile & tl, const scratch & sc, int64_t c0, int64_t n) {
    const auto to_float = ggml_get_type_traits(op.k->type)->to_float;

    for_each_page_run(op, tl, c0, n, [&](int64_t page, int64_t i, int64_t len, int64_t at) {
        const char * k   = op.k_row(page, i);
        float      * dst = sc.kr + at*op.n_embd_k;
        if (op.k->type == GGML_TYPE_F32) {
            memcpy(dst, k, len*op.n_embd_k*sizeof(float));
        } else {
            to_float(k, dst, len*op.n_embd_k);
        }
    });
    memset(sc.kr + n*op.n_embd_k, 0, (BLOCK - n)*op.n_embd_k*sizeof(float));
    transpose(sc.kr, sc.kt, op.n_embd_k);

    memset(sc.s, 0, tl.n_rows*BLOCK*sizeof(float));
    simd_gemm(sc.s, sc.q, sc.kt, tl.n_rows, op.n_embd_k, BLOCK);
}

// the largest of m and n floats
float max_of(const float * x, int64_t n, float m) {
    vf32 acc = vf_set1(m);

    int64_t i = 0;
    for (; i + VF <= n; i += VF) {
        acc = vf_max(acc, vf_load(x + i));
    }

    float lanes[VF];
    vf_store(lanes, acc);
    m = *std::max_element(lanes, lanes + VF);
    for (; i < n; ++i) {
        m = std::max(m, x[i]);
    }
    return m;
}

// soft-cap, causal rule and the step of the online softmax; leaves probabilities in s
void block_softmax(const op_view & op, const tile & tl, const scratch & sc, softmax_state & st, int64_t c0, int64_t n) {
    for (int64_t r = 0; r < tl.n_rows; ++r) {
        const int64_t t   = tl.t0 + r/op.n_group;
        const int64_t vis = std::min(n, tl.n_old + op.tokens[2*t + 1] - c0);

        float * s = sc.s + r*BLOCK;

        if (vis <= 0) {
            std::fill(s, s + n, 0.0f);
            continue;
        }
        if (op.p.softcap != 0.0f) {
            for (int64_t c = 0; c < vis; ++c) {
                s[c] = op.p.softcap*tanhf(s[c]);
            }
        }

        const float m = max_of(s, vis, st.m[r]);
        if (m > st.m[r]) {
            const float f = expf(st.m[r] - m);
            st.l[r] *= f;
            scale_row(st.acc + r*op.n_embd_v, op.n_embd_v, f);
            st.m[r] = m;
        }

        st.l[r] += (float) ggml_vec_soft_max_f32(vis, s, s, m);
        std::fill(s + vis, s + n, 0.0f);
    }
}

void block_values(const op_view & op, const tile & tl, const scratch & sc, softmax_state & st, int64_t c0, int64_t n) {
    const bool gemm     = tl.n_rows >= GEMM_ROWS;
    const auto to_float = ggml_get_type_traits(op.v->type)->to_float;

    for_each_page_run(op, tl, c0, n, [&](int64_t page, int64_t i, int64_t len, int64_t at) {
        const char  * v = op.v_row(page, i);
        const float * s = sc.s + at;

        if (!gemm) {
            switch (op.v->type) {
                case GGML_TYPE_F32:  add_values<float>      (tl.n_rows, s, v, op.v->nb[1], len, op.n_embd_v, st.acc); return;
                case GGML_TYPE_F16:  add_values<ggml_fp16_t>(tl.n_rows, s, v, op.v->nb[1], len, op.n_embd_v, st.acc); return;
                case GGML_TYPE_BF16: add_values<ggml_bf16_t>(tl.n_rows, s, v, op.v->nb[1], len, op.n_embd_v, st.acc); return;
                default: break;
            }
        }

        // the V rows of a page follow each other, so they unpack in one go
        float * vb = sc.vb + at*op.n_embd_v;
        if (op.v->type == GGML_TYPE_F32) {
            memcpy(vb, v, len*op.n_embd_v*sizeof(float));
        } else {
            to_float(v, vb, len*op.n_embd_v);
        }
        if (!gemm) {
            add_values<float>(tl.n_rows, s, (const char *) vb, op.n_embd_v*sizeof(float), len, op.n_embd_v, st.acc);
        }
    });

    if (gemm) {
        // the product wants the probabilities without gaps between the rows
        if (n < BLOCK) {
            for (int64_t r = 1; r < tl.n_rows; ++r) {
                memmove(sc.s + r*n, sc.s + r*BLOCK, n*sizeof(float));
            }
        }
        simd_gemm(st.acc, sc.s, sc.vb, tl.n_rows, n, op.n_embd_v);
    }
}

// add the cells [c0, c1) of the stream to the state
void run_tile(const op_view & op, const tile & tl, const scratch & sc, softmax_state & st, int64_t c0, int64_t c1) {
    load_q(op, tl, sc);
    st.reset(tl.n_rows, op.n_embd_v);

    for (int64_t c = c0; c < c1; c += BLOCK) {
        const int64_t n = std::min(BLOCK, c1 - c);

        if (tl.n_rows >= GEMM_ROWS) {
            block_logits_by_gemm(op, tl, sc, c, n);
        } else {
            block_logits_by_cell(op, tl, sc, c, n);
        }
        block_softmax(op, tl, sc, st, c, n);
        block_values (op, tl, sc, st, c, n);
    }
}

// st += other, row r
void merge_row(const op_view & op, softmax_state & st, const softmax_state & other, int64_t r) {
    if (other.m[r] == -INFINITY) {
        return;
    }

    const float m = std::max(st.m[r], other.m[r]);
    const float a = expf(st.m[r]    - m);
    const float b = expf(other.m[r] - m);

    st.m[r] = m;
    st.l[r] = st.l[r]*a + other.l[r]*b;

    float       * x = st.acc    + r*op.n_embd_v;
    const float * y = other.acc + r*op.n_embd_v;
    for (int64_t i = 0; i < op.n_embd_v; ++i) {
        x[i] = x[i]*a + y[i]*b;
    }
}

void store_row(const op_view & op, const tile & tl, const softmax_state & st, int64_t r, ggml_tensor * dst) {
    const int64_t t = tl.t0 + r/op.n_group;
    const int64_t h = tl.head*op.n_group + r%op.n_group;

    float m = st.m[r];
    float l = st.l[r];
    float f = 1.0f;
    if (op.sinks) {
        const float m_sink = std::max(m, op.sinks[h]);
        f = expf(m - m_sink);
        l = l*f + expf(op.sinks[h] - m_sink);
    }

    float       * out = (float *) ((char *) dst->data + h*dst->nb[1] + t*dst->nb[2]);
    const float * acc = st.acc + r*op.n_embd_v;
    const float   inv = l > 0.0f ? f/l : 0.0f;
    for (int64_t i = 0; i < op.n_embd_v; ++i) {
        out[i] = acc[i]*inv;
    }
}

} // namespace

size_t ggml_retention_attn_work_size(const ggml_tensor * dst, int n_threads) {
    const op_view op(dst);

    const size_t per_thread = scratch::n_floats(op) + softmax_state::n_floats(op) + 64;
    const size_t partials   = (N_CHUNKS + FEW_TILES)*softmax_state::n_floats(op);

    return (n_threads*per_thread + partials)*sizeof(float);
}

void ggml_compute_forward_retention_attn(const ggml_compute_params * params, ggml_tensor * dst) {
    const op_view op(dst);

    const size_t per_thread = scratch::n_floats(op) + softmax_state::n_floats(op) + 64;

    float * base     = (float *) params->wdata + params->ith*per_thread;
    float * partials = (float *) params->wdata + params->nth*per_thread;

    const scratch sc(op, base);
    softmax_state st(op, base + scratch::n_floats(op));

    int64_t n_runs  = 0;
    int64_t n_cells = 0;
    for_each_run(op, [&](int64_t t0, int64_t n_t) {
        ++n_runs;
        for (int64_t h = 0; h < op.p.n_head_kv; ++h) {
            n_cells += make_tile(op, t0, n_t, h).n_cells;
        }
    });

    const bool    cut      = n_runs*op.p.n_head_kv < FEW_TILES;
    const int64_t per_cut  = cut ? ceil_div(std::max<int64_t>(1, ceil_div(n_cells, N_CHUNKS)), BLOCK)*BLOCK : INT64_MAX;

    const auto n_cuts = [&](const tile & tl) -> int64_t {
        return cut ? std::max<int64_t>(1, ceil_div(tl.n_cells, per_cut)) : 1;
    };

    // threads take the next piece of work as they become free: streams have very different lengths
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    int64_t mine = params->ith;
    int64_t at   = 0;
    for_each_run(op, [&](int64_t t0, int64_t n_t) {
        for (int64_t h = 0; h < op.p.n_head_kv; ++h) {
            const tile    tl = make_tile(op, t0, n_t, h);
            const int64_t n  = n_cuts(tl);

            for (int64_t i = 0; i < n; ++i, ++at) {
                if (at != mine) {
                    continue;
                }
                mine = ggml_threadpool_chunk_add(params->threadpool, 1);

                if (n == 1) {
                    run_tile(op, tl, sc, st, 0, tl.n_cells);
                    for (int64_t r = 0; r < tl.n_rows; ++r) {
                        store_row(op, tl, st, r, dst);
                    }
                } else {
                    softmax_state part(op, partials + at*softmax_state::n_floats(op));
                    run_tile(op, tl, sc, part, i*per_cut, std::min((i + 1)*per_cut, tl.n_cells));
                }
            }
        }
    });

    if (!cut) {
        return;
    }

    ggml_barrier(params->threadpool);

    at = 0;
    int64_t row = 0;
    for_each_run(op, [&](int64_t t0, int64_t n_t) {
        for (int64_t h = 0; h < op.p.n_head_kv; ++h) {
            const tile    tl = make_tile(op, t0, n_t, h);
            const int64_t n  = n_cuts(tl);

            for (int64_t r = 0; n > 1 && r < tl.n_rows; ++r, ++row) {
                if (row%params->nth != params->ith) {
                    continue;
                }
                softmax_state sum(op, partials + at*softmax_state::n_floats(op));
                for (int64_t i = 1; i < n; ++i) {
                    merge_row(op, sum, softmax_state(op, partials + (at + i)*softmax_state::n_floats(op)), r);
                }
                store_row(op, tl, sum, r, dst);
            }
            at += n;
        }
    });
}
