// scoring.cpp - time the gates of all layers against reading their weights in a row
//
//   BENCH=$(python native/builder bench)
//   $BENCH/bench-scoring                                 the shapes of Qwen3-0.6B and Llama-3.2-1B, F = 512
//   $BENCH/bench-scoring --types q8_0,f16 --embd 1024 --layers 28 --ff 512 --tokens 1,512 --threads 2
//
// Between two timings 256 MiB of other data are read: the weights come from memory, as when a model runs.
//
//   ms        of the gates of all layers: three projections (rg10), the last one retention score
//   op        of retention score alone, of all layers
//   GB/s      bytes of the weights over the time (each is read once)
//   of read   share of the rate at which the same threads read the same bytes one after the other

#include "ggml-retention.h"
#include "timing.h"

#include <memory>

using namespace bench;

namespace {

struct bench_case {
    ggml_type type;
    int64_t   n_embd;
    int64_t   n_ff;
    int64_t   n_head;
    int64_t   n_layer;
    int64_t   n_tokens;
};

// the gates of all layers as retain_gates builds them, or only their last op
struct gates_graph : graph {
    ggml_tensor * weights; // one after the other

    gates_graph(const bench_case & c, bool is_whole, ggml_backend_t backend, std::mt19937 & rng) : graph(32*c.n_layer + 32) {
        const int64_t n_rows = c.n_embd + c.n_ff + c.n_head; // of n_ff values, in a layer

        weights = ggml_new_tensor_2d(ctx.get(), c.type, c.n_ff, n_rows*c.n_layer);

        ggml_tensor * h    = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, c.n_embd, c.n_tokens);
        ggml_tensor * a    = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, c.n_ff,   c.n_tokens);
        ggml_tensor * bias = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, c.n_ff);
        ggml_tensor * out  = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, c.n_head, c.n_tokens*c.n_layer);

        for (int64_t il = 0; il < c.n_layer; ++il) {
            size_t at = il*n_rows*weights->nb[1];
            const auto matrix = [&](int64_t ne0, int64_t ne1) {
                const size_t nb = ggml_row_size(c.type, ne0);
                ggml_tensor * w = ggml_view_2d(ctx.get(), weights, ne0, ne1, nb, at);
                at += nb*ne1;
                return w;
            };
            const auto dense = [&](ggml_tensor * w, ggml_tensor * x) {
                return ggml_silu(ctx.get(), ggml_add(ctx.get(), ggml_mul_mat(ctx.get(), w, x), bias));
            };
            ggml_tensor * in  = matrix(c.n_embd, c.n_ff);
            ggml_tensor * mid = matrix(c.n_ff,   c.n_ff);
            ggml_tensor * x   = is_whole ? dense(mid, dense(in, h)) : a;

            ggml_tensor * dst = ggml_view_2d(ctx.get(), out, c.n_head, c.n_tokens, out->nb[1], il*c.n_tokens*out->nb[1]);
            ggml_tensor * b   = ggml_view_1d(ctx.get(), bias, c.n_head, 0);
            ggml_build_forward_expand(gf, ggml_retention_gate(ctx.get(), dst, x, matrix(c.n_ff, c.n_head), b, GGML_RETENTION_GATE_LOG_BETA));
        }
        allocate(backend);

        for (ggml_tensor * t : { weights, h, a, bias }) {
            fill_rows(t, rng);
        }
    }
};

// as much as a model's weights, so that those of the gates come from memory each time, as they do when a model runs
struct other_data : graph {
    std::unique_ptr<read_graph> read;

    other_data(ggml_backend_t backend, std::mt19937 & rng) : graph(8) {
        ggml_tensor * rows = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, 1024, 64 << 10);
        allocate(backend);
        fill_rows(rows, rng);
        read = std::make_unique<read_graph>(rows, 1, backend);
    }
};

void run(const bench_case & c, int n_threads, int n_repeat, ggml_backend_t backend) {
    std::mt19937 rng(1);
    gates_graph gates(c, true,  backend, rng);
    gates_graph score(c, false, backend, rng);
    read_graph  read (gates.weights, c.n_layer, backend);
    other_data  other(backend, rng);

    ggml_backend_cpu_set_n_threads(backend, n_threads);
    for (int i = 0; i < n_repeat; ++i) {
        other.read->time(backend, n_threads);
        gates.time(backend, n_threads);
        score.time(backend, n_threads);
        other.read->time(backend, n_threads);
        read .time(backend, n_threads);
    }

    const double n_bytes = ggml_nbytes(gates.weights);
    printf("%2d  %-5s %5d %4d %4d %6d %6d %9.3f %8.3f %7.1f %6.1f%%\n", n_threads, ggml_type_name(c.type), (int) c.n_embd, (int) c.n_ff,
            (int) c.n_head, (int) c.n_layer, (int) c.n_tokens, gates.best*1e3, score.best*1e3, n_bytes/gates.best*1e-9,
            100.0*read.best/gates.best);
    fflush(stdout);
}

} // namespace

int main(int argc, char ** argv) {
    std::string types = "q8_0", embd = "1024,2048", layers = "28,16", heads = "8,8", ff = "512", tokens = "1,512", threads = "1,2";
    std::string repeat = "20";
    read_options(argc, argv, {
        { "--types", &types }, { "--embd", &embd }, { "--layers", &layers }, { "--heads", &heads }, { "--ff", &ff },
        { "--tokens", &tokens }, { "--threads", &threads }, { "--repeat", &repeat },
    });
    const auto embds = split(embd), n_layers = split(layers), n_heads = split(heads);
    if (n_layers.size() != embds.size() || n_heads.size() != embds.size()) {
        fprintf(stderr, "--embd, --layers and --heads must name equally many\n");
        return 1;
    }

    ggml_time_init();
    const ggml_backend_ptr cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));

    printf("th  type   embd   ff   kv layers tokens        ms       op    GB/s of read\n");
    for (const auto & n_threads : split(threads)) {
        for (const auto & n_tokens : split(tokens)) {
            for (const auto & type : split(types)) {
                for (const auto & n_ff : split(ff)) {
                    for (size_t i = 0; i < embds.size(); ++i) {
                        run({ type_of(type), number_of(embds[i]), number_of(n_ff), number_of(n_heads[i]), number_of(n_layers[i]),
                              number_of(n_tokens) }, number_of(n_threads), number_of(repeat), cpu.get());
                    }
                }
            }
        }
    }
    return 0;
}
