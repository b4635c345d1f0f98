#include "retain-cells.h"

#include <algorithm>

void retain_cell_list::append(retain_pool & pool, int64_t n, const int32_t * positions) {
    const int64_t n_pages = (size() + n + pool.get_page_size() - 1)/pool.get_page_size();
    while ((int64_t) pages.size() < n_pages) {
        pages.push_back(pool.take());
    }

    pos.insert(pos.end(), positions, positions + n);
    log_beta.resize(pos.size(), 0.0f);
}

void retain_cell_list::truncate(retain_pool & pool, int64_t n) {
    pos.resize(n);
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

void retain_cell_list::move(retain_pool & pool, int64_t src, int64_t dst) {
    pool.queue_copy(place(pool, src), place(pool, dst));
    pos[dst]      = pos[src];
    log_beta[dst] = log_beta[src];
    if (!shift.empty()) {
        shift[dst] = shift[src];
    }
}

bool retain_seq::is_pinned(llama_pos p) const {
    for (const auto & [p0, p1] : pins) {
        if (p >= p0 && p < p1) {
            return true;
        }
    }
    return false;
}

int64_t retain_seq::n_pinned() const {
    auto sorted = pins;
    std::sort(sorted.begin(), sorted.end());

    int64_t   n   = 0;
    llama_pos end = 0;
    for (const auto & [p0, p1] : sorted) {
        n  += std::max(0, p1 - std::max(p0, end));
        end = std::max(end, p1);
    }
    return n;
}
