// retain-archive.h - where evicted cells go: a pool in host memory or in a mapped file, from which attention recalls
//
// The cells of a (sequence, layer, KV head) are a cell list here too. K rows of all pages lie together, and V rows of all
// pages, since all keys of a list are read for each token and few values; behind them is a count for each cell.
//
//     size   n_pages*page_size*(K row + V row)    and 4 bytes more per cell for the counts
//
// Every sequence has an equal share of the pages.

#pragma once

#include "retain-cells.h"
#include "retain-mapped-file.h"
#include "retain-params.h"

#include <memory>
#include <string>

class retain_archive {
public:
    // of a pool with rows of these types, whose n_cell_lists lists let go of at most n_evicted cells each at once; throws
    // retain_error
    retain_archive(
            const retain_config & config,
            ggml_type type_k, int64_t n_embd_k,
            ggml_type type_v, int64_t n_embd_v,
            int64_t n_cell_lists, int64_t n_evicted, int64_t n_seqs);

    static constexpr int32_t PAGE_SIZE = 128; // cells that attention takes at once

    // add cells of a list, in the order of indices; there is room
    void append(const retain_pool & from, const retain_cell_list & src, const std::vector<int32_t> & indices, retain_cell_list & dst);

    // for how many tokens a cell was recalled, since it is where it is
    uint32_t n_recalled(const retain_cell_list & list, int64_t i) const { return counts[pool->k_row(list.place(*pool, i))]; }

    // start counting over, for the cells from first on
    void reset_counts(const retain_cell_list & list, int64_t first);

    int64_t n_max()        const { return n_max_per_seq; } // cells of a sequence
    int64_t n_pages()      const { return pool->get_n_pages(); }
    size_t  bytes()        const { return pool->bytes(); }
    size_t  bytes_in_use() const { return pool->n_pages_used()*pool->bytes_page(); }

    retain_pool       & get_pool()       { return *pool; }
    const retain_pool & get_pool() const { return *pool; }

    // what ggml_retention_attn_add_archive() takes
    ggml_tensor * get_data()   const { return data; }
    ggml_type     get_type_k() const { return pool->get_k()->type; }
    ggml_type     get_type_v() const { return pool->get_v()->type; }

    bool is_rotated() const { return rotated; } // whether rows are turned before they are stored

private:
    std::unique_ptr<retain_mapped_file> file; // null: in memory
    ggml_backend_buffer_ptr             buf;
    ggml_context_ptr                    ctx;
    ggml_tensor                       * data   = nullptr;
    uint32_t                          * counts = nullptr;
    std::unique_ptr<retain_pool>        pool;

    int64_t n_max_per_seq = 0;
    bool    rotated;
};
