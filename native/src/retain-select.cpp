#include "retain-select.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

// integers in the order of the floats; NaN is the lowest
static uint32_t key_from_score(float score) {
    if (std::isnan(score)) {
        return 0;
    }
    if (score == 0.0f) {
        return 0x80000000u; // that of +0, for -0 too
    }

    uint32_t bits;
    memcpy(&bits, &score, sizeof(bits));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

void retain_select::clear() {
    first.clear();
    keys.clear();
    ordinal.clear();
    raised.clear();
    keep.clear();
}

void retain_select::add_list(int64_t n_cells, const int32_t * ordinals, const float * scores) {
    const size_t at = keys.size();

    first.push_back(at);
    keys.resize(at + n_cells);
    for (int64_t i = 0; i < n_cells; ++i) {
        keys[at + i] = key_from_score(scores[i]);
    }
    ordinal.insert(ordinal.end(), ordinals, ordinals + n_cells);
    raised.resize(at + n_cells, 0);
}

void retain_select::raise_best(int64_t n) {
    const int64_t begin = first.back();
    const int64_t end   = keys.size();

    if (n >= end - begin) {
        std::fill(raised.begin() + begin, raised.end(), 1);
        return;
    }

    scratch.resize(end - begin);
    for (int64_t i = begin; i < end; ++i) {
        scratch[i - begin] = i;
    }
    std::nth_element(scratch.begin(), scratch.begin() + n, scratch.end(), [&](int64_t a, int64_t b) {
        if (raised[a]  != raised[b])  { return raised[a]  > raised[b]; }
        if (keys[a]    != keys[b])    { return keys[a]    > keys[b]; }
        if (ordinal[a] != ordinal[b]) { return ordinal[a] > ordinal[b]; }
        return a < b;
    });
    for (int64_t i = 0; i < n; ++i) {
        raised[scratch[i]] = 1;
    }
}

void retain_select::run(size_t begin, size_t end, int64_t n) {
    keep.resize(keys.size(), 0);

    const size_t i0 = cell_first(begin);
    const size_t i1 = cell_first(end);

    const int64_t n_raised = std::count(raised.begin() + i0, raised.begin() + i1, 1);
    if (n_raised >= n) {
        run_among(i0, i1, 1, n);
        return;
    }

    std::copy(raised.begin() + i0, raised.begin() + i1, keep.begin() + i0);
    run_among(i0, i1, 0, n - n_raised);
}

void retain_select::run_among(size_t i0, size_t i1, uint8_t which, int64_t n) {
    // the n-th highest key, 11 bits at a time, so that the counts (16 KB) stay in the L1 cache: 4 to 7 ns a cell
    // (bench-selection, docs/reference/performance-parts.md)
    uint32_t threshold = 0;
    uint32_t mask      = 0;
    int64_t  left      = n;

    for (const auto & [shift, bits] : { std::pair(21, 11), std::pair(10, 11), std::pair(0, 10) }) {
        std::array<int64_t, 2048> count = {};
        for (size_t i = i0; i < i1; ++i) {
            if (raised[i] == which && (keys[i] & mask) == threshold) {
                ++count[(keys[i] >> shift) & ((1u << bits) - 1)];
            }
        }

        int64_t bin = (1 << bits) - 1;
        while (bin > 0 && count[bin] < left) {
            left -= count[bin];
            --bin;
        }
        threshold |= (uint32_t) bin << shift;
        mask      |= ((1u << bits) - 1) << shift;
    }

    // above it all stay; of its equals the newest do, in the order in which the cell lists were added
    scratch.clear();
    for (size_t i = i0; i < i1; ++i) {
        if (raised[i] != which) {
            continue;
        }
        if (keys[i] > threshold) {
            keep[i] = 1;
        } else if (keys[i] == threshold) {
            scratch.push_back(i);
        }
    }

    left = std::min<int64_t>(left, scratch.size());
    if (left < (int64_t) scratch.size()) {
        std::nth_element(scratch.begin(), scratch.begin() + left, scratch.end(), [&](int64_t a, int64_t b) {
            return ordinal[a] != ordinal[b] ? ordinal[a] > ordinal[b] : a < b;
        });
    }
    for (int64_t i = 0; i < left; ++i) {
        keep[scratch[i]] = 1;
    }
}
