// retain-recall.cpp - what becomes of evicted cells where there is an archive, and which of them stay in it

#include "retain-memory.h"

#include "ggml.h"

#include <algorithm>

int64_t retain_memory::n_archived(const retain_seq & seq) const {
    int64_t n = 0;
    for (const auto & cell_list : seq.archived) {
        n += cell_list.size();
    }
    return n;
}

void retain_memory::archive_cells(retain_seq & seq, size_t pool) {
    if (!archive) {
        return;
    }
    const int64_t t_start = ggml_time_us();

    size_t at = 0;
    for_each_cell_list(seq, pool, [&](const retain_layer & layer, int32_t h, const retain_cell_list & cell_list) {
        std::vector<int32_t> gone;
        for (int64_t i = 0; i < cell_list.size(); ++i) {
            if (!select.kept(at, i)) {
                gone.push_back(i);
            }
        }
        // the whole budget may lie in a few lists, so that more goes from one of them than the archive holds
        const int64_t n_lost = std::max<int64_t>(0, (int64_t) gone.size() - archive->n_max());
        gone.erase(gone.begin(), gone.begin() + n_lost);
        n_dropped += n_lost;
        thin_archive(seq, gone.size());
        archive->append(*pools[pool], cell_list, gone, seq.archived[layer.list_first + h]);
        ++at;
    });
    t_archive_s += (ggml_time_us() - t_start)*1e-6; // scores and moves of a full archive included
}

void retain_memory::thin_archive(retain_seq & seq, int64_t n) {
    const int64_t n_before = n_archived(seq);
    if (n_before + n <= archive->n_max()) {
        return;
    }

    std::vector<int64_t> sizes;
    for (const auto & cell_list : seq.archived) {
        sizes.push_back(cell_list.size());
    }
    retain_select chosen;
    chosen.start(sizes);

    std::vector<float> of_cells(n_before, 0.0f);
    for_each_cell_list(seq, [&](const retain_layer & layer, int32_t h, const retain_cell_list &) {
        const size_t l         = layer.list_first + h;
        const auto & cell_list = seq.archived[l];
        float      * dst       = of_cells.data() + chosen.first_cell(l);
        if (policy->score) {
            score_list(seq, layer, h, cell_list, archive->get_pool(), dst);
        }
        chosen.set_list(l, cell_list.ordinal.data(), dst);
    });
    // an eighth goes at least, so that this is rare
    chosen.run(0, sizes.size(), archive->n_max() - std::max(n, archive->n_max()/8), threads);

    keep_archived(seq, [&](size_t list, int64_t i) { return chosen.kept(list, i); });
    archive->get_pool().run_copies(threads);
    for (const auto & cell_list : seq.archived) {
        archive->reset_counts(cell_list, 0);
    }
    n_dropped += n_before - n_archived(seq);
}
