// retain-pool.h - the pages that hold K and V: one allocation of one backend buffer type
//
// Layout of a page: page_size K rows, then (at the next multiple of a V row) page_size V rows. Every page has the same
// size, a multiple of both row sizes, so that K and V are each one tensor of rows over the whole allocation.

#pragma once

#include "ggml-cpp.h"
#include "ggml-backend.h"
#include "ggml-retention.h"

#include "retain-threads.h"

#include <cstdint>
#include <vector>

class retain_pool {
public:
    // where one cell is
    struct place {
        int32_t page;
        int32_t slot;
    };

    retain_pool(
            ggml_backend_buffer_type_t buft,
            ggml_type type_k, int64_t n_embd_k,
            ggml_type type_v, int64_t n_embd_v,
            int32_t page_size, int64_t n_pages,
            int64_t n_log_beta, // floats for the gates' output of one ubatch
            bool    no_alloc);

    // the K rows of all pages and behind them their V rows, from the start of a buffer in host memory that the caller keeps
    retain_pool(
            ggml_backend_buffer_t memory,
            ggml_type type_k, int64_t n_embd_k,
            ggml_type type_v, int64_t n_embd_v,
            int32_t page_size, int64_t n_pages);

    bool    can_take(int64_t n) const { return n <= (int64_t) free_pages.size(); }
    int32_t take();
    void    give_back(int32_t page);

    int64_t k_row(place at) const { return at.page*k_stride + at.slot; }
    int64_t v_row(place at) const { return at.page*v_stride + v_first + at.slot; }

    // Copy cells over others: what was queued since the last run is copied at once. No cell may be both read and written.
    ggml_retention_copy make_copy(place src, place dst) const;
    void queue_copy(place src, place dst) { copies.push_back(make_copy(src, dst)); }
    void queue_copies(const std::vector<ggml_retention_copy> & more) { copies.insert(copies.end(), more.begin(), more.end()); }
    void run_copies(retain_threads & threads);

    // A graph that a backend of the pool's device was given may still run. Bring its first n log betas to the host; what else is
    // read or written here waits for it too.
    void          fetch_log_beta(ggml_backend_t backend, int64_t n);
    const float * fetched_log_beta() const; // waits

    // the first n cells of a cell list, page by page: of each cell the K row, then the V row
    void read (const std::vector<int32_t> & pages, int64_t n, uint8_t * dst) const;
    void write(const std::vector<int32_t> & pages, int64_t n, const uint8_t * src);

    // the first n K rows of a page in float: [n, n_embd_k]
    void read_keys(int32_t page, int64_t n, float * dst) const;

    size_t  bytes()        const { return page_bytes*n_pages; }
    size_t  bytes_page()   const { return page_bytes; }
    size_t  bytes_cell()   const { return row_k + row_v; }
    int64_t n_pages_used() const { return n_pages - (int64_t) free_pages.size(); }

    int64_t get_n_pages()   const { return n_pages; }
    int32_t get_page_size() const { return page_size; }

    ggml_backend_buffer_type_t get_buft() const { return buft; }

    ggml_tensor * get_k()        const { return k; }        // [n_embd_k, n_pages*k_stride]
    ggml_tensor * get_v()        const { return v; }        // [n_embd_v, n_pages*v_stride]
    ggml_tensor * get_log_beta() const { return log_beta; } // f32 [n_log_beta]

    // say where the cells of a page are
    void set_layout(ggml_retention_attn_params & params) const;

    // the backend that computes in memory of a type
    static ggml_backend_t backend_of(ggml_backend_sched_t sched, ggml_backend_buffer_type_t buft);

    // the function of a device that copies cells in its memory; null where it has none
    static ggml_retention_copy_cells_t copy_function(ggml_backend_buffer_type_t buft);

private:
    ggml_backend_buffer_type_t buft;

    int32_t page_size;
    int64_t n_pages;

    int64_t k_stride; // K rows from page to page
    int64_t v_stride; // V rows from page to page
    int64_t v_first;  // V rows before the first V row of a page

    ggml_tensor * k        = nullptr;
    ggml_tensor * v        = nullptr;
    ggml_tensor * log_beta = nullptr;

    const size_t row_k;
    const size_t row_v;
    size_t page_bytes;

    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buf;
    ggml_backend_buffer_ptr buf_host;  // log_beta as the host has it, where buf is another memory
    bool can_fetch_ahead = false;      // the device writes to it while the host goes on

    int64_t                n_fetched = 0;
    mutable ggml_backend_t running   = nullptr; // what may not have come to its end

    void wait() const;

    void free_all();

    template <typename F>
    void for_each_page(const std::vector<int32_t> & pages, int64_t n, F fn) const;

    std::vector<ggml_retention_copy> copies; // queued

    std::vector<int32_t> free_pages; // the lowest last, so that untouched memory stays untouched
};
