#include "retain-select.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

static constexpr uint32_t RAISED = 0xffffffffu; // above that of infinity
static constexpr uint32_t LOWEST = 0;           // of NaN

// integers in the order of the floats; without branches, so that compilers make vectors of it
static uint32_t key_from_score(float score) {
    uint32_t bits;
    memcpy(&bits, &score, sizeof(bits));
    bits = (bits << 1) == 0 ? 0 : bits; // -0 is 0

    const uint32_t flip = bits >> 31 ? 0xffffffffu : 0x80000000u;
    const uint32_t key  = bits ^ flip;
    return (bits & 0x7fffffffu) > 0x7f800000u ? LOWEST : key;
}

void retain_select::start(const std::vector<int64_t> & sizes) {
    lists.assign(sizes.size(), {});

    int64_t n = 0;
    for (size_t l = 0; l < sizes.size(); ++l) {
        lists[l].first = n;
        lists[l].size  = sizes[l];
        n += sizes[l];
    }
    keys.resize(n);
}

void retain_select::set_list(size_t cell_list, const int32_t * ordinals, const float * scores) {
    list & l = lists[cell_list];
    l.ordinals = ordinals;
    l.scores   = scores;

    uint32_t * dst = keys.data() + l.first;
    for (int64_t i = 0; i < l.size; ++i) {
        dst[i] = key_from_score(scores[i]);
    }
}

void retain_select::raise(size_t cell_list, int64_t i) {
    list     & l   = lists[cell_list];
    uint32_t & key = keys[l.first + i];
    l.n_raised += key != RAISED;
    key = RAISED;
}

void retain_select::raise_ordinals(size_t cell_list, int64_t before, int64_t from) {
    list     & l   = lists[cell_list];
    uint32_t * dst = keys.data() + l.first;

    const auto limit = [](int64_t x) { return (int32_t) std::clamp<int64_t>(x, 0, std::numeric_limits<int32_t>::max()); };
    const int32_t lo = limit(before);
    const int32_t hi = limit(from);

    int32_t n = 0;
    for (int64_t i = 0; i < l.size; ++i) {
        const bool is_raised = (l.ordinals[i] < lo) | (l.ordinals[i] >= hi);
        n     += is_raised & (dst[i] != RAISED);
        dst[i] = is_raised ? RAISED : dst[i];
    }
    l.n_raised += n;
}

void retain_select::raise_best(size_t cell_list, int64_t n) {
    const list & l = lists[cell_list];

    std::vector<cell> cells(l.size);
    for (int64_t i = 0; i < l.size; ++i) {
        cells[i] = { keys[l.first + i], l.ordinals[i], i };
    }
    n = std::min(n, l.size);
    std::nth_element(cells.begin(), cells.begin() + n, cells.end());
    for (int64_t i = 0; i < n; ++i) {
        raise(cell_list, cells[i].i);
    }
}

void retain_select::run(size_t begin, size_t end, int64_t n, retain_threads & threads) {
    int64_t n_cells  = 0;
    int64_t n_raised = 0;
    for (size_t l = begin; l < end; ++l) {
        n_cells  += lists[l].size;
        n_raised += lists[l].n_raised;
    }

    cell last = { RAISED, std::numeric_limits<int32_t>::max(), -1 }; // nothing stays
    if (n >= n_cells) {
        last = { LOWEST, std::numeric_limits<int32_t>::min(), std::numeric_limits<int64_t>::max() };
    } else if (n > 0) {
        for (size_t l = begin; n_raised > n && l < end; ++l) {
            choose_among_raised(lists[l]);
        }
        last = find_last(begin, end, n, threads);
    }
    for (size_t l = begin; l < end; ++l) {
        lists[l].last = last;
    }
}

void retain_select::choose_among_raised(const list & l) {
    for (int64_t i = 0; i < l.size; ++i) {
        uint32_t & key = keys[l.first + i];
        key = key == RAISED ? std::max(key_from_score(l.scores[i]), LOWEST + 1) : LOWEST;
    }
}

retain_select::cell retain_select::find_last(size_t begin, size_t end, int64_t n, retain_threads & threads) const {
    // The bin of the n-th key by its first 11 bits; so many counts stay in the L1 cache. Then the cells in that bin.
    constexpr int SHIFT  = 21;
    constexpr int N_BINS = 1 << (32 - SHIFT);
    using counts = std::array<int32_t, N_BINS>;

    int64_t n_cells = 0;
    for (size_t l = begin; l < end; ++l) {
        n_cells += lists[l].size;
    }
    const int64_t n_parts = threads.n_parts(n_cells);

    std::vector<counts> part_counts(n_parts, counts {});
    threads.run(end - begin, n_parts, [&](int64_t part, int64_t from, int64_t to) {
        counts & count = part_counts[part];
        const int64_t i1 = to > from ? lists[begin + to - 1].first + lists[begin + to - 1].size : 0;
        for (int64_t i = to > from ? lists[begin + from].first : 0; i < i1; ++i) {
            ++count[keys[i] >> SHIFT];
        }
    });

    int64_t left = n; // of the cells in the bin
    uint32_t bin = N_BINS - 1;
    for (; ; --bin) {
        int64_t n_in = 0;
        for (const auto & count : part_counts) {
            n_in += count[bin];
        }
        if (n_in >= left) {
            break;
        }
        left -= n_in;
    }

    std::vector<std::vector<cell>> part_cells(n_parts);
    threads.run(end - begin, n_parts, [&](int64_t part, int64_t from, int64_t to) {
        auto & cells = part_cells[part];
        cells.reserve(part_counts[part][bin]);
        for (int64_t j = from; j < to; ++j) {
            const list     & l   = lists[begin + j];
            const uint32_t * key = keys.data() + l.first;
            for (int64_t i = 0; i < l.size; ++i) {
                if (key[i] >> SHIFT == bin) {
                    cells.push_back({ key[i], l.ordinals[i], l.first + i });
                }
            }
        }
    });

    auto & cells = part_cells[0];
    for (int64_t part = 1; part < n_parts; ++part) {
        cells.insert(cells.end(), part_cells[part].begin(), part_cells[part].end());
    }
    std::nth_element(cells.begin(), cells.begin() + left - 1, cells.end());
    return cells[left - 1];
}
