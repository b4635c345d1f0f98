#include "retain-pool.h"
#include "retain-error.h"

#include "ggml-alloc.h"
#include "ggml-retention.h"

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
        bool    no_alloc) : buft(buft), page_size(page_size), n_pages(n_pages) {
    row_k = ggml_row_size(type_k, n_embd_k);
    row_v = ggml_row_size(type_v, n_embd_v);

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

    const size_t align  = ggml_backend_buft_get_alignment(buft);
    const size_t n_pool = round_up(bytes(), align);

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

void retain_pool::move(place src, place dst) {
    if (ggml_backend_buffer_is_host(buf.get())) {
        memcpy((char *) k->data + k_row(dst)*row_k, (const char *) k->data + k_row(src)*row_k, row_k);
        memcpy((char *) v->data + v_row(dst)*row_v, (const char *) v->data + v_row(src)*row_v, row_v);
        return;
    }

    std::vector<uint8_t> cell(bytes_cell());
    read (src, cell.data());
    write(dst, cell.data());
}

void retain_pool::read(place at, uint8_t * dst) const {
    ggml_backend_tensor_get(k, dst,         k_row(at)*row_k, row_k);
    ggml_backend_tensor_get(v, dst + row_k, v_row(at)*row_v, row_v);
}

void retain_pool::write(place at, const uint8_t * src) {
    ggml_backend_tensor_set(k, src,         k_row(at)*row_k, row_k);
    ggml_backend_tensor_set(v, src + row_k, v_row(at)*row_v, row_v);
}

void retain_pool::read_keys(int32_t page, int64_t n, float * dst) const {
    const size_t offset = k_row({ page, 0 })*row_k;
    if (k->type == GGML_TYPE_F32) {
        ggml_backend_tensor_get(k, dst, offset, n*row_k);
        return;
    }

    std::vector<uint8_t> rows(n*row_k);
    ggml_backend_tensor_get(k, rows.data(), offset, rows.size());
    ggml_get_type_traits(k->type)->to_float(rows.data(), dst, n*k->ne[0]);
}
