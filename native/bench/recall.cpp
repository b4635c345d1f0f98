// recall.cpp - time recall in retention attention: what finding and widening archived cells adds to attending to those held
//
//   BENCH=$(python native/builder bench)       builds the benchmarks and prints their folder
//   $BENCH/bench-recall --threads 1,2 --heads 128 --archived 4096,30720 --tokens 1,16
//
// A layer of 8 KV heads with 1,536 cells held and 512 recalled each, of a budget of 2,048; layers are as many as have `--mib` of
// archived keys, more than the last cache holds. Pages lie in random order.
//
//   ms        a layer, with recall
//   without   a layer, without
//   GB/s      bytes of archived keys over the difference, for each token
//   of read   share of the rate at which the same threads read the same bytes one after the other

#include "ggml-retention.h"
#include "timing.h"

#include <algorithm>
#include <memory>

using namespace bench;

namespace {

struct recall_case {
    int64_t n_embd     = 128;
    int64_t n_head_kv  = 8;
    int64_t n_group    = 2;
    int64_t n_held     = 1536;
    int64_t n_recall   = 512;
    int64_t n_archived = 30720;
    int64_t n_tokens   = 1;
    int64_t page_size  = 128;
    int64_t bytes_min  = 0; // archived keys of a step

    size_t  key_bytes() const { return ggml_row_size(GGML_TYPE_Q4_0, n_embd)*n_archived*n_head_kv; } // of a layer
    int64_t n_layer()   const { return n_tokens > 1 ? 1 : std::max<int64_t>(1, (bytes_min + key_bytes() - 1)/key_bytes()); }
};

struct recall_graph : graph {
    recall_graph(const recall_case & c, ggml_backend_t backend, std::mt19937 & rng, ggml_tensor * archive) : graph(16*c.n_layer() + 16) {
        const int64_t n_lists   = c.n_layer()*c.n_head_kv;
        const int64_t per_list  = (c.n_held + c.page_size - 1)/c.page_size;
        const int64_t per_far   = (c.n_archived + c.page_size - 1)/c.page_size;

        ggml_tensor * q      = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, c.n_embd, c.n_head_kv*c.n_group, c.n_tokens);
        ggml_tensor * pages  = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n_lists*(per_list + per_far));
        ggml_tensor * lists  = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 2, 2*n_lists + 1);
        ggml_tensor * tokens = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 3, c.n_tokens);
        ggml_tensor * pool   = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, c.n_embd, n_lists*per_list*2*c.page_size);

        for (int64_t il = 0; il < c.n_layer(); ++il) {
            ggml_retention_attn_params params = {};
            params.scale       = 1.0f/sqrtf((float) c.n_embd);
            params.n_head_kv   = c.n_head_kv;
            params.page_size   = c.page_size;
            params.k_stride    = 2*c.page_size;
            params.v_stride    = 2*c.page_size;
            params.v_first     = c.page_size;
            params.list_first  = il*c.n_head_kv;
            params.list_stride = n_lists;
            params.few_tokens  = c.n_tokens <= 4;
            ggml_tensor * op = ggml_retention_attn(ctx.get(), q, pool, pool, nullptr, nullptr, pages, lists, tokens, nullptr, &params);
            if (archive) {
                ggml_retention_attn_add_archive(op, archive, c.n_recall, c.page_size, GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, true, n_lists);
            }
            ggml_build_forward_expand(gf, op);
        }
        allocate(backend);

        std::vector<int32_t> far(n_lists*per_far), order(n_lists*per_list);
        std::iota(far.begin(), far.end(), 0);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(far.begin(), far.end(), rng);
        std::shuffle(order.begin(), order.end(), rng);
        order.insert(order.end(), far.begin(), far.end());

        std::vector<int32_t> table(2*(2*n_lists + 1), 0);
        for (int64_t i = 0; i < n_lists; ++i) {
            table[2*i + 0] = i*per_list;
            table[2*i + 1] = c.n_held - c.n_tokens;
            table[2*(n_lists + i) + 0] = n_lists*per_list + i*per_far;
            table[2*(n_lists + i) + 1] = c.n_archived;
        }
        table[2*2*n_lists] = c.n_recall;
        std::vector<int32_t> visible(3*c.n_tokens);
        for (int64_t t = 0; t < c.n_tokens; ++t) {
            visible[3*t + 1] = t + 1;
            visible[3*t + 2] = t;
        }
        fill_rows(q, rng);
        fill_rows(pool, rng);
        ggml_backend_tensor_set(pages,  order.data(),   0, ggml_nbytes(pages));
        ggml_backend_tensor_set(lists,  table.data(),   0, ggml_nbytes(lists));
        ggml_backend_tensor_set(tokens, visible.data(), 0, ggml_nbytes(tokens));
    }
};

