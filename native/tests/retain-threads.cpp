// retain-threads.cpp - loops in several threads, and evictions that do not depend on their number

#include "retain-threads.h"
#include "tiny-context.h"

#include <atomic>
#include <stdexcept>

namespace {

// every piece runs once; an exception comes back, and the next loop runs
void test_loops() {
    retain_threads threads(4);
    for (int round = 0; round < 2000; ++round) {
        std::vector<std::atomic<int>> n(37);
        threads.run(37, 1 + round % 16, [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                ++n[i];
            }
        });
        CHECK(std::all_of(n.begin(), n.end(), [](const auto & x) { return x == 1; }));
    }
    bool caught = false;
    try {
        threads.run(8, 8, [&](int64_t part, int64_t, int64_t) {
            if (part == 3) {
                throw std::runtime_error("this one");
            }
        });
    } catch (const std::runtime_error &) {
        caught = true;
    }
    std::atomic<int> n(0);
    threads.run(8, 8, [&](int64_t, int64_t, int64_t) { ++n; });
    CHECK(caught && n == 8);
    printf("threads: each piece of a loop runs once\n");
}

// a state has all cells with their bytes; after this many tokens there were evictions with several pieces of work each
std::vector<uint8_t> state_after(llama_model * model, const retain_params & rp, int n_threads) {
    llama_context_params cp = context_params(1, 256);
    cp.n_ctx     = 4096;
    cp.n_batch   = 256;
    cp.n_threads = n_threads;
    llama_context * ctx = retain_init_from_model(model, cp, &rp);
    CHECK(ctx);
    for (int pos = 0; pos < 2560; pos += 256) {
        decode(ctx, 0, pos, random_tokens(pos, 256));
    }
    decode(ctx, 0, 2560, { 1 });
    retain_stats stats;
    CHECK(retain_get_stats(ctx, &stats) && stats.n_evictions == 2 && stats.n_moved > 100);

    const auto res = state_of(ctx);
    llama_free(ctx);
    return res;
}

void test_same_states() {
    const tiny_files files;
    llama_model * model = files.load();
    for (const auto & [policy, scope] : { std::pair("gate", RETAIN_SCOPE_GLOBAL), std::pair("gate", RETAIN_SCOPE_HEAD),
            std::pair("snapkv", RETAIN_SCOPE_GLOBAL), std::pair("random", RETAIN_SCOPE_LAYER) }) {
        retain_params rp = small_params(files.gates);
        rp.budget       = 2048;
        rp.buffer       = 256;
        rp.policy       = policy;
        rp.scope        = scope;
        rp.n_recent     = 10;
        rp.min_per_head = 7;
        CHECK(state_after(model, rp, 1) == state_after(model, rp, 3));
    }
    llama_model_free(model);
    printf("threads: three keep the cells that one keeps\n");
}

} // namespace

int main() {
    test_loops();
    test_same_states();
    return 0;
}
