// retention-best.h - the cells with the largest scores

#pragma once

#include <cstdint>

namespace retention {

// The n cells with the largest scores among those added, in ascending order; of equal scores the first. More are kept until
// prune(), so that it is rarely called.
class best_cells {
public:
    best_cells() = default;
    best_cells(float * base, int64_t n);

    static int64_t n_floats(int64_t n) { return 2*(n_room(n) + PADDING); }

    // cells come in ascending order
    void add(float score, int32_t cell) {
        if (!(score > floor)) {
            return;
        }
        scores[size] = score;
        cells [size] = cell;
        if (++size >= n_room(n)) {
            prune();
        }
    }

    // add cells first, first + 1, ...; n_scores is a multiple of VF, and scores beyond the last cell are -inf
    void add_run(const float * x, int64_t n_scores, int32_t first);

    // leave the n best
    void prune();

    int64_t   size   = 0;
    float   * scores = nullptr;
    int32_t * cells  = nullptr;

private:
    static constexpr int64_t PADDING = 32; // for whole vectors, one of them of cells that are added

    static int64_t n_room(int64_t n) { return 3*n > 512 ? 3*n : 512; }

    int64_t n     = 0;
    float   floor = 0.0f; // what a score has to be above, to be added
};

} // namespace retention
