// retention-attn-prompt.cpp - tiles of many rows: products of small matrices over unpacked cells
//
// Logits are computed transposed, cells down and rows across: K is then read as it lies, the softmax works on whole
// vectors of rows, and the probabilities lie as the second product wants them. Rows go in panels of two vectors, packed
// once per tile; cells in blocks, unpacked once per tile. A panel's operands stay in the first cache.

#include "retention-attn.h"
#include "retention-rows.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

namespace retention {

namespace {

// Chosen by counting registers and bytes, not measured one by one: together they reach 185 to 194 of some 200 GFLOP/s at 512
// tokens (bench-attention, docs/reference/performance-parts.md).

// cells per step of the running softmax: at head size 128 their keys are 32 KB, which stay in the L2 cache for all panels
constexpr int64_t BLOCK = 64;

// rows of a panel, or values: two vectors
constexpr int64_t PANEL = 2*VF;

// rows of the register block; with two vectors each they fill 16 registers (AVX2) or half of 32
constexpr int RB = VF == 8 ? 6 : 8;

struct prompt_buffers {
    float * q;  // [panels, n_embd_k, PANEL] scaled query rows
    float * k;  // [BLOCK, n_embd_k] keys
    float * v;  // [acc_stride/PANEL, BLOCK, PANEL] values
    float * s;  // [BLOCK, PANEL] logits of a panel, then probabilities
    float * f;  // [PANEL] what a panel's weighted values are rescaled with
    float * x;  // [BLOCK, n_embd] rows of a type without a reader; query rows before

    static int64_t n_rows(const attn_op & op) {
        return round_up(op.rows_max(), PANEL);
    }

    static size_t n_floats(const attn_op & op) {
        return n_rows(op)*op.n_embd_k + BLOCK*op.n_embd_k + BLOCK*op.acc_stride + BLOCK*PANEL + PANEL +
               BLOCK*std::max(op.n_embd_k, op.n_embd_v);
    }

