#include "retain-pool.h"
#include "retain-error.h"

#include "ggml-alloc.h"

#include <algorithm>
#include <cstring>
#include <numeric>

static size_t round_up(size_t x, size_t multiple) {
    return (x + multiple - 1)/multiple*multiple;
}

retain_pool::retain_pool(
        ggml_backend_buffer_type_t buft,
        ggml_type type_k, int64_t n_embd_k,
        ggml_type type_v, int64_t n_embd_v,
        int32_t page_size, int64_t n_pages,
        int64_t n_log_beta,
        bool    no_alloc) :
    buft(buft), page_size(page_size), n_pages(n_pages), row_k(ggml_row_size(type_k, n_embd_k)), row_v(ggml_row_size(type_v, n_embd_v)) {
    const size_t v_offset = round_up(page_size*row_k, row_v);
    page_bytes = round_up(v_offset + page_size*row_v, std::lcm(row_k, row_v));

    k_stride = page_bytes/row_k;
    v_stride = page_bytes/row_v;
    v_first  = v_offset/row_v;

    ggml_init_params params = {
        /*.mem_size   =*/ 3*ggml_tensor_overhead(),
        /*.mem_buffer =*/ nullptr,
        /*.no_alloc   =*/ true,
    };
    ctx.reset(ggml_init(params));

    k        = ggml_new_tensor_2d(ctx.get(), type_k, n_embd_k, n_pages*k_stride);
    v        = ggml_new_tensor_2d(ctx.get(), type_v, n_embd_v, n_pages*v_stride);
    log_beta = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n_log_beta);

    ggml_set_name(k,        "retain_pool_k");
    ggml_set_name(v,        "retain_pool_v");
    ggml_set_name(log_beta, "retain_log_beta");

    if (n_pages*std::max(k_stride, v_stride) > INT32_MAX) {
        throw retain_error("the KV pool has more rows than can be counted; lower the budget or the number of sequences");
    }

    // kernels may read a padded row: a backend that pads quantised tensors wants room for that behind the last page
    const size_t align  = ggml_backend_buft_get_alignment(buft);
    const size_t n_pool = round_up(std::max({ bytes(), ggml_backend_buft_get_alloc_size(buft, k),
                ggml_backend_buft_get_alloc_size(buft, v) }), align);

    buf.reset(ggml_backend_buft_alloc_buffer(buft, no_alloc ? 0 : n_pool + ggml_nbytes(log_beta)));
    if (!buf) {
        throw retain_error(retain_format("cannot allocate %.1f MiB for the KV pool; lower the budget or the context",
                    bytes()/1024.0/1024.0));
    }

    if (no_alloc) {
        // an empty buffer keeps the scheduler from allocating these itself
        k->buffer = v->buffer = log_beta->buffer = buf.get();
    } else {
        // K and V are two views of the same bytes
        char * base = (char *) ggml_backend_buffer_get_base(buf.get());
        if (ggml_backend_buffer_is_host(buf.get())) {
            ggml_retention_use_huge_pages(base, n_pool);
        }
        ggml_backend_tensor_alloc(buf.get(), k, base);
        ggml_backend_tensor_alloc(buf.get(), v, base);
        ggml_backend_tensor_alloc(buf.get(), log_beta, base + n_pool);
    }

    if (!no_alloc && !ggml_backend_buffer_is_host(buf.get())) {
        ggml_backend_dev_t         dev  = ggml_backend_buft_get_device(buft);
        ggml_backend_buffer_type_t host = dev ? ggml_backend_dev_host_buffer_type(dev) : nullptr;
        can_fetch_ahead = host != nullptr;
        buf_host.reset(ggml_backend_buft_alloc_buffer(host ? host : ggml_backend_cpu_buffer_type(), ggml_nbytes(log_beta)));
        if (!buf_host) {
            throw retain_error("cannot allocate host memory for the gates' output; lower the ubatch");
        }
    }

    free_all();
}

retain_pool::retain_pool(
        ggml_backend_buffer_t memory,
        ggml_type type_k, int64_t n_embd_k,
        ggml_type type_v, int64_t n_embd_v,
        int32_t page_size, int64_t n_pages) :
    buft(ggml_backend_buffer_get_type(memory)), page_size(page_size), n_pages(n_pages),
    k_stride(page_size), v_stride(page_size), v_first(0),
    row_k(ggml_row_size(type_k, n_embd_k)), row_v(ggml_row_size(type_v, n_embd_v)), page_bytes(page_size*(row_k + row_v)) {
    ctx.reset(ggml_init({ 2*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true }));

    k = ggml_new_tensor_2d(ctx.get(), type_k, n_embd_k, n_pages*page_size);
    v = ggml_new_tensor_2d(ctx.get(), type_v, n_embd_v, n_pages*page_size);

    char * base = (char *) ggml_backend_buffer_get_base(memory);
    ggml_backend_tensor_alloc(memory, k, base);
    ggml_backend_tensor_alloc(memory, v, base + ggml_nbytes(k));
    free_all();
}

void retain_pool::free_all() {
    free_pages.resize(n_pages);
    for (int64_t i = 0; i < n_pages; ++i) {
        free_pages[i] = n_pages - 1 - i;
    }
}

void retain_pool::set_layout(ggml_retention_attn_params & params) const {
    params.page_size = page_size;
    params.k_stride  = k_stride;
    params.v_stride  = v_stride;
    params.v_first   = v_first;
}

int32_t retain_pool::take() {
    GGML_ASSERT(!free_pages.empty());

    const int32_t page = free_pages.back();
    free_pages.pop_back();
    return page;
}

