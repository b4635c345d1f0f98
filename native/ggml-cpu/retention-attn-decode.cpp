// retention-attn-decode.cpp - tiles of few rows: each cell is multiplied with every row as it is read
//
// The K rows and then the V rows of a page are one long run of memory. The walk goes through it front to back, and asks
// for what comes next, the next page included, a little before it gets there.

#include "retention-attn.h"
#include "retention-rows.h"
#include "vec.h"

#include <algorithm>
#include <cmath>

namespace retention {

namespace {

// Figures are bench-attention's, in docs/reference/performance-parts.md.

// cells that stay in the L1 cache while all rows are multiplied with them; not measured: 16 KB of floats at head size 128
constexpr int64_t CELLS = 32;

struct decode_buffers {
    float * q; // [rows, n_embd_k] scaled query rows
    float * s; // [rows, RUN] logits, then probabilities
    float * x; // [CELLS, n_embd] cells of a type without a reader; a query row in q_type before

    static int64_t n_rows(const attn_op & op) {
        return std::min(op.rows_max(), PROMPT_ROWS - 1);
    }

    static size_t n_floats(const attn_op & op) {
        return n_rows(op)*(op.n_embd_k + RUN) + decode_unpacked(op);
    }

    decode_buffers(const attn_op & op, float * base) {
        q = base;
        s = q + n_rows(op)*op.n_embd_k;
        x = s + n_rows(op)*RUN;
    }
};

// asks for memory that the walk will reach: what is left until end, then what begins at next
struct read_ahead {
    static constexpr int64_t DISTANCE = 6144; // 6 KB, into the L2 cache: 30 GB/s instead of 25
    static constexpr int64_t LINE     = 64;   // bytes of a cache line

    const char * end;
    const char * next; // null: there is none

