// retain-devices.cpp - a model whose cells lie on a GPU does what it does on the CPU
//
// Without a GPU the same runs on a device that computes as the CPU does in memory of its own, and what is carried to that
// memory and back is counted.
//
// Products of one token with f32 weights are computed in f32 on GPUs too; those of a prompt are rounded to TF32, so
// the texts here are read token by token where cells are compared one by one.

#include "far-device.h"
#include "tiny-context.h"

#include "ggml-backend.h"

namespace {

constexpr int N_EMBD = 64*tiny::N_HEAD; // the smallest head size with kernels

struct device_files {
    const fs::path    dir   = fs::temp_directory_path()/("retain-test-" + std::to_string(std::random_device()()));
    const std::string model = dir/"model.gguf";
    const std::string gates = dir/"model.gates.gguf";

    ggml_backend_dev_t devices[2] = {}; // to use in place of those that there are

    device_files() {
        fs::create_directories(dir);
        tiny::write_model(model, "llama", N_EMBD);
        tiny::write_gates(gates, "", N_EMBD);
    }
    ~device_files() { fs::remove_all(dir); }

    llama_model * load(int n_gpu_layers) {
        llama_model_params params = llama_model_default_params();
        if (devices[0]) {
            params.devices   = devices;
            params.load_mode = LLAMA_LOAD_MODE_NONE; // the far device cannot map files
        }
        params.n_gpu_layers = n_gpu_layers;
        llama_model * res = llama_model_load_from_file(model.c_str(), params);
        CHECK(res);
        return res;
    }
};

retain_params wide_params(const device_files & files) {
    retain_params rp = small_params(files.gates);
    rp.budget    = 128;
    rp.buffer    = 16;
    rp.page_size = 16;
    return rp;
}

llama_context * make(llama_model * model, const retain_params * rp, llama_context_params cp) {
    cp.n_ctx = 4096;
    llama_context * res = rp ? retain_init_from_model(model, cp, rp) : llama_init_from_model(model, cp);
    if (!res) {
        fprintf(stderr, "no context: %s\n", retain_last_error());
    }
    CHECK(res);
    return res;
}

// cells of a that b does not hold, of all
std::pair<int64_t, int64_t> missing(llama_context * a, llama_context * b) {
    int64_t n = 0, n_all = 0;
    const auto x = all_positions(a, 0), y = all_positions(b, 0);
    for (size_t i = 0; i < x.size(); ++i) {
        std::vector<int32_t> only;
        std::set_difference(x[i].begin(), x[i].end(), y[i].begin(), y[i].end(), std::back_inserter(only));
        n     += only.size();
        n_all += x[i].size();
    }
    return { n, n_all };
}

// the same cells after 2,000 tokens with evictions, and the same predictions
void test_same_cells(const device_files & files, llama_model * cpu, llama_model * gpu, const char * what, llama_context_params cp) {
    const auto rp = wide_params(files);
    llama_context * a = make(cpu, &rp, context_params());
    llama_context * b = make(gpu, &rp, cp);

    const int  n_tokens = files.devices[0] ? 500 : 2000;
    const auto tokens   = random_tokens(1, n_tokens);
    double worst = 0.0;
    for (int pos = 0; pos < (int) tokens.size(); ++pos) {
        const auto want = decode(a, 0, pos, { tokens[pos] });
        worst = std::max(worst, nmse(decode(b, 0, pos, { tokens[pos] }), want));
    }
    const auto [n, n_all] = missing(a, b);
    retain_stats stats;
    CHECK(retain_get_stats(b, &stats) && stats.n_evictions > (n_tokens - rp.budget)/rp.buffer - 2);
    printf("  %-24s %d of %d cells differ after %d tokens, logits by NMSE %.1e at most\n", what, (int) n, (int) n_all,
            (int) tokens.size(), worst);
    CHECK(n == 0 && worst < 1e-6);

    // what was computed on one side goes on on the other
    const auto state = state_of(b, 0);
    CHECK(llama_state_seq_set_data(a, state.data(), state.size(), 0) == state.size());
    CHECK(nmse(decode(a, 0, n_tokens, { 7 }), decode(b, 0, n_tokens, { 7 })) < 1e-6);

    llama_free(a);
    llama_free(b);
}

// two sequences in a batch, copies of sequences, and a prompt in one ubatch
void test_sequences(const device_files & files, llama_model * cpu, llama_model * gpu) {
    const auto rp = wide_params(files);
    llama_context * a = make(cpu, &rp, context_params(2, 64));
    llama_context * b = make(gpu, &rp, context_params(2, 64));

    double worst = 0.0;
    far_counts() = {};
    for (llama_context * ctx : { a, b }) {
        for (int i = 0; i < 3; ++i) {
            decode(ctx, 0, 40*i, random_tokens(i, 40));
        }
        llama_memory_seq_cp(llama_get_memory(ctx), 0, 1, -1, -1);
        for (int i = 0; i < 40; ++i) {
            decode(ctx, 0, 120 + i, random_tokens(i, 1));
        }
    }
    worst = std::max(worst, nmse(decode(b, 0, 160, { 3 }), decode(a, 0, 160, { 3 })));
    worst = std::max(worst, nmse(decode(b, 1, 120, { 3 }), decode(a, 1, 120, { 3 })));
    printf("  %-24s logits differ by NMSE %.1e at most, prompts in TF32\n", "prompts, copies", worst);
    CHECK(worst < 1e-3);
    if (files.devices[0]) {
        // each layer's gate by itself for a prompt, all of them together for a token; each of them once
        const int n_layers = llama_model_n_layer(gpu);
        CHECK(far_counts().n_gates_alone == 3*n_layers && far_counts().n_gates_chained == 42*n_layers);
        CHECK(missing(a, b).first == 0);
    }

    llama_free(a);
    llama_free(b);
}

// without evictions the tokens are those of a stock context on the same device
void test_same_as_stock(llama_model * gpu) {
    retain_params rp = retain_default_params();
    rp.budget = 4096;
    rp.policy = "none";
    llama_context * a = make(gpu, nullptr, context_params());
    llama_context * b = make(gpu, &rp, context_params());

    llama_token token[2] = { 1, 1 };
    int n_same = 0;
    for (int pos = 0; pos < 600; ++pos) {
        const auto want = decode(a, 0, pos, { token[0] });
        const auto got  = decode(b, 0, pos, { token[1] });
        token[0] = std::max_element(want.begin(), want.end()) - want.begin();
        token[1] = std::max_element(got.begin(), got.end()) - got.begin();
        CHECK(token[0] == token[1]);
        n_same += token[0] == token[1];
    }
    printf("  %-24s %d tokens equal\n", "as stock, no eviction", n_same);
    llama_free(a);
    llama_free(b);
}

// what is carried for each token, and for an eviction
void test_transfers(const device_files & files, llama_model * far) {
    const auto rp = wide_params(files);
    llama_context * ctx = make(far, &rp, context_params());

    const auto run = [&](int first, int n) {
        far_counts() = {};
        for (int pos = first; pos < first + n; ++pos) {
            decode(ctx, 0, pos, random_tokens(pos, 1));
        }
    };
    run(0, 1); // the graph is made
    run(1, 100);
    const int n_places = far_transfers::count(far_counts().to, "retain_");
    printf("  %-24s %d transfers of ours to the device\n", "100 tokens", n_places);
    CHECK(n_places == 100 && far_counts().n_cell_copies == 0);

    // log betas come without a wait for them
    CHECK(far_transfers::count(far_counts().from, "retain_") == 0);
    CHECK(far_transfers::count(far_counts().from_ahead, "retain_log_beta") == 100);

    retain_stats before, after;
    CHECK(retain_get_stats(ctx, &before));
    run(101, 200);
    CHECK(retain_get_stats(ctx, &after));
    const int n_evictions = after.n_evictions - before.n_evictions;
    printf("  %-24s %d evictions, %d copies\n", "200 tokens", n_evictions, far_counts().n_cell_copies);
    CHECK(n_evictions >= 8 && far_counts().n_cell_copies == n_evictions);

    llama_free(ctx);
}

} // namespace

