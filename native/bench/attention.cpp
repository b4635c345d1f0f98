// attention.cpp - time retention attention against ggml_flash_attn_ext and against reading the same bytes in a row
//
//   BENCH=$(python native/builder bench)       builds the benchmarks and prints their folder
//   $BENCH/bench-attention                     the default table
//   $BENCH/bench-attention --device CUDA0      on a GPU: reading is half the rate at which the device copies
//   $BENCH/bench-attention --threads 2 --types f16,q8_0 --heads 128 --cells 2048,8192 --tokens 1,512 --pages 64,128
//
// A decode step is a graph of as many layers as have `--mib` of K and V: 160, more than the last cache holds; 1, to see
// the cost of the arithmetic alone. Pages lie in random order, in huge pages unless `--huge 0`, K and V of a
// page side by side unless `--apart 1`; the K and V of flash attention lie as stock llama.cpp has them, token by token, each
// with all its KV heads.
//
//   ms        of retention attention, a layer
//   GB/s      K and V bytes over that time (each is read once)
//   of read   share of the rate at which the same threads read the same bytes one after the other
//   GFLOP/s   2 products of 2 flops, masked ones not counted
//   stock     time of flash attention over ours

#include "ggml-retention.h"
#include "timing.h"

#include <memory>

using namespace bench;

namespace {

struct bench_case {
    ggml_type type      = GGML_TYPE_F16;
    int64_t   n_embd    = 128; // of a head
    int64_t   n_head_kv = 8;
    int64_t   n_group   = 2;   // query heads per KV head
    int64_t   n_cells   = 2048; // of a cell list, those of the tokens included
    int64_t   n_tokens  = 1;
    int64_t   page_size = 128;
    int64_t   bytes_min = 0;   // K and V of a decode step
    bool      is_huge   = true; // huge pages
    bool      is_apart  = false; // K of all pages first, then V of all, instead of K and V of a page side by side

    size_t  row_bytes()   const { return ggml_row_size(type, n_embd); }
    size_t  layer_bytes() const { return 2*row_bytes()*n_cells*n_head_kv; }
    int64_t n_pages()     const { return (n_cells + page_size - 1)/page_size*n_head_kv; } // of a layer
    int64_t n_layer()     const { return n_tokens > 16 ? 1 : std::max<int64_t>(2, (bytes_min + layer_bytes() - 1)/layer_bytes()); }

    double flops() const { // of a layer
        const double visible = n_cells - (n_tokens - 1)/2.0;
        return 4.0*n_embd*n_head_kv*n_group*n_tokens*visible;
    }
};

// retention attention over a pool of all layers
struct retention_graph : graph {
    ggml_tensor * pool;

    retention_graph(const bench_case & c, ggml_backend_t backend, std::mt19937 & rng) : graph(16*c.n_layer() + 16) {
        const int64_t n_layer   = c.n_layer();
        const int64_t n_cell_lists = n_layer*c.n_head_kv;

        ggml_tensor * q       = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, c.n_embd, c.n_head_kv*c.n_group, c.n_tokens);
        ggml_tensor * pages   = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, c.n_pages()*n_layer);
        ggml_tensor * cell_lists = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 2, n_cell_lists);
        ggml_tensor * tokens  = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 3, c.n_tokens);
        pool = ggml_new_tensor_2d(ctx.get(), c.type, c.n_embd, pages->ne[0]*2*c.page_size);

        for (int64_t il = 0; il < n_layer; ++il) {
            ggml_retention_attn_params params = {};
            params.scale         = 1.0f/sqrtf((float) c.n_embd);
            params.n_head_kv     = c.n_head_kv;
            params.page_size     = c.page_size;
            params.k_stride      = c.is_apart ? c.page_size : 2*c.page_size;
            params.v_stride      = params.k_stride;
            params.v_first       = c.is_apart ? pages->ne[0]*c.page_size : c.page_size;
            params.list_first  = il*c.n_head_kv;
            params.list_stride = n_cell_lists;
            params.few_tokens  = c.n_tokens <= 4;
            ggml_build_forward_expand(gf, ggml_retention_attn(ctx.get(), q, pool, pool, nullptr, nullptr, pages, cell_lists, tokens, nullptr, &params));
        }
        allocate(backend);
        if (c.is_huge) {
            ggml_retention_use_huge_pages(pool->data, ggml_nbytes(pool));
        }

        std::vector<int32_t> order(pages->ne[0]);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), rng);

        std::vector<int32_t> table(2*n_cell_lists);
        for (int64_t i = 0; i < n_cell_lists; ++i) {
            table[2*i + 0] = i*(c.n_pages()/c.n_head_kv);
            table[2*i + 1] = c.n_cells - c.n_tokens;
        }
        std::vector<int32_t> visible(3*c.n_tokens);
        for (int64_t t = 0; t < c.n_tokens; ++t) {
            visible[3*t + 1] = t + 1;
            visible[3*t + 2] = t;
        }

        fill_rows(q, rng);
        fill_rows(pool, rng);
        ggml_backend_tensor_set(pages,   order.data(),   0, ggml_nbytes(pages));
        ggml_backend_tensor_set(cell_lists, table.data(),   0, ggml_nbytes(cell_lists));
        ggml_backend_tensor_set(tokens,  visible.data(), 0, ggml_nbytes(tokens));
    }
};

