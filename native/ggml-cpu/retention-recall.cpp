// retention-recall.cpp - the archived cells that a token recalls: finding them, and attention to them
//
// The archive's K rows lie apart from its V rows: all keys of a cell list are read for each token, and few values.

#include "retention-recall.h"
#include "retention-simd.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

namespace retention {

archive_list::archive_list(const attn_op & op, const attn_tile & tile) {
    const int32_t   s    = tile.tokens[0];
    const int32_t * list = op.cell_lists + 2*(op.p.archive_lists + op.p.list_first + (int64_t) s*op.p.list_stride + tile.head);

    pages    = op.pages + list[0];
    n_cells  = list[1];
    n_recall = op.cell_lists[2*(2*(int64_t) op.p.archive_lists + s)];
}

// recall_buffers

// what a thread needs for so many tokens at once
static int64_t n_rows(const attn_op & op) {
    return op.n_group*std::min(op.n_tokens, recall_buffers::TOKENS);
}

size_t recall_buffers::n_floats(const attn_op & op) {
    if (!op.archive_k) {
        return 0;
    }
    const size_t n_gathered = RUN*(ggml_row_size(op.type_archive_k(), op.n_embd_k) + ggml_row_size(op.type_archive_v(), op.n_embd_v));

    return n_rows(op)*(op.n_embd_k + RUN + 1) + op.n_group*(2 + op.acc_stride) + decode_unpacked(op) + n_gathered/sizeof(float) +
        n_rows(op)/op.n_group*best_cells::n_floats(op.p.recall_max) + scan_queries::n_floats(n_rows(op), op.n_embd_k);
}

recall_buffers::recall_buffers(const attn_op & op, float * base) {
    const size_t row_k = ggml_row_size(op.type_archive_k(), op.n_embd_k);
    const size_t row_v = ggml_row_size(op.type_archive_v(), op.n_embd_v);

    q    = base;
    s    = q + n_rows(op)*op.n_embd_k;
    x    = s + n_rows(op)*RUN;
    ref  = x + decode_unpacked(op);
    own  = ref + n_rows(op);
    k    = (char *) (own + op.n_group*(2 + op.acc_stride));
    v    = k + RUN*row_k;
    best = (float *) (v + RUN*row_v);
    q8   = best + n_rows(op)/op.n_group*best_cells::n_floats(op.p.recall_max);
}

// recall_tokens

recall_tokens::recall_tokens(const attn_op & op, const attn_tile & tile, int64_t t0, int64_t n, const recall_buffers & buf) :
        op(op), list(op, tile), buf(buf), n(n) {
    const int64_t n_rows = list.n_cells > 0 ? n*op.n_group : 0;
    for (int64_t r = 0; r < n_rows; ++r) {
        load_query(op, tile, t0*op.n_group + r, (char *) buf.x, buf.q + r*op.n_embd_k);
        if (op.p.archive_rotated) {
            ggml_retention_rotate(buf.q + r*op.n_embd_k, op.n_embd_k);
        }
    }
    if (can_scan(op.type_archive_k())) {
        scan_queries(buf.q8, n_rows, op.n_embd_k).load(buf.q, op.type_archive_k());
    }
}

// turn logits [n_group, RUN] of cells into their scores, over the first row
static void score_cells(const attn_op & op, const float * ref, float * s, int64_t n) {
    for (int64_t r = 0; r < op.n_group; ++r) {
        float * row = s + r*RUN;
        for (int64_t c = 0; op.p.softcap != 0.0f && c < n; ++c) {
            row[c] = op.p.softcap*tanhf(row[c]);
        }
        for (int64_t c = 0; c < n; c += VF) {
            const vf32 x = vf_sub(vf_load(row + c), vf_set1(ref[r]));
            vf_store(s + c, r == 0 ? x : vf_max(vf_load(s + c), x));
        }
    }
}

void recall_tokens::find(int64_t c0, int64_t c1, best_cells * best) const {
    const attn_rows rows = { op.archive_k, op.type_archive_k(), op.n_embd_k };

    for (int64_t t = 0; t < n; ++t) {
        best[t] = best_cells(buf.best + t*best_cells::n_floats(op.p.recall_max), list.n_recall);
    }
    const auto at_cell = [&](int64_t c) {
        return rows.data + (list.pages[c/op.p.archive_page_size]*(int64_t) op.p.archive_page_size + c%op.p.archive_page_size)*rows.nb();
    };
    for_each_page_run(list.pages, op.p.archive_page_size, c0, c1 - c0, [&](int64_t, int64_t, int64_t len, int64_t at) {
        for (int64_t c = c0 + at; c < c0 + at + len; c += RUN) {
            const int64_t n_cells  = std::min(RUN, c0 + at + len - c);
            const int64_t n_scores = round_up(n_cells, VF);
            const int64_t next     = c + n_cells;

            if (can_scan(rows.type)) {
                scan_keys(scan_queries(buf.q8, n*op.n_group, op.n_embd_k), rows.type, at_cell(c), n_cells, buf.s, RUN,
                        next < c1 ? at_cell(next) : nullptr);
            } else {
                dot_run({ at_cell(c), rows.type, rows.n_embd }, n_cells, buf.q, n*op.n_group, buf.s, buf.x);
            }
            for (int64_t t = 0; t < n; ++t) {
                float * s = buf.s + t*op.n_group*RUN;
                score_cells(op, buf.ref + t*op.n_group, s, n_cells);
                std::fill(s + n_cells, s + n_scores, -INFINITY);
                best[t].add_run(s, n_scores, (int32_t) c);
            }
        }
    });
    for (int64_t t = 0; t < n; ++t) {
        best[t].prune();
    }
}

void recall_tokens::add(int64_t t, const best_cells & best, attn_state & state) const {
    const attn_rows k = { buf.k, op.type_archive_k(), op.n_embd_k };
    const attn_rows v = { buf.v, op.type_archive_v(), op.n_embd_v };

    const size_t row_k = k.nb();
    const size_t row_v = v.nb();

    // apart from the cells held, as its values may be turned
    attn_state own(buf.own, buf.own + op.n_group, buf.own + 2*op.n_group);
    std::fill_n(own.m, op.n_group, -INFINITY);
    std::fill_n(own.l, op.n_group*(1 + op.acc_stride), 0.0f);

    for (int64_t c0 = 0; c0 < best.size; c0 += RUN) {
        const int64_t n_cells = std::min(RUN, best.size - c0);

        // rows lie anywhere: ask for all of them before the first is read
        int64_t rows[RUN];
        for (int64_t c = 0; c < n_cells; ++c) {
            const int32_t cell = best.cells[c0 + c];
            rows[c] = list.pages[cell/op.p.archive_page_size]*(int64_t) op.p.archive_page_size + cell%op.p.archive_page_size;
            vf_prefetch(op.archive_k + rows[c]*row_k);
            vf_prefetch(op.archive_k + rows[c]*row_k + row_k - 1);
            vf_prefetch(op.archive_v + rows[c]*row_v);
            vf_prefetch(op.archive_v + rows[c]*row_v + row_v - 1);
            vf_prefetch(op.recall_counts + rows[c]);
        }
        for (int64_t c = 0; c < n_cells; ++c) {
            memcpy(buf.k + c*row_k, op.archive_k + rows[c]*row_k, row_k);
            memcpy(buf.v + c*row_v, op.archive_v + rows[c]*row_v, row_v);
            // tokens of one ubatch may recall the same cell in several threads
            ((std::atomic<uint32_t> *) op.recall_counts)[rows[c]].fetch_add(1, std::memory_order_relaxed);
        }
        add_run(op, k, v, n_cells, buf.q + t*op.n_group*op.n_embd_k, op.n_group, buf.s, buf.x, own);
    }

    for (int64_t r = 0; op.p.archive_rotated && r < op.n_group; ++r) {
        ggml_retention_rotate(own.acc + r*op.acc_stride, op.n_embd_v);
    }
    merge_rows(op, state, own, op.n_group);
}

void recall_tokens::recall(attn_state & state) const {
    best_cells best[recall_buffers::TOKENS];
    find(0, list.n_cells, best);
    for (int64_t t = 0; t < n; ++t) {
        attn_state rows = state.from(op, t*op.n_group);
        add(t, best[t], rows);
    }
}

} // namespace retention
