// retain-select.h - which cells stay
//
// Order: raised cells first, then the higher score, then the newer token, then the lower layer, then the lower head.
// The result depends on nothing else. Linear in the number of cells.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

class retain_select {
public:
    // start over, for n_cell_lists cell lists that will be added in order of layer and head
    void clear();

    // add a cell list; scores has n_cells entries
    void add_list(int64_t n_cells, const int32_t * ordinals, const float * scores);

    // raise a cell of the cell list that was added last
    void raise(int64_t i) { raised[first.back() + i] = 1; }

    // raise the n best cells of the cell list that was added last
    void raise_best(int64_t n);

    // keep n of the cells of the cell lists [begin, end)
    void run(size_t begin, size_t end, int64_t n);

    size_t n_cell_lists() const { return first.size(); }

    bool kept(size_t cell_list, int64_t i) const { return keep[first[cell_list] + i]; }

    int64_t n_cells() const { return keys.size(); }

private:
    // keep n of the cells [i0, i1) with raised == which
    void run_among(size_t i0, size_t i1, uint8_t which, int64_t n);

    size_t cell_first(size_t cell_list) const { return cell_list < first.size() ? first[cell_list] : keys.size(); }

    std::vector<int64_t>         first;  // per cell list: index of its first cell
    std::vector<uint32_t>        keys;   // scores as integers of the same order
    std::vector<int32_t>         ordinal;
    std::vector<uint8_t>         raised;
    std::vector<uint8_t>         keep;
    std::vector<int64_t>         scratch;
};