void retain_pool::give_back(int32_t page) {
    free_pages.push_back(page);
}

ggml_retention_copy retain_pool::make_copy(place src, place dst) const {
    return { (int32_t) k_row(src), (int32_t) k_row(dst), (int32_t) v_row(src), (int32_t) v_row(dst) };
}

ggml_backend_t retain_pool::backend_of(ggml_backend_sched_t sched, ggml_backend_buffer_type_t buft) {
    const int n = ggml_backend_sched_get_n_backends(sched);
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft); // of the CPU's memory it may be null
    for (int i = 0; dev && i < n; ++i) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(sched, i);
        if (ggml_backend_get_device(backend) == dev) {
            return backend;
        }
    }
    return ggml_backend_sched_get_backend(sched, n - 1); // the CPU's is the last
}

ggml_retention_copy_cells_t retain_pool::copy_function(ggml_backend_buffer_type_t buft) {
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(buft);
    ggml_backend_reg_t reg = dev ? ggml_backend_dev_backend_reg(dev) : nullptr;
    return reg ? (ggml_retention_copy_cells_t) ggml_backend_reg_get_proc_address(reg, GGML_RETENTION_COPY_CELLS) : nullptr;
}

void retain_pool::run_copies(retain_threads & threads) {
    if (copies.empty()) {
        return;
    }
    wait();
    if (ggml_backend_buft_is_host(buft)) {
        char * base_k = (char *) k->data;
        char * base_v = (char *) v->data;
        const int64_t n_steps = copies.size()*bytes_cell()/64; // a cache line each
        threads.run(copies.size(), threads.n_parts(n_steps), [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                memcpy(base_k + copies[i].k_dst*row_k, base_k + copies[i].k_src*row_k, row_k);
                memcpy(base_v + copies[i].v_dst*row_v, base_v + copies[i].v_src*row_v, row_v);
            }
        });
    } else {
        copy_function(buft)(k, v, copies.data(), copies.size());
    }
    copies.clear();
}

void retain_pool::wait() const {
    if (running) {
        ggml_backend_synchronize(running);
        running = nullptr;
    }
}

void retain_pool::fetch_log_beta(ggml_backend_t backend, int64_t n) {
    running   = backend;
    n_fetched = n;
    if (can_fetch_ahead && n > 0) {
        ggml_backend_tensor_get_async(backend, log_beta, ggml_backend_buffer_get_base(buf_host.get()), 0, n*sizeof(float));
    }
}

const float * retain_pool::fetched_log_beta() const {
    wait();
    if (!buf_host) {
        return (const float *) log_beta->data;
    }
    float * res = (float *) ggml_backend_buffer_get_base(buf_host.get());
    if (!can_fetch_ahead) {
        ggml_backend_tensor_get(log_beta, res, 0, n_fetched*sizeof(float));
    }
    return res;
}

// call fn(K row, V row, cells, first cell) for each page of a cell list's first n cells
template <typename F>
void retain_pool::for_each_page(const std::vector<int32_t> & pages, int64_t n, F fn) const {
    GGML_ASSERT(copies.empty());
    wait();
    for (int64_t first = 0; first < n; first += page_size) {
        const place at = { pages[first/page_size], 0 };
        fn(k_row(at), v_row(at), std::min<int64_t>(page_size, n - first), first);
    }
}

void retain_pool::read(const std::vector<int32_t> & pages, int64_t n, uint8_t * dst) const {
    std::vector<uint8_t> rows_k(page_size*row_k), rows_v(page_size*row_v);
    for_each_page(pages, n, [&](int64_t at_k, int64_t at_v, int64_t n_cells, int64_t first) {
        ggml_backend_tensor_get(k, rows_k.data(), at_k*row_k, n_cells*row_k);
        ggml_backend_tensor_get(v, rows_v.data(), at_v*row_v, n_cells*row_v);
        for (int64_t i = 0; i < n_cells; ++i) {
            uint8_t * cell = dst + (first + i)*bytes_cell();
            memcpy(cell,         rows_k.data() + i*row_k, row_k);
            memcpy(cell + row_k, rows_v.data() + i*row_v, row_v);
        }
    });
}

void retain_pool::write(const std::vector<int32_t> & pages, int64_t n, const uint8_t * src) {
    std::vector<uint8_t> rows_k(page_size*row_k), rows_v(page_size*row_v);
    for_each_page(pages, n, [&](int64_t at_k, int64_t at_v, int64_t n_cells, int64_t first) {
        for (int64_t i = 0; i < n_cells; ++i) {
            const uint8_t * cell = src + (first + i)*bytes_cell();
            memcpy(rows_k.data() + i*row_k, cell,         row_k);
            memcpy(rows_v.data() + i*row_v, cell + row_k, row_v);
        }
        ggml_backend_tensor_set(k, rows_k.data(), at_k*row_k, n_cells*row_k);
        ggml_backend_tensor_set(v, rows_v.data(), at_v*row_v, n_cells*row_v);
    });
}

void retain_pool::read_keys(int32_t page, int64_t n, float * dst) const {
    GGML_ASSERT(copies.empty());

    wait();
    const size_t offset = k_row({ page, 0 })*row_k;
    if (k->type == GGML_TYPE_F32) {
        ggml_backend_tensor_get(k, dst, offset, n*row_k);
        return;
    }

    std::vector<uint8_t> rows(n*row_k);
    ggml_backend_tensor_get(k, rows.data(), offset, rows.size());
    ggml_get_type_traits(k->type)->to_float(rows.data(), dst, n*k->ne[0]);
}