int main() {
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_ERROR) {
            fputs(text, stderr);
        }
    }, nullptr);
    device_files files;
    llama_backend_init();
    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU);
    if (!dev) {
        dev = files.devices[0] = far_device();
    }
    printf("devices: %s\n", files.devices[0] ? "no GPU, memory of its own on the CPU" : ggml_backend_dev_description(dev));

    llama_model * cpu  = files.load(0);
    llama_model * gpu  = files.load(99);
    llama_model * part = files.load(2);

    llama_context_params host_cells = context_params();
    host_cells.offload_kqv = false;

    test_same_cells(files, cpu, gpu,  "all on the GPU",        context_params());
    test_same_cells(files, cpu, gpu,  "cells in host memory",  host_cells);
    test_same_as_stock(gpu);
    test_sequences(files, cpu, gpu);
    if (files.devices[0]) {
        test_transfers(files, gpu);
    }
    {
        // each pool keeps its share of the budget, so the CPU's cells are others: it must run, and within the budget
        const auto rp = wide_params(files);
        llama_context * ctx = make(part, &rp, context_params());
        for (int pos = 0; pos < 300; ++pos) {
            decode(ctx, 0, pos, random_tokens(pos, 1));
        }
        retain_stats stats;
        CHECK(retain_get_stats(ctx, &stats) && stats.n_evictions > 5 && stats.n_cells_peak <= stats.n_cells_max);
        printf("  %-24s runs, %d evictions\n", "one layer on the GPU", (int) stats.n_evictions);
        llama_free(ctx);
    }
    llama_model_free(part);
    llama_model_free(gpu);
    llama_model_free(cpu);
    llama_backend_free();
    return 0;
}