// flash attention over K and V as stock llama.cpp lays them out
struct flash_graph : graph {
    flash_graph(const bench_case & c, ggml_backend_t backend, std::mt19937 & rng) : graph(16*c.n_layer() + 16) {
        ggml_tensor * q    = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, c.n_embd, c.n_tokens, c.n_head_kv*c.n_group);
        ggml_tensor * mask = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, c.n_cells, c.n_tokens);

        std::vector<ggml_tensor *> cells;
        for (int64_t il = 0; il < c.n_layer(); ++il) {
            ggml_tensor * kv[2];
            for (ggml_tensor *& t : kv) {
                cells.push_back(ggml_new_tensor_3d(ctx.get(), c.type, c.n_embd, c.n_head_kv, c.n_cells));
                t = ggml_permute(ctx.get(), cells.back(), 0, 2, 1, 3);
            }
            ggml_tensor * out = ggml_flash_attn_ext(ctx.get(), q, kv[0], kv[1], mask, 1.0f/sqrtf((float) c.n_embd), 0.0f, 0.0f);
            ggml_prec_set_acc(out, GGML_PREC_F32);
            ggml_build_forward_expand(gf, out);
        }
        allocate(backend);

        fill_rows(q, rng);
        for (ggml_tensor * t : cells) {
            fill_rows(t, rng);
        }
        std::vector<ggml_fp16_t> bias(c.n_cells*c.n_tokens);
        for (int64_t t = 0; t < c.n_tokens; ++t) {
            for (int64_t i = 0; i < c.n_cells; ++i) {
                bias[t*c.n_cells + i] = ggml_fp32_to_fp16(i <= c.n_cells - c.n_tokens + t ? 0.0f : -INFINITY);
            }
        }
        ggml_backend_tensor_set(mask, bias.data(), 0, ggml_nbytes(mask));
    }
};

// copy the pool within the device's memory: each byte is read and written
struct copy_graph : graph {
    copy_graph(ggml_tensor * pool, ggml_backend_t backend) : graph(8) {
        ggml_tensor * to = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, ggml_nbytes(pool)/4);
        ggml_tensor * from = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, ggml_nbytes(pool)/4);
        ggml_build_forward_expand(gf, ggml_cpy(ctx.get(), from, to));
        allocate(backend);
    }
};

void run(const bench_case & c, int n_threads, int n_repeat, ggml_backend_t backend) {
    std::mt19937 rng(1);
    const bool is_cpu = ggml_backend_is_cpu(backend);
    retention_graph ours (c, backend, rng);
    flash_graph     stock(c, backend, rng);
    std::unique_ptr<graph> read;
    if (is_cpu) {
        read = std::make_unique<read_graph>(ours.pool, c.n_layer(), backend);
        ggml_backend_cpu_set_n_threads(backend, n_threads);
    } else {
        read = std::make_unique<copy_graph>(ours.pool, backend);
    }
    for (int i = 0; i < n_repeat; ++i) {
        ours .time(backend, n_threads);
        stock.time(backend, n_threads);
        read->time(backend, n_threads);
    }

    const double layers = c.n_layer();
    const double rate   = c.layer_bytes()*layers/ours.best;
    const double limit  = ggml_nbytes(ours.pool)*(is_cpu ? 1 : 2)/read->best;
    printf("%2d  %-5s %4d %5d %5d %6d %6d %9.3f %7.1f %6.1f%% %8.1f %7.2f\n", n_threads, ggml_type_name(c.type), (int) c.n_embd,
            (int) c.n_group, (int) c.page_size, (int) c.n_tokens, (int) c.n_cells, ours.best/layers*1e3, rate*1e-9, 100.0*rate/limit,
            c.flops()*layers/ours.best*1e-9, stock.best/ours.best);
    fflush(stdout);
}

} // namespace

int main(int argc, char ** argv) {
    std::string types = "f16,q8_0", heads = "128", cells = "2048,8192", tokens = "1,512", threads = "1,2", pages = "128";
    std::string group = "2", repeat = "20", mib = "160", huge = "1", apart = "0", device = "CPU";
    read_options(argc, argv, {
        { "--types", &types }, { "--heads", &heads }, { "--cells", &cells }, { "--tokens", &tokens }, { "--threads", &threads },
        { "--pages", &pages }, { "--group", &group }, { "--repeat", &repeat }, { "--mib", &mib }, { "--huge", &huge },
        { "--apart", &apart }, { "--device", &device },
    });

    ggml_time_init();
    if (device != "CPU") {
        threads = "2"; // time, and not processor time
    }
    const ggml_backend_ptr backend(ggml_backend_init_by_name(device.c_str(), nullptr));
    if (!backend) {
        fprintf(stderr, "there is no device %s\n", device.c_str());
        return 1;
    }

    printf("th  cells head group  page tokens  depth        ms    GB/s of read  GFLOP/s   stock\n");
    for (const auto & n_threads : split(threads)) {
        for (const auto & n_tokens : split(tokens)) {
            for (const auto & type : split(types)) {
                for (const auto & head : split(heads)) {
                    for (const auto & n_cells : split(cells)) {
                        for (const auto & page : split(pages)) {
                            bench_case c;
                            c.type      = type_of(type);
                            c.n_embd    = number_of(head);
                            c.n_group   = number_of(group);
                            c.n_tokens  = number_of(n_tokens);
                            c.n_cells   = std::max(number_of(n_cells), c.n_tokens);
                            c.page_size = number_of(page);
                            c.bytes_min = number_of(mib) << 20;
                            c.is_huge   = huge  != "0" && device == "CPU";
                            c.is_apart  = apart != "0";
                            run(c, number_of(n_threads), number_of(repeat), backend.get());
                        }
                    }
                }
            }
        }
    }
    return 0;
}
