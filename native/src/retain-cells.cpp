#include "retain-cells.h"

#include <algorithm>
#include <iterator>

void retain_cell_list::append(retain_pool & pool, int64_t n, const int32_t * positions, const int32_t * ordinals) {
    const int64_t n_pages = (size() + n + pool.get_page_size() - 1)/pool.get_page_size();
    while ((int64_t) pages.size() < n_pages) {
        pages.push_back(pool.take());
    }

    pos.insert(pos.end(), positions, positions + n);
    ordinal.insert(ordinal.end(), ordinals, ordinals + n);
    log_beta.resize(pos.size(), 0.0f);
}

void retain_cell_list::truncate(retain_pool & pool, int64_t n) {
    pos.resize(n);
    ordinal.resize(n);
    log_beta.resize(n);
    if (!shift.empty()) {
        shift.resize(n);
    }

    const size_t n_pages = (n + pool.get_page_size() - 1)/pool.get_page_size();
    while (pages.size() > n_pages) {
        pool.give_back(pages.back());
        pages.pop_back();
    }
}

void retain_cell_list::read_keys(const retain_pool & pool, std::vector<float> & dst) const {
    dst.resize(size()*pool.get_k()->ne[0]);
    for (size_t i = 0; i < pages.size(); ++i) {
        const int64_t first = i*pool.get_page_size();
        pool.read_keys(pages[i], std::min<int64_t>(pool.get_page_size(), size() - first), dst.data() + first*pool.get_k()->ne[0]);
    }
}

void retain_cell_list::move(int64_t src, int64_t dst) {
    pos[dst]      = pos[src];
    ordinal[dst]  = ordinal[src];
    log_beta[dst] = log_beta[src];
    if (!shift.empty()) {
        shift[dst] = shift[src];
    }
}

bool is_in(const retain_ranges & ranges, llama_pos p) {
    return std::any_of(ranges.begin(), ranges.end(), [p](const auto & range) { return p >= range.first && p < range.second; });
}

// positions in ranges, each counted once
static int64_t n_positions(retain_ranges ranges) {
    std::sort(ranges.begin(), ranges.end());

    int64_t   n   = 0;
    llama_pos end = 0;
    for (const auto & [p0, p1] : ranges) {
        n  += std::max(0, p1 - std::max(p0, end));
        end = std::max(end, p1);
    }
    return n;
}

int64_t retain_seq::n_tokens_in(const retain_ranges & ranges) const {
    if (ranges.empty()) {
        return 0; // without a look at every cell, as evictions ask
    }
    int64_t n_more = 0; // cells that share a position with another one
    for (const auto & cell_list : cell_lists) {
        std::vector<int32_t> inside;
        std::copy_if(cell_list.pos.begin(), cell_list.pos.end(), std::back_inserter(inside), [&](int32_t p) { return is_in(ranges, p); });
        std::sort(inside.begin(), inside.end());

        const auto unique = std::unique(inside.begin(), inside.end());
        n_more = std::max<int64_t>(n_more, inside.end() - unique);
    }
    return n_positions(ranges) + n_more;
}

std::pair<llama_pos, int64_t> retain_seq::end_before(llama_pos p) const {
    if (p > pos_max) {
        return { pos_max, n_seen };
    }
    llama_pos last = evicted_at - 1;
    int64_t   n    = n_seen;

    // what came after the last eviction is in every cell list
    const auto & cells = cell_lists[0];
    for (int64_t i = 0; i < cells.size(); ++i) {
        if (cells.pos[i] < p) {
            last = std::max(last, cells.pos[i]);
        } else {
            n = std::min<int64_t>(n, cells.ordinal[i]);
        }
    }
    return { last, last < 0 ? 0 : n };
}
