#include "retain-split.h"

#include "retain-memory.h"

#include <algorithm>

retain_split::retain_split(const retain_memory & mem, const llama_batch & batch, uint32_t n_ubatch) :
    batch(batch), n_ubatch(n_ubatch), buffer(mem.get_buffer()), used(batch.n_tokens, false) {
    // pictures come in batches of their own, and one whose tokens see each other must not be cut
    if (batch.embd || !mem.cuts_where_due()) {
        return;
    }
    for (llama_seq_id s = 0; mem.has_seq(s); ++s) {
        left.push_back(mem.n_until_eviction(mem.get_seq(s)));
    }
}

int64_t retain_split::left_of(uint32_t token) const {
    const llama_seq_id s = batch.seq_id[token][0];
    return s >= 0 && s < (llama_seq_id) left.size() ? left[s] : n_ubatch;
}

uint32_t retain_split::n_simple() const {
    auto now = left;

    const uint32_t first = std::find(used.begin(), used.end(), false) - used.begin();
    uint32_t n = 0;
    while (n < n_ubatch && first + n < used.size()) {
        const llama_seq_id s = batch.seq_id[first + n][0];
        if (s >= 0 && s < (llama_seq_id) now.size() && --now[s] < 0) {
            break;
        }
        ++n;
    }
    return std::max(1u, n);
}

uint32_t retain_split::n_of_sequence() const {
    const uint32_t first = std::find(used.begin(), used.end(), false) - used.begin();
    return first == used.size() ? n_ubatch : std::min<int64_t>(n_ubatch, left_of(first));
}

uint32_t retain_split::n_equal(bool ascending) const {
    std::vector<llama_seq_id> ids;
    int64_t least = n_ubatch;
    for (uint32_t i = 0; i < used.size(); ++i) {
        const llama_seq_id s = batch.seq_id[i][0];
        if (used[i] || std::find(ids.begin(), ids.end(), s) != ids.end() || (ascending && !ids.empty() && s != ids.back() + 1)) {
            continue;
        }
        ids.push_back(s);
        least = std::min(least, left_of(i));
    }
    return std::min<int64_t>(n_ubatch, std::max<int64_t>(1, least*ids.size()));
}

void retain_split::take(const llama_ubatch & ubatch) {
    for (const int32_t i : ubatch.data->batch_idxs) {
        const llama_seq_id s = batch.seq_id[i][0];
        used[i] = true;
        if (s >= 0 && s < (llama_seq_id) left.size()) {
            --left[s];
        }
    }
    for (auto & n : left) {
        n = n > 0 ? n : buffer; // the eviction that is due runs before the next ubatch
    }
}
