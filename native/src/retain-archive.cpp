#include "retain-archive.h"
#include "retain-error.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cstring>

// A cell that is quantised is archived as it is: it is not quantised twice.
static ggml_type archived_type(ggml_type type, const retain_config & config, int64_t n_embd) {
    const ggml_type res = ggml_is_quantized(type) ? type : config.archive_type;
    if (n_embd % ggml_blck_size(res) != 0) {
        throw retain_error(retain_format("an archive of %s needs a head size that is a multiple of %d, this model has %d; turn recall off",
                    ggml_type_name(res), (int) ggml_blck_size(res), (int) n_embd));
    }
    return res;
}

retain_archive::retain_archive(
        const retain_config & config,
        ggml_type type_k, int64_t n_embd_k,
        ggml_type type_v, int64_t n_embd_v,
        int64_t n_cell_lists, int64_t n_evicted, int64_t n_seqs) {
    rotated = !ggml_is_quantized(type_k) && !ggml_is_quantized(type_v);
    type_k  = archived_type(type_k, config, n_embd_k);
    type_v  = archived_type(type_v, config, n_embd_v);

    // Lists have a page each that is not full. When the archive is full an eighth is let go, which should make room for an
    // eviction, were it from one list alone.
    const int64_t n_page  = PAGE_SIZE*(ggml_row_size(type_k, n_embd_k) + ggml_row_size(type_v, n_embd_v));
    const int64_t n_pages = config.archive_bytes/n_page;
    const int64_t n_least = n_seqs*(n_cell_lists + (8*n_evicted + PAGE_SIZE - 1)/PAGE_SIZE);
    if (n_pages < n_least) {
        throw retain_error(retain_format("an archive of %lld bytes is too small for this model; make it at least %lld KiB, or 0 to turn recall off",
                    (long long) config.archive_bytes, (long long) ((n_least*n_page >> 10) + 1)));
    }
    if (n_pages*PAGE_SIZE > INT32_MAX) {
        throw retain_error(retain_format("an archive of %lld bytes has more cells than can be counted; make it at most %lld MiB",
                    (long long) config.archive_bytes, (long long) ((INT32_MAX/PAGE_SIZE)*n_page >> 20)));
    }
    n_max_per_seq = (n_pages/n_seqs - n_cell_lists)*PAGE_SIZE;

    const size_t n_bytes = ggml_retention_archive_size(type_k, n_embd_k, type_v, n_embd_v, n_pages*PAGE_SIZE);
    if (config.archive_file.empty()) {
        buf.reset(ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), n_bytes));
        if (!buf) {
            throw retain_error(retain_format("cannot allocate %.1f MiB for the archive; make it smaller", n_bytes/1024.0/1024.0));
        }
    } else {
        file = std::make_unique<retain_mapped_file>(config.archive_file, n_bytes);
        buf.reset(ggml_backend_cpu_buffer_from_ptr(file->data(), n_bytes));
    }

    ctx.reset(ggml_init({ ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true }));
    data = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I8, n_bytes);
    ggml_set_name(data, "retain_archive");
    ggml_backend_tensor_alloc(buf.get(), data, ggml_backend_buffer_get_base(buf.get()));

    pool   = std::make_unique<retain_pool>(buf.get(), type_k, n_embd_k, type_v, n_embd_v, PAGE_SIZE, n_pages);
    counts = (uint32_t *) ((char *) data->data + pool->bytes());
}

// a row of one type, written as one of another
static void convert_row(const char * src, ggml_type type_src, char * dst, ggml_type type_dst, int64_t n, bool rotated, std::vector<float> & wide) {
    if (type_src == type_dst) {
        memcpy(dst, src, ggml_row_size(type_src, n));
        return;
    }
    wide.resize(n);
    if (type_src == GGML_TYPE_F32) {
        memcpy(wide.data(), src, n*sizeof(float));
    } else {
        ggml_get_type_traits(type_src)->to_float(src, wide.data(), n);
    }
    if (rotated) {
        ggml_retention_rotate(wide.data(), n);
    }
    ggml_get_type_traits_cpu(type_dst)->from_float(wide.data(), dst, n);
}

void retain_archive::append(const retain_pool & from, const retain_cell_list & src, const std::vector<int32_t> & indices, retain_cell_list & dst) {
    const auto row = [](ggml_tensor * t, int64_t i) { return (char *) t->data + i*t->nb[1]; };

    ggml_tensor * k_src = from.get_k();
    ggml_tensor * v_src = from.get_v();
    ggml_tensor * k_dst = pool->get_k();
    ggml_tensor * v_dst = pool->get_v();

    std::vector<float> wide;
    for (const int32_t i : indices) {
        dst.append(*pool, 1, &src.pos[i], &src.ordinal[i]);
        dst.log_beta.back() = src.log_beta[i];

        const auto at    = src.place(from, i);
        const auto place = dst.place(*pool, dst.size() - 1);
        convert_row(row(k_src, from.k_row(at)), k_src->type, row(k_dst, pool->k_row(place)), k_dst->type, k_src->ne[0], rotated, wide);
        convert_row(row(v_src, from.v_row(at)), v_src->type, row(v_dst, pool->v_row(place)), v_dst->type, v_src->ne[0], rotated, wide);
        counts[pool->k_row(place)] = 0;
    }
}

void retain_archive::reset_counts(const retain_cell_list & list, int64_t first) {
    for (int64_t i = first; i < list.size(); ++i) {
        counts[pool->k_row(list.place(*pool, i))] = 0;
    }
}
