// retain-select.h - which cells stay
//
// Order: raised cells first, then the higher score, then the newer token, then the lower layer, then the lower head.
// The result depends on nothing else, whatever the number of threads. Linear in the number of cells.
//
// What is chosen is not a set but the last cell that stays, in that order.

#pragma once

#include "retain-threads.h"

#include <cstddef>
#include <cstdint>
#include <vector>

class retain_select {
public:
    // start over, for cell lists of these sizes in order of layer and head
    void start(const std::vector<int64_t> & sizes);

    // The cells of a list, and then those of them that are raised. Several threads may set different lists. Ordinals and
    // scores are not copied.
    void set_list(size_t cell_list, const int32_t * ordinals, const float * scores);
    void raise(size_t cell_list, int64_t i);
    void raise_ordinals(size_t cell_list, int64_t before, int64_t from); // cells with ordinals below before, or from from on
    void raise_best(size_t cell_list, int64_t n);

    // keep n of the cells of the cell lists [begin, end)
    void run(size_t begin, size_t end, int64_t n, retain_threads & threads);

    size_t n_cell_lists() const { return lists.size(); }

    int64_t n_cells() const { return keys.size(); }

    int64_t first_cell(size_t cell_list) const { return lists[cell_list].first; } // among all

    bool kept(size_t cell_list, int64_t i) const {
        const list   & l   = lists[cell_list];
        const uint32_t key = keys[l.first + i];
        return key != l.last.key ? key > l.last.key : !(l.last < cell { key, l.ordinals[i], l.first + i });
    }

private:
    // a cell in the order in which they stay; a < b: a stays rather than b
    struct cell {
        uint32_t key; // the score as an integer of the same order
        int32_t  ordinal;
        int64_t  i;   // among all cells

        bool operator<(const cell & other) const {
            return key != other.key ? key > other.key : ordinal != other.ordinal ? ordinal > other.ordinal : i < other.i;
        }
    };

    struct list {
        int64_t         first; // of its cells among all
        int64_t         size;
        const int32_t * ordinals;
        const float   * scores;
        int64_t         n_raised;
        cell            last; // that stays
    };

    // the n-th of the cells of the cell lists [begin, end), for n from 1 to their number
    cell find_last(size_t begin, size_t end, int64_t n, retain_threads & threads) const;

    // raised cells get the keys of their scores, all others the lowest
    void choose_among_raised(const list & l);

    std::vector<list>     lists;
    std::vector<uint32_t> keys;
};
