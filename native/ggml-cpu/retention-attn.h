// retention-attn.h - what the parts of retention attention share: the op, its tiles, the running softmax
//
// The rows of a tile are the query heads of one KV head, for a run of tokens of one sequence: K and V of a page are
// read once for all of them.

#pragma once

#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include "ggml-retention.h"

#include <cstdint>

namespace retention {

// From so many rows on cells are unpacked and multiplied as matrices (prompt), instead of cell by cell (decode). Where the two
// meet was not measured: 12 rows use three quarters of a vector of 16.
constexpr int64_t PROMPT_ROWS = 12;

// numbers of a token in the op's tokens: its sequence, n_vis, tokens of its sequence before it
constexpr int64_t N_TOKEN = 3;

inline int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1)/to*to;
}

// everything about the op that does not change from tile to tile
struct attn_op {
    ggml_retention_attn_params p;

    const ggml_tensor * q;
    const ggml_tensor * k;
    const ggml_tensor * v;
    const ggml_tensor * k_new; // null: nothing to store
    const ggml_tensor * v_new;
    const int32_t     * pages;
    const int32_t     * cell_lists;
    const int32_t     * tokens;
    const float       * sinks;

    // of the archive; null: nothing is recalled
    const char * archive_k;
    const char * archive_v;
    uint32_t   * recall_counts;

    int64_t n_embd_k;
    int64_t n_embd_v;
    int64_t n_head;
    int64_t n_tokens;
    int64_t n_group;     // query heads per KV head
    int64_t tile_tokens; // most tokens of a tile
    int64_t acc_stride;  // floats from one row of weighted values to the next
    float   q_scale;     // of the logits before the soft-cap's tanh

    // with quantised K: q is rounded to the type that ggml's own kernels multiply with, as in stock attention
    ggml_type         q_type;
    ggml_from_float_t q_round; // null: q stays f32

    explicit attn_op(const ggml_tensor * dst);

    const char * k_row(int64_t page, int64_t i) const {
        return (const char *) k->data + (page*p.k_stride + i)*k->nb[1];
    }

    const char * v_row(int64_t page, int64_t i) const {
        return (const char *) v->data + (page*p.v_stride + p.v_first + i)*v->nb[1];
    }

    int64_t rows_max() const {
        return n_group*(n_tokens < tile_tokens ? n_tokens : tile_tokens);
    }

    ggml_type type_archive_k() const { return (ggml_type) p.archive_type_k; }
    ggml_type type_archive_v() const { return (ggml_type) p.archive_type_v; }
};

// rows of K or V of one type, one after the other
struct attn_rows {
    const char * data;
    ggml_type    type;
    int64_t      n_embd;

    size_t nb() const { return ggml_row_size(type, n_embd); }
};

// a run of tokens of one sequence and one KV head; row r is query head r%n_group of token r/n_group
struct attn_tile {
    int64_t t0;
    int64_t n_t;
    int64_t head; // KV head
    int64_t n_rows;

    const int32_t * pages;  // of the cell list
    const int32_t * tokens; // of the op, from the first token on
    int64_t n_old;          // cells before this ubatch
    int64_t n_cells;        // cells that some token sees

    attn_tile(const attn_op & op, int64_t t0, int64_t n_t, int64_t head);

    // cells that token t of the tile sees
    int64_t visible(int64_t t) const {
        return n_old + tokens[N_TOKEN*t + 1];
    }
};

// running softmax of a tile: per row the maximum, the sum and the weighted values
struct attn_state {
    float * m;   // [rows]
    float * l;   // [rows]
    float * acc; // [rows, acc_stride]

    static size_t n_floats(const attn_op & op);

    attn_state(const attn_op & op, float * base);
    attn_state(float * m, float * l, float * acc) : m(m), l(l), acc(acc) {}

    void reset(const attn_op & op);

    // log of the sum of exp(logits) of row r
    float log_sum(int64_t r) const;

    // from row r on
    attn_state from(const attn_op & op, int64_t r) const;
};

// state += other, for n_rows rows
void merge_rows(const attn_op & op, attn_state & state, const attn_state & other, int64_t n_rows);

// write row r of the tile's queries, rounded as ggml would and scaled; rounded: room for a row in q_type
void load_query(const attn_op & op, const attn_tile & tile, int64_t r, char * rounded, float * dst);

// call fn(page, first cell in the page, cells, offset from c0) for the runs of cells [c0, c0 + n) of a cell list
template <typename F>
void for_each_page_run(const int32_t * pages, int64_t page_size, int64_t c0, int64_t n, F fn) {
    for (int64_t c = c0; c < c0 + n; ) {
        const int64_t i    = c%page_size;
        const int64_t left = c0 + n - c;
        const int64_t len  = page_size - i < left ? page_size - i : left;
        fn(pages[c/page_size], i, len, c - c0);
        c += len;
    }
}

template <typename F>
void for_each_page_run(const attn_op & op, const attn_tile & tile, int64_t c0, int64_t n, F fn) {
    for_each_page_run(tile.pages, op.p.page_size, c0, n, fn);
}

// add the cells [c0, c1) of the tile's cell list to the state, with scratch of so many floats
size_t decode_scratch(const attn_op & op);
size_t prompt_scratch(const attn_op & op);
void   decode_tile(const attn_op & op, const attn_tile & tile, float * scratch, attn_state & state, int64_t c0, int64_t c1);
void   prompt_tile(const attn_op & op, const attn_tile & tile, float * scratch, attn_state & state, int64_t c0, int64_t c1);

// most cells per step of the running softmax when cells are multiplied one by one: the largest page that is chosen by itself
// (retain_page_size_for)
constexpr int64_t RUN = 128;

// logits before the soft-cap of up to RUN cells that lie together, s[r*RUN + c] for query rows q [n_rows, n_embd_k]; x: room for
// decode_unpacked() floats
void dot_run(const attn_rows & k, int64_t n_cells, const float * q, int64_t n_rows, float * s, float * x);

// add up to RUN cells that lie together, which every row sees, to the state of n_rows rows; s: room for their logits
void add_run(const attn_op & op, const attn_rows & k, const attn_rows & v, int64_t n_cells, const float * q, int64_t n_rows,
        float * s, float * x, attn_state & state);

int64_t decode_unpacked(const attn_op & op);

} // namespace retention
