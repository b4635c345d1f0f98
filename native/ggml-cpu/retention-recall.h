// retention-recall.h - the archived cells that a token recalls: finding them, and attention to them

#pragma once

#include "retention-attn.h"
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

// The n cells with the largest scores among those added, in ascending order; of equal scores the first.
class best_cells {
public:
    best_cells(float * base, int64_t n);

    static int64_t n_floats(int64_t n) { return 3*n_room(n); }

    // cells come in ascending order
    void add(float score, int32_t cell) {
        if (!(score > floor)) {
            return;
        }
        scores[size] = score;
        cells [size] = cell;
        if (++size == n_room(n)) {
            prune();
        }
    }

    // a score above which a cell has to be, to be added
    float least() const { return floor; }

    // leave the n best
    void prune();

    int64_t   size  = 0;
    float   * scores;
    int32_t * cells;

private:
    static int64_t n_room(int64_t n) { return 3*n > 512 ? 3*n : 512; } // so that it is rarely full

    int64_t n;
    float   floor;
    float * spare;
};

// what a thread needs to recall cells for one token and KV head
struct recall_buffers {
    float * q;     // [n_group, n_embd_k] queries, scaled
    float * q8;    // of scan_queries
    float * s;     // [n_group, RUN] logits
    float * x;     // cells of a type without a reader
    float * ref;   // [n_group] log of the sum of exp(logits) of the cells held
    float * own;   // the state of what is recalled
    char  * k;     // [RUN] gathered K rows
    char  * v;     // [RUN] gathered V rows
    float * best;  // of best_cells

    static size_t n_floats(const attn_op & op); // 0 without an archive

    recall_buffers(const attn_op & op, float * base);

    void load_queries(const attn_op & op, const attn_tile & tile, int64_t t);
};

// add the archived cells [c0, c1) of the list that are better than those in best
void scan_archive(const attn_op & op, const archive_list & list, const recall_buffers & buf, int64_t c0, int64_t c1, best_cells & best);

// attend to cells of the archive: state is that of the token's rows
void add_recalled(const attn_op & op, const archive_list & list, const recall_buffers & buf, const best_cells & best, attn_state & state);

// all of it for token t of a tile, whose ref is set
void recall_token(const attn_op & op, const attn_tile & tile, const archive_list & list, const recall_buffers & buf, int64_t t,
        attn_state & state);

} // namespace retention
