// retain-cells.h - which cells a sequence holds, and where they are
//
// A cell list is dense: cell i is in page pages[i/page_size], slot i%page_size. New cells go to the end; the hole that an
// evicted cell leaves is filled with the last cell. So the cells of the current ubatch are always the last ones.
//
// A cell's ordinal says how many tokens of its sequence came before its own. For text it is the position; the tokens of a
// picture share positions. Ages, ties and windows count ordinals; what a caller removes, shifts or pins are positions.

#pragma once

#include "retain-pool.h"
#include "retain-queries.h"

#include "llama.h"

#include <limits>
#include <utility>
#include <vector>

// the last position that a cell can have: the age of position 0, two more, still fits 32 bits
constexpr llama_pos RETAIN_POS_MAX = std::numeric_limits<llama_pos>::max() - 2;

// ranges of positions [p0, p1)
using retain_ranges = std::vector<std::pair<llama_pos, llama_pos>>;

bool is_in(const retain_ranges & ranges, llama_pos p);

// the cells of one (sequence, layer, KV head)
struct retain_cell_list {
    std::vector<int32_t> pos;
    std::vector<int32_t> ordinal;
    mutable std::vector<float> log_beta; // retain_memory::settle() brings the last ones in when they are asked for
    std::vector<int32_t> pages;
    std::vector<int32_t> shift; // positions by which K is still to be turned; empty: none

    int64_t size() const { return pos.size(); }

    retain_pool::place place(const retain_pool & pool, int64_t i) const {
        return { pages[i/pool.get_page_size()], (int32_t) (i%pool.get_page_size()) };
    }

    // add n cells to the end, taking pages as needed
    void append(retain_pool & pool, int64_t n, const int32_t * positions, const int32_t * ordinals);

    // Keep the cells for which keep(i) is true, those of the end in the places of those that go. What the pool is to copy for
    // it is added to copies. Pages are given back by truncate(), to which what is returned goes.
    template <typename F>
    int64_t fill_holes(const retain_pool & pool, F keep, std::vector<ggml_retention_copy> & copies) {
        int64_t end = size();
        for (int64_t i = 0; i < end; ++i) {
            if (keep(i)) {
                continue;
            }
            do {
                --end;
            } while (end > i && !keep(end));
            if (end > i) {
                move(end, i);
                copies.push_back(pool.make_copy(place(pool, end), place(pool, i)));
            }
        }
        return end;
    }

    // keep those cells, give pages back and queue the copies in the pool
    template <typename F>
    void retain_if(retain_pool & pool, F keep) {
        std::vector<ggml_retention_copy> copies;
        truncate(pool, fill_holes(pool, keep, copies));
        pool.queue_copies(copies);
    }

    // the K rows in float: [size(), n_embd_k]
    void read_keys(const retain_pool & pool, std::vector<float> & dst) const;

    // keep the first n cells, giving back the pages after them
    void truncate(retain_pool & pool, int64_t n);

private:
    void move(int64_t src, int64_t dst);
};

// one sequence: its cell lists in order of layer and head, and what its evictions need to know
struct retain_seq {
    llama_seq_id id = -1;

    std::vector<retain_cell_list> cell_lists;
    std::vector<retain_cell_list> archived;   // in the same order, of what was evicted; empty without an archive

    int32_t   budget     = 0;     // M
    llama_pos pos_max    = -1;    // last position seen, evicted or not
    int64_t   n_seen     = 0;     // tokens seen: the ordinal of the next one
    llama_pos evicted_at = 0;     // the position after the last one seen when last something was evicted
    bool      hold       = false; // no eviction while a prompt is read
    bool      released   = false; // a prompt was read so: all that is over the budget goes when the next token comes
    int64_t   n_open     = 0;     // last cells of each cell list, whose graph has not run to its end
    llama_pos pos_before = -1;    // pos_max without them
    int64_t   n_before   = 0;     // n_seen without them

    retain_ranges  pins;
    retain_queries queries; // empty unless the policy needs them

    llama_pos next_pos() const { return pos_max + 1; }

    bool is_pinned(llama_pos p) const { return is_in(pins, p); }

    // tokens that ranges pin: each position counts as one, or as many as there are cells of it in some cell list
    int64_t n_tokens_in(const retain_ranges & ranges) const;

    // the last position, and the tokens seen, once the positions from p on are removed, which came after the last eviction
    std::pair<llama_pos, int64_t> end_before(llama_pos p) const;
};
