// retention-recall.cpp - the archived cells that a token recalls: finding them, and attention to them
//
// The archive's K rows lie apart from its V rows: all keys of a cell list are read for each token, and few values.

#include "retention-recall.h"
#include "retention-simd.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>

namespace retention {

archive_list::archive_list(const attn_op & op, const attn_tile & tile) {
    const int32_t   s    = tile.tokens[0];
    const int32_t * list = op.cell_lists + 2*(op.p.archive_lists + op.p.list_first + (int64_t) s*op.p.list_stride + tile.head);

    pages    = op.pages + list[0];
    n_cells  = list[1];
    n_recall = op.cell_lists[2*(2*(int64_t) op.p.archive_lists + s)];
}

// best_cells

// The n-th largest of size numbers; spare has room for all. They are counted in buckets first: std::nth_element over all of them
// took two thirds of the time that finding their scores takes.
static float nth_largest(const float * x, int64_t size, int64_t n, float * spare) {
    constexpr int N_BUCKETS = 256;

    const auto  ends = std::minmax_element(x, x + size);
    const float low = *ends.first, high = *ends.second;
    const float step = N_BUCKETS/(high - low);

    int64_t n_spare = 0;
    if (std::isfinite(step)) {
        const auto bucket_of = [&](float v) { return std::min(N_BUCKETS - 1, (int) ((v - low)*step)); };

        int64_t counts[N_BUCKETS] = {};
        for (int64_t i = 0; i < size; ++i) {
            ++counts[bucket_of(x[i])];
        }
        int bucket = N_BUCKETS - 1;
        while (counts[bucket] < n) {
            n -= counts[bucket--];
        }
        for (int64_t i = 0; i < size; ++i) {
            if (bucket_of(x[i]) == bucket) {
                spare[n_spare++] = x[i];
            }
        }
    } else { // all are equal, or some are infinite
        n_spare = std::copy_n(x, size, spare) - spare;
    }
    std::nth_element(spare, spare + n - 1, spare + n_spare, std::greater<float>());
    return spare[n - 1];
}

best_cells::best_cells(float * base, int64_t n) :
        scores(base), cells((int32_t *) (base + n_room(n))), n(n), floor(-INFINITY), spare(base + 2*n_room(n)) {
}

void best_cells::prune() {
    if (size <= n) {
        return;
    }
    if (n == 0) {
        size  = 0;
        floor = INFINITY;
        return;
    }

    floor = nth_largest(scores, size, n, spare);

    int64_t n_equal = n - std::count_if(scores, scores + size, [&](float s) { return s > floor; });
    int64_t end     = 0;
    for (int64_t i = 0; i < size; ++i) {
        if (scores[i] > floor || (scores[i] == floor && n_equal-- > 0)) {
            scores[end] = scores[i];
            cells [end] = cells[i];
            ++end;
        }
    }
    size = end;
}

// recall_buffers

size_t recall_buffers::n_floats(const attn_op & op) {
    if (!op.archive_k) {
        return 0;
    }
    const size_t n_rows = RUN*(ggml_row_size(op.type_archive_k(), op.n_embd_k) + ggml_row_size(op.type_archive_v(), op.n_embd_v));

    return op.n_group*(op.n_embd_k + RUN + 1 + 2 + op.acc_stride) + decode_unpacked(op) + n_rows/sizeof(float) + best_cells::n_floats(op.p.recall_max) +
        scan_queries::n_floats(op.n_group, op.n_embd_k);
}

recall_buffers::recall_buffers(const attn_op & op, float * base) {
    const size_t row_k = ggml_row_size(op.type_archive_k(), op.n_embd_k);
    const size_t row_v = ggml_row_size(op.type_archive_v(), op.n_embd_v);

    q    = base;
    s    = q + op.n_group*op.n_embd_k;
    x    = s + op.n_group*RUN;
    ref  = x + decode_unpacked(op);
    own  = ref + op.n_group;
    k    = (char *) (own + op.n_group*(2 + op.acc_stride));
    v    = k + RUN*row_k;
    best = (float *) (v + RUN*row_v);
    q8   = best + best_cells::n_floats(op.p.recall_max);
}

void recall_buffers::load_queries(const attn_op & op, const attn_tile & tile, int64_t t) {
    for (int64_t r = 0; r < op.n_group; ++r) {
        load_query(op, tile, t*op.n_group + r, (char *) x, q + r*op.n_embd_k);
        if (op.p.archive_rotated) {
            ggml_retention_rotate(q + r*op.n_embd_k, op.n_embd_k);
        }
    }
    if (can_scan(op.type_archive_k())) {
        scan_queries(q8, op.n_group, op.n_embd_k).load(q, op.type_archive_k());
    }
}

// the two steps

// turn logits [n_group, RUN] of n cells into their scores, over the first row
static void score_cells(const attn_op & op, const float * ref, float * s, int64_t n) {
    for (int64_t r = 0; r < op.n_group; ++r) {
        float * row = s + r*RUN;
        if (op.p.softcap != 0.0f) {
            for (int64_t c = 0; c < n; ++c) {
                row[c] = op.p.softcap*tanhf(row[c]);
            }
        }
        for (int64_t c = 0; c < n; ++c) {
            const float x = row[c] - ref[r];
            s[c] = r == 0 ? x : std::max(s[c], x);
        }
    }
}

void scan_archive(const attn_op & op, const archive_list & list, const recall_buffers & buf, int64_t c0, int64_t c1, best_cells & best) {
    const attn_rows rows = { op.archive_k, op.type_archive_k(), op.n_embd_k };

    const auto at_cell = [&](int64_t c) {
        return rows.data + (list.pages[c/op.p.archive_page_size]*(int64_t) op.p.archive_page_size + c%op.p.archive_page_size)*rows.nb();
    };
    for_each_page_run(list.pages, op.p.archive_page_size, c0, c1 - c0, [&](int64_t, int64_t, int64_t len, int64_t at) {
        for (int64_t c = c0 + at; c < c0 + at + len; c += RUN) {
            const int64_t n    = std::min(RUN, c0 + at + len - c);
            const int64_t next = c + n;

            if (can_scan(rows.type)) {
                scan_keys(scan_queries(buf.q8, op.n_group, op.n_embd_k), rows.type, at_cell(c), n, buf.s, RUN, next < c1 ? at_cell(next) : nullptr);
            } else {
                dot_run({ at_cell(c), rows.type, rows.n_embd }, n, buf.q, op.n_group, buf.s, buf.x);
            }
            score_cells(op, buf.ref, buf.s, n);
            for (int64_t i = 0; i < n; ++i) {
                best.add(buf.s[i], (int32_t) (c + i));
            }
        }
    });
}

void add_recalled(const attn_op & op, const archive_list & list, const recall_buffers & buf, const best_cells & best, attn_state & state) {
    const attn_rows k = { buf.k, op.type_archive_k(), op.n_embd_k };
    const attn_rows v = { buf.v, op.type_archive_v(), op.n_embd_v };

    const size_t row_k = k.nb();
    const size_t row_v = v.nb();

    // apart from the cells held, as its values may be turned
    attn_state own(buf.own, buf.own + op.n_group, buf.own + 2*op.n_group);
    std::fill_n(own.m, op.n_group, -INFINITY);
    std::fill_n(own.l, op.n_group*(1 + op.acc_stride), 0.0f);

    for (int64_t c0 = 0; c0 < best.size; c0 += RUN) {
        const int64_t n   = std::min(RUN, best.size - c0);
        const auto    row = [&](int64_t c) {
            const int64_t cell = best.cells[c0 + c];
            return list.pages[cell/op.p.archive_page_size]*(int64_t) op.p.archive_page_size + cell%op.p.archive_page_size;
        };

        // rows lie anywhere: ask for all of them before the first is read
        for (int64_t c = 0; c < n; ++c) {
            vf_prefetch(op.archive_k + row(c)*row_k);
            vf_prefetch(op.archive_k + row(c)*row_k + row_k - 1);
            vf_prefetch(op.archive_v + row(c)*row_v);
            vf_prefetch(op.archive_v + row(c)*row_v + row_v - 1);
        }
        for (int64_t c = 0; c < n; ++c) {
            memcpy(buf.k + c*row_k, op.archive_k + row(c)*row_k, row_k);
            memcpy(buf.v + c*row_v, op.archive_v + row(c)*row_v, row_v);
            // tokens of one ubatch may recall the same cell in several threads
            ((std::atomic<uint32_t> *) op.recall_counts)[row(c)].fetch_add(1, std::memory_order_relaxed);
        }
        add_run(op, k, v, n, buf.q, op.n_group, buf.s, buf.x, own);
    }

    for (int64_t r = 0; op.p.archive_rotated && r < op.n_group; ++r) {
        ggml_retention_rotate(own.acc + r*op.acc_stride, op.n_embd_v);
    }
    merge_rows(op, state, own, op.n_group);
}

void recall_token(const attn_op & op, const attn_tile & tile, const archive_list & list, const recall_buffers & buf, int64_t t,
        attn_state & state) {
    recall_buffers(buf).load_queries(op, tile, t);
    best_cells best(buf.best, list.n_recall);
    scan_archive(op, list, buf, 0, list.n_cells, best);
    best.prune();
    add_recalled(op, list, buf, best, state);
}

} // namespace retention
