// retention-recall.h - the archived cells that a token recalls: finding them, and attention to them

#pragma once

#include "retention-attn.h"
#include "retention-best.h"
#include "retention-scan.h"

#include <cstdint>

namespace retention {

// the archived cells of a tile's cell list
struct archive_list {
    const int32_t * pages;
    int64_t         n_cells;
    int64_t         n_recall; // most that a token recalls

    archive_list(const attn_op & op, const attn_tile & tile);
};

// what a thread needs to recall cells for some tokens of one KV head
struct recall_buffers {
    // Tokens at once: the more, the less often keys are widened. Not measured: 16 tokens of two heads take 16 KB of logits.
    static constexpr int64_t TOKENS = 16;

    float * q;     // [TOKENS*n_group, n_embd_k] queries, scaled
    float * q8;    // of scan_queries
    float * s;     // [TOKENS*n_group, RUN] logits
    float * x;     // cells of a type without a reader
    float * ref;   // [TOKENS*n_group] log of the sum of exp(logits) of the cells held
    float * own;   // the state of what is recalled
    char  * k;     // [RUN] gathered K rows
    char  * v;     // [RUN] gathered V rows
    float * best;  // of best_cells, for each token

    static size_t n_floats(const attn_op & op); // 0 without an archive

    recall_buffers(const attn_op & op, float * base);
};

// the recall of n tokens of a tile from token t0 on, TOKENS at most
struct recall_tokens {
    const attn_op        & op;
    const archive_list     list;
    const recall_buffers & buf;
    const int64_t          n;

    // loads their queries; find() needs buf.ref besides
    recall_tokens(const attn_op & op, const attn_tile & tile, int64_t t0, int64_t n, const recall_buffers & buf);

    // the best of the archived cells [c0, c1), for each token: best [n]
    void find(int64_t c0, int64_t c1, best_cells * best) const;

    // attend token t to cells of the archive; state is that of its rows
    void add(int64_t t, const best_cells & best, attn_state & state) const;

    // all of it; state is that of the tokens' rows
    void recall(attn_state & state) const;
};

} // namespace retention