void run(const recall_case & c, int n_threads, int n_repeat, ggml_backend_t backend) {
    std::mt19937 rng(1);
    ggml_backend_cpu_set_n_threads(backend, n_threads);

    // the archive, and its keys as rows of their own, to be read in a row
    const ggml_context_ptr ctx(ggml_init({ 2*ggml_tensor_overhead(), nullptr, true }));
    const int64_t n_rows = c.n_layer()*c.n_head_kv*((c.n_archived + c.page_size - 1)/c.page_size)*c.page_size;
    ggml_tensor * archive = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I8,
            ggml_retention_archive_size(GGML_TYPE_Q4_0, c.n_embd, GGML_TYPE_Q4_0, c.n_embd, n_rows));
    ggml_tensor * keys = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_Q4_0, c.n_embd, n_rows);
    const ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), backend));
    ggml_retention_use_huge_pages(archive->data, ggml_nbytes(archive));
    fill_rows(keys, rng);
    ggml_backend_tensor_memset(archive, 0, 0, ggml_nbytes(archive));
    memcpy(archive->data, keys->data, ggml_nbytes(keys));
    memcpy((char *) archive->data + ggml_nbytes(keys), keys->data, ggml_nbytes(keys));

    recall_graph with   (c, backend, rng, archive);
    recall_graph without(c, backend, rng, nullptr);
    read_graph   read(keys, c.n_layer(), backend);
    for (int i = 0; i < n_repeat; ++i) {
        with   .time(backend, n_threads);
        without.time(backend, n_threads);
        read   .time(backend, n_threads);
    }

    const double layers = c.n_layer();
    const double rate   = c.key_bytes()*layers*c.n_tokens/(with.best - without.best);
    const double limit  = ggml_nbytes(keys)/read.best;
    printf("%2d %4d %5d %6d %8d %9.3f %9.3f %7.1f %6.1f%%\n", n_threads, (int) c.n_embd, (int) c.n_group, (int) c.n_tokens, (int) c.n_archived,
            with.best/layers*1e3, without.best/layers*1e3, rate*1e-9, 100.0*rate/limit);
    fflush(stdout);
}

} // namespace

int main(int argc, char ** argv) {
    std::string heads = "128", group = "2", archived = "4096,30720", tokens = "1,16", threads = "1,2", repeat = "10", mib = "160";
    read_options(argc, argv, {
        { "--heads", &heads }, { "--group", &group }, { "--archived", &archived }, { "--tokens", &tokens }, { "--threads", &threads },
        { "--repeat", &repeat }, { "--mib", &mib },
    });

    ggml_time_init();
    const ggml_backend_ptr backend(ggml_backend_init_by_name("CPU", nullptr));

    printf("th head group tokens archived        ms   without    GB/s of read\n");
    for (const auto & n_threads : split(threads)) {
        for (const auto & head : split(heads)) {
            for (const auto & n_archived : split(archived)) {
                for (const auto & n_tokens : split(tokens)) {
                    recall_case c;
                    c.n_embd     = number_of(head);
                    c.n_group    = number_of(group);
                    c.n_archived = number_of(n_archived);
                    c.n_tokens   = number_of(n_tokens);
                    c.bytes_min  = number_of(mib) << 20;
                    run(c, number_of(n_threads), number_of(repeat), backend.get());
                }
            }
        }
    }
    return 0;
}