    prompt_buffers(const attn_op & op, float * base) {
        q = base;
        k = q + n_rows(op)*op.n_embd_k;
        v = k + BLOCK*op.n_embd_k;
        s = v + BLOCK*op.acc_stride;
        f = s + BLOCK*PANEL;
        x = f + PANEL;
    }
};

// acc[r][j] += sum_i a(r, i)*b[i, j] for N_ROWS rows and NV vectors; a is down its columns if ADJACENT, else along its rows
template <int N_ROWS, int NV, bool ADJACENT>
inline void multiply(const float * a, int64_t a_stride, const float * b, int64_t n, vf32 (&acc)[N_ROWS][NV]) {
    for (int64_t i = 0; i < n; ++i) {
        vf32 x[NV];
        for (int j = 0; j < NV; ++j) {
            x[j] = vf_load(b + i*PANEL + j*VF);
        }
        for (int r = 0; r < N_ROWS; ++r) {
            const vf32 w = vf_set1(ADJACENT ? a[i*a_stride + r] : a[r*a_stride + i]);
            for (int j = 0; j < NV; ++j) {
                acc[r][j] = vf_fma(w, x[j], acc[r][j]);
            }
        }
    }
}

// s [cells, PANEL] = k [cells, n] . q [n, PANEL]
template <int N_CELLS, int NV>
void logits_block(const float * k, const float * q, int64_t n, float * s) {
    vf32 acc[N_CELLS][NV];
    VF_UNROLL
    for (int c = 0; c < N_CELLS; ++c) {
        for (int j = 0; j < NV; ++j) {
            acc[c][j] = vf_zero();
        }
    }
    multiply<N_CELLS, NV, false>(k, n, q, n, acc);
    VF_UNROLL
    for (int c = 0; c < N_CELLS; ++c) {
        for (int j = 0; j < NV; ++j) {
            vf_store(s + c*PANEL + j*VF, acc[c][j]);
        }
    }
}

// acc [rows, PANEL] = acc*f + s [cells, rows] . v [cells, PANEL]
template <int N_ROWS>
void values_block(const float * s, const float * f, const float * v, int64_t n_cells, float * acc, int64_t stride) {
    vf32 sum[N_ROWS][2];
    VF_UNROLL
    for (int r = 0; r < N_ROWS; ++r) {
        for (int j = 0; j < 2; ++j) {
            sum[r][j] = vf_mul(vf_load(acc + r*stride + j*VF), vf_set1(f[r]));
        }
    }
    multiply<N_ROWS, 2, true>(s, PANEL, v, n_cells, sum);
    VF_UNROLL
    for (int r = 0; r < N_ROWS; ++r) {
        for (int j = 0; j < 2; ++j) {
            vf_store(acc + r*stride + j*VF, sum[r][j]);
        }
    }
}

template <int NV>
void panel_logits(const float * k, const float * q, int64_t n, int64_t n_cells, float * s) {
    int64_t c = 0;
    for (; c + RB <= n_cells; c += RB) { logits_block<RB, NV>(k + c*n, q, n, s + c*PANEL); }
    for (; c + 4  <= n_cells; c += 4)  { logits_block<4,  NV>(k + c*n, q, n, s + c*PANEL); }
    for (; c + 1  <= n_cells; c += 1)  { logits_block<1,  NV>(k + c*n, q, n, s + c*PANEL); }
}

void panel_values(const float * s, const float * f, const float * v, int64_t n_cells, int64_t n_rows, float * acc, int64_t stride) {
    for (int64_t i = 0; i < stride; i += PANEL, v += BLOCK*PANEL) {
        int64_t r = 0;
        for (; r + RB <= n_rows; r += RB) { values_block<RB>(s + r, f + r, v, n_cells, acc + r*stride + i, stride); }
        for (; r + 4  <= n_rows; r += 4)  { values_block<4> (s + r, f + r, v, n_cells, acc + r*stride + i, stride); }
        for (; r + 1  <= n_rows; r += 1)  { values_block<1> (s + r, f + r, v, n_cells, acc + r*stride + i, stride); }
    }
}

// a step of the running softmax of NV vectors of rows; leaves probabilities in s, and in f what older sums are scaled with
template <int NV>
void panel_softmax(float * s, int64_t n_cells, float * m, float * l, float * f) {
    const vf32 lowest = vf_set1(-FLT_MAX); // instead of -inf where a row sees no cell, whose difference from itself is no number

    for (int j = 0; j < NV; ++j, s += VF, m += VF, l += VF, f += VF) {
        const vf32 m_old = vf_load(m);

        vf32 m_new = m_old;
        for (int64_t c = 0; c < n_cells; ++c) {
            m_new = vf_max(m_new, vf_load(s + c*PANEL));
        }
        vf_store(m, m_new);
        m_new = vf_max(m_new, lowest);

        vf32 sum = vf_zero();
        for (int64_t c = 0; c < n_cells; ++c) {
            const vf32 p = vf_exp(vf_sub(vf_load(s + c*PANEL), m_new));
            vf_store(s + c*PANEL, p);
            sum = vf_add(sum, p);
        }

        const vf32 scale = vf_exp(vf_sub(m_old, m_new));
        vf_store(f, scale);
        vf_store(l, vf_fma(vf_load(l), scale, sum));
    }
}

// widen n rows of cells that follow each other; row c, vector i goes to dst(c, i)
template <typename F>
void unpack_rows(const ggml_tensor * t, const char * src, int64_t n_rows, float * x, F dst) {
    const int64_t n = t->ne[0];

    const auto unpack = [&](auto reader, const char * rows, size_t nb) {
        using rows_t = decltype(reader);
        constexpr int STEP = rows_t::STEP;

        for (int64_t c = 0; c < n_rows; ++c) {
            int64_t i = 0;
            for (; i + STEP*VF <= n; i += STEP*VF) {
                vf32 y[STEP];
                rows_t::load(rows + c*nb, i, y);
                for (int j = 0; j < STEP; ++j) {
                    vf_store(dst(c, i + j*VF), y[j]);
                }
            }
            for (; i < n; ++i) {
                *dst(c, i) = rows_t::scalar(rows + c*nb, i);
            }
        }
    };

    if (!with_rows(t->type, [&](auto reader) { unpack(reader, src, t->nb[1]); })) {
        ggml_get_type_traits(t->type)->to_float(src, x, n_rows*n);
        unpack(rows_of<float>(), (const char *) x, n*sizeof(float));
    }
}

void unpack_block(const attn_op & op, const attn_tile & tile, const prompt_buffers & buf, int64_t c0, int64_t n) {
    for_each_page_run(op, tile, c0, n, [&](int64_t page, int64_t i, int64_t len, int64_t at) {
        unpack_rows(op.k, op.k_row(page, i), len, buf.x, [&](int64_t c, int64_t j) {
            return buf.k + (at + c)*op.n_embd_k + j;
        });
        unpack_rows(op.v, op.v_row(page, i), len, buf.x, [&](int64_t c, int64_t j) {
            return buf.v + (j/PANEL*BLOCK + at + c)*PANEL + j%PANEL;
        });
    });
}

void pack_queries(const attn_op & op, const attn_tile & tile, const prompt_buffers & buf) {
    const int64_t n = op.n_embd_k;

    float * row     = buf.x;
    char  * rounded = (char *) (row + n);
    std::fill(buf.q, buf.q + round_up(tile.n_rows, PANEL)*n, 0.0f);
    for (int64_t r = 0; r < tile.n_rows; ++r) {
        load_query(op, tile, r, rounded, row);
        float * dst = buf.q + r/PANEL*PANEL*n + r%PANEL;
        for (int64_t i = 0; i < n; ++i) {
            dst[i*PANEL] = row[i];
        }
    }
}

// soft-cap and causal rule on the logits of n_rows rows and n cells from c0 on
void finish_logits(const attn_op & op, const attn_tile & tile, float * s, int64_t r0, int64_t n_rows, int64_t c0, int64_t n) {
    if (op.p.softcap != 0.0f) {
        for (int64_t i = 0; i < n*PANEL; ++i) {
            s[i] = op.p.softcap*tanhf(s[i]);
        }
    }
    for (int64_t r = 0; r < n_rows; ++r) {
        const int64_t vis = tile.visible((r0 + r)/op.n_group) - c0;
        for (int64_t c = std::max<int64_t>(0, vis); c < n; ++c) {
            s[c*PANEL + r] = -INFINITY;
        }
    }
}

// cells that some row of a panel sees
int64_t panel_visible(const attn_op & op, const attn_tile & tile, int64_t r0, int64_t n_rows) {
    int64_t vis = 0;
    for (int64_t t = r0/op.n_group; t <= (r0 + n_rows - 1)/op.n_group; ++t) {
        vis = std::max(vis, tile.visible(t));
    }
    return vis;
}

template <int NV>
void run_panel(const attn_op & op, const attn_tile & tile, const prompt_buffers & buf, attn_state & state,
        int64_t r0, int64_t n_rows, int64_t c0, int64_t n) {
    panel_logits<NV>(buf.k, buf.q + r0*op.n_embd_k, op.n_embd_k, n, buf.s);
    finish_logits(op, tile, buf.s, r0, n_rows, c0, n);
    panel_softmax<NV>(buf.s, n, state.m + r0, state.l + r0, buf.f);
    panel_values(buf.s, buf.f, buf.v, n, n_rows, state.acc + r0*op.acc_stride, op.acc_stride);
}

} // namespace

size_t prompt_scratch(const attn_op & op) {
    return prompt_buffers::n_floats(op);
}

void prompt_tile(const attn_op & op, const attn_tile & tile, float * scratch, attn_state & state, int64_t c0, int64_t c1) {
    const prompt_buffers buf(op, scratch);

    pack_queries(op, tile, buf);
    std::fill(buf.v, buf.v + BLOCK*op.acc_stride, 0.0f); // the padding stays

    for (int64_t c = c0; c < c1; c += BLOCK) {
        unpack_block(op, tile, buf, c, std::min(BLOCK, c1 - c));

        for (int64_t r = 0; r < tile.n_rows; r += PANEL) {
            const int64_t n_rows = std::min(PANEL, tile.n_rows - r);
            const int64_t n      = std::min({ BLOCK, c1 - c, panel_visible(op, tile, r, n_rows) - c });
            if (n <= 0) {
                continue;
            }
            if (n_rows > VF) {
                run_panel<2>(op, tile, buf, state, r, n_rows, c, n);
            } else {
                run_panel<1>(op, tile, buf, state, r, n_rows, c, n);
            }
        }
    }
}

} // namespace retention