    void operator()(const char * row, int64_t n_bytes) const {
        const char * at = row + DISTANCE;
        if (at >= end) {
            if (!next) {
                return;
            }
            at = next + (at - end);
        }
        for (int64_t i = 0; i < n_bytes; i += LINE) {
            vf_prefetch(at + i);
        }
    }
};

// s[r*RUN + c] = q[r] . k[c] for RB rows and CB cells
template <typename ROWS, int RB, int CB>
void dot_block(const float * q, int64_t n, const char * k, size_t nb, float * s, const read_ahead * ahead) {
    constexpr int STEP = ROWS::STEP;

    if (ahead) {
        (*ahead)(k, CB*nb);
    }

    vf32 acc[CB][RB];
    VF_UNROLL
    for (int c = 0; c < CB; ++c) {
        for (int r = 0; r < RB; ++r) {
            acc[c][r] = vf_zero();
        }
    }

    int64_t i = 0;
    for (; i + STEP*VF <= n; i += STEP*VF) {
        vf32 x[CB][STEP];
        for (int c = 0; c < CB; ++c) {
            ROWS::load(k + c*nb, i, x[c]);
        }
        for (int r = 0; r < RB; ++r) {
            for (int j = 0; j < STEP; ++j) {
                const vf32 y = vf_hold(vf_load(q + r*n + i + j*VF));
                for (int c = 0; c < CB; ++c) {
                    acc[c][r] = vf_fma(x[c][j], y, acc[c][r]);
                }
            }
        }
    }

    if constexpr (CB == 4) {
        VF_UNROLL
        for (int r = 0; r < RB; ++r) {
            vf_sum4(s + r*RUN, acc[0][r], acc[1][r], acc[2][r], acc[3][r]);
        }
    } else {
        VF_UNROLL
        for (int r = 0; r < RB; ++r) {
            for (int c = 0; c < CB; ++c) {
                s[r*RUN + c] = vf_sum(acc[c][r]);
            }
        }
    }
    for (; i < n; ++i) {
        for (int c = 0; c < CB; ++c) {
            const float x = ROWS::scalar(k + c*nb, i);
            for (int r = 0; r < RB; ++r) {
                s[r*RUN + c] += q[r*n + i]*x;
            }
        }
    }
}

// acc[r, i..] += sum_c s[r, c]*v[c, i..] for RB rows and VB vectors
template <typename ROWS, int RB, int VB>
void add_block(const float * s, const char * v, size_t nb, int64_t n_cells, int64_t i, float * acc, int64_t stride,
        const read_ahead * ahead) {
    vf32 sum[RB][VB];
    VF_UNROLL
    for (int r = 0; r < RB; ++r) {
        for (int b = 0; b < VB; ++b) {
            sum[r][b] = vf_load(acc + r*stride + i + b*VF);
        }
    }

    for (int64_t c = 0; c < n_cells; ++c) {
        if (ahead) {
            (*ahead)(v + c*nb, nb);
        }
        vf32 x[VB];
        for (int b = 0; b < VB; b += ROWS::STEP) {
            ROWS::load(v + c*nb, i + b*VF, x + b);
        }
        for (int r = 0; r < RB; ++r) {
            const vf32 w = vf_set1(s[r*RUN + c]);
            for (int b = 0; b < VB; ++b) {
                sum[r][b] = vf_fma(w, x[b], sum[r][b]);
            }
        }
    }

    VF_UNROLL
    for (int r = 0; r < RB; ++r) {
        for (int b = 0; b < VB; ++b) {
            vf_store(acc + r*stride + i + b*VF, sum[r][b]);
        }
    }
}

template <typename ROWS, int RB>
void add_rows(const float * s, const char * v, size_t nb, int64_t n_cells, int64_t n, float * acc, int64_t stride,
        const read_ahead * ahead) {
    // as many vectors at once as the registers hold (16 of AVX2 or 32); counted, not measured
    constexpr int N_VB = (VF == 8 ? 8 : 16)/RB;
    constexpr int VB   = std::max(ROWS::STEP, N_VB > 8 ? 8 : N_VB);

    int64_t i = 0;
    for (; i + VB*VF         <= n; i += VB*VF)         { add_block<ROWS, RB, VB>        (s, v, nb, n_cells, i, acc, stride, i == 0 ? ahead : nullptr); }
    for (; i + ROWS::STEP*VF <= n; i += ROWS::STEP*VF) { add_block<ROWS, RB, ROWS::STEP>(s, v, nb, n_cells, i, acc, stride, i == 0 ? ahead : nullptr); }
    for (; i < n; ++i) {
        for (int64_t c = 0; c < n_cells; ++c) {
            const float x = ROWS::scalar(v + c*nb, i);
            for (int r = 0; r < RB; ++r) {
                acc[r*stride + i] += s[r*RUN + c]*x;
            }
        }
    }
}

template <typename ROWS, int RB, int CB>
void dot_rows(const float * q, int64_t n, const char * k, size_t nb, int64_t n_cells, float * s, const read_ahead * ahead) {
    int64_t c = 0;
    for (; c + CB <= n_cells; c += CB) { dot_block<ROWS, RB, CB>(q, n, k + c*nb, nb, s + c, ahead); }
    for (; c      <  n_cells; c += 1)  { dot_block<ROWS, RB, 1> (q, n, k + c*nb, nb, s + c, ahead); }
}

// logits of up to CELLS cells
template <typename ROWS>
void dot_cells(const float * q, int64_t n_rows, int64_t n, const char * k, size_t nb, int64_t n_cells, float * s,
        const read_ahead * ahead) {
    // Cells at once, as many as the registers hold beside the sums: a query loaded once for four cells gave 29 GB/s a core
    // instead of 25
    constexpr int CB  = ROWS::STEP > 2 ? 2 : 4;
    constexpr int CB4 = VF == 8 ? (ROWS::STEP > 1 ? 1 : 2) : CB;

    int64_t r = 0;
    for (; r + 4 <= n_rows; r += 4) { dot_rows<ROWS, 4, CB4>(q + r*n, n, k, nb, n_cells, s + r*RUN, r ? nullptr : ahead); }
    for (; r + 2 <= n_rows; r += 2) { dot_rows<ROWS, 2, CB> (q + r*n, n, k, nb, n_cells, s + r*RUN, r ? nullptr : ahead); }
    for (; r     <  n_rows; r += 1) { dot_rows<ROWS, 1, CB> (q + r*n, n, k, nb, n_cells, s + r*RUN, r ? nullptr : ahead); }
}

// weighted values of up to CELLS cells
template <typename ROWS>
void add_cells(const float * s, int64_t n_rows, int64_t n, const char * v, size_t nb, int64_t n_cells, float * acc, int64_t stride,
        const read_ahead * ahead) {
    int64_t r = 0;
    for (; r + 4 <= n_rows; r += 4) { add_rows<ROWS, 4>(s + r*RUN, v, nb, n_cells, n, acc + r*stride, stride, r ? nullptr : ahead); }
    for (; r + 2 <= n_rows; r += 2) { add_rows<ROWS, 2>(s + r*RUN, v, nb, n_cells, n, acc + r*stride, stride, r ? nullptr : ahead); }
    for (; r     <  n_rows; r += 1) { add_rows<ROWS, 1>(s + r*RUN, v, nb, n_cells, n, acc + r*stride, stride, r ? nullptr : ahead); }
}

// call fn(reader, rows, bytes from row to row, read_ahead or null, first cell, cells) for a run of rows, CELLS at a time
template <typename F>
void for_each_group(const attn_rows & rows, int64_t n_cells, const read_ahead * ahead, float * x, F fn) {
    const size_t nb = rows.nb();

    const bool known = with_rows(rows.type, [&](auto reader) {
        for (int64_t c = 0; c < n_cells; c += CELLS) {
            fn(reader, rows.data + c*nb, nb, ahead, c, std::min(CELLS, n_cells - c));
        }
    });
    for (int64_t c = 0; !known && c < n_cells; c += CELLS) {
        const int64_t n = std::min(CELLS, n_cells - c);
        ggml_get_type_traits(rows.type)->to_float(rows.data + c*nb, x, n*rows.n_embd);
        fn(rows_of<float>(), (const char *) x, rows.n_embd*sizeof(float), nullptr, c, n);
    }
}

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

// soft-cap and a step of the running softmax over n cells, of which row r sees the first visible(r); leaves probabilities in s
template <typename F>
void step_softmax(const attn_op & op, float * s, int64_t n_rows, attn_state & state, int64_t n, F visible) {
    for (int64_t r = 0; r < n_rows; ++r, s += RUN) {
        const int64_t vis = std::min(n, visible(r));
        if (vis <= 0) {
            std::fill(s, s + n, 0.0f);
            continue;
        }
        if (op.p.softcap != 0.0f) {
            for (int64_t c = 0; c < vis; ++c) {
                s[c] = op.p.softcap*tanhf(s[c]);
            }
        }

        const float m = max_of(s, vis, state.m[r]);
        if (m > state.m[r]) {
            const float f = expf(state.m[r] - m);
            state.l[r] *= f;
            ggml_vec_scale_f32(op.n_embd_v, state.acc + r*op.acc_stride, f);
            state.m[r] = m;
        }

        state.l[r] += (float) ggml_vec_soft_max_f32(vis, s, s, m);
        std::fill(s + vis, s + n, 0.0f);
    }
}

void dot_groups(const attn_rows & k, int64_t n_cells, const float * q, int64_t n_rows, float * s, float * x, const read_ahead * ahead) {
    for_each_group(k, n_cells, ahead, x, [&](auto reader, const char * rows, size_t nb, const read_ahead * ask, int64_t at, int64_t len) {
        dot_cells<decltype(reader)>(q, n_rows, k.n_embd, rows, nb, len, s + at, ask);
    });
}

void add_groups(const attn_op & op, const attn_rows & v, int64_t n_cells, const float * s, int64_t n_rows, float * x, attn_state & state,
        const read_ahead * ahead) {
    for_each_group(v, n_cells, ahead, x, [&](auto reader, const char * rows, size_t nb, const read_ahead * ask, int64_t at, int64_t len) {
        add_cells<decltype(reader)>(s + at, n_rows, v.n_embd, rows, nb, len, state.acc, op.acc_stride, ask);
    });
}

} // namespace

int64_t decode_unpacked(const attn_op & op) {
    return CELLS*std::max(op.n_embd_k, op.n_embd_v);
}

void dot_run(const attn_rows & k, int64_t n_cells, const float * q, int64_t n_rows, float * s, float * x) {
    dot_groups(k, n_cells, q, n_rows, s, x, nullptr);
}

void add_run(const attn_op & op, const attn_rows & k, const attn_rows & v, int64_t n_cells, const float * q, int64_t n_rows,
        float * s, float * x, attn_state & state) {
    dot_groups(k, n_cells, q, n_rows, s, x, nullptr);
    step_softmax(op, s, n_rows, state, n_cells, [&](int64_t) { return n_cells; });
    add_groups(op, v, n_cells, s, n_rows, x, state, nullptr);
}

size_t decode_scratch(const attn_op & op) {
    return decode_buffers::n_floats(op);
}

void decode_tile(const attn_op & op, const attn_tile & tile, float * scratch, attn_state & state, int64_t c0, int64_t c1) {
    const decode_buffers buf(op, scratch);

    for (int64_t r = 0; r < tile.n_rows; ++r) {
        load_query(op, tile, r, (char *) buf.x, buf.q + r*op.n_embd_k);
    }

    for (int64_t c = c0; c < c1; ) {
        const int64_t page = tile.pages[c/op.p.page_size];
        const int64_t i    = c%op.p.page_size;
        const int64_t n    = std::min({ RUN, op.p.page_size - i, c1 - c });
        const int64_t next = c + n;

        const char * k = op.k_row(page, i);
        const char * v = op.v_row(page, i);
        const char * k_next = next < c1 ? op.k_row(tile.pages[next/op.p.page_size], next%op.p.page_size) : nullptr;

        // the V rows of a page follow its K rows, and are mostly next
        const char     * v_end  = v + n*op.v->nb[1];
        const read_ahead from_k = n == op.p.page_size ? read_ahead { v_end, k_next } : read_ahead { k + n*op.k->nb[1], v };
        const read_ahead from_v = { v_end, k_next };

        dot_groups({ k, op.k->type, op.n_embd_k }, n, buf.q, tile.n_rows, buf.s, buf.x, &from_k);
        step_softmax(op, buf.s, tile.n_rows, state, n, [&](int64_t r) { return tile.visible(r/op.n_group) - c; });
        add_groups(op, { v, op.v->type, op.n_embd_v }, n, buf.s, tile.n_rows, buf.x, state, &from_v);
        c = next;
    }
}

} // namespace retention
