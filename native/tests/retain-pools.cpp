// retain-pools.cpp - a model on two devices: each pool keeps its own layers' share, and never holds more than it has pages

#include "second-device.h"
#include "tiny-context.h"

// the first layer keeps the oldest cells, the second the newest
static bool old_and_new(void *, llama_seq_id, int64_t, int64_t n, const int32_t * layer, const int32_t *, const int32_t * pos, const float *,
        const int32_t *, float * scores) {
    for (int64_t i = 0; i < n; ++i) {
        scores[i] = layer[i] == 0 ? -(float) pos[i] : (float) pos[i];
    }
    return true;
}

static retain_params window_params() {
    retain_params rp = retain_default_params();
    rp.budget    = 24;
    rp.buffer    = 4;
    rp.n_sink    = 0;
    rp.page_size = 8;
    rp.policy    = "window";
    return rp;
}

static void check_within_share(llama_context * ctx) {
    retain_stats stats;
    CHECK(retain_get_stats(ctx, &stats) && stats.n_cells_peak <= stats.n_cells_max && stats.n_pages_used <= stats.n_pages);
    for (const auto & kept : all_positions(ctx, 0)) {
        CHECK((int) kept.size() <= 24 + 16);
    }
}

// the pools fill unequally when a range is removed of which only one held cells
static void test_unequal_pools(llama_model * model) {
    const auto rp = window_params();
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    llama_memory_t  mem = llama_get_memory(ctx);
    CHECK(retain_set_callback(ctx, old_and_new, nullptr));

    decode(ctx, 0, 0, random_tokens(1, 48));
    decode(ctx, 0, 48, random_tokens(2, 1)); // an eviction comes before it
    CHECK(positions(ctx, 0, 0, 0)[23] == 23 && positions(ctx, 0, 1, 0).front() == 24);
    CHECK(llama_memory_seq_rm(mem, 0, 0, 24));
    CHECK(positions(ctx, 0, 0, 0).size() == 1 && positions(ctx, 0, 1, 0).size() == 25);

    // by the sum of both pools these fit without an eviction; the second pool has no pages for them
    decode(ctx, 0, 49, random_tokens(2, 16));
    check_within_share(ctx);
    decode(ctx, 0, 65, random_tokens(3, 13));
    check_within_share(ctx);
    CHECK(positions(ctx, 0, 1, 0).back() == 77 && positions(ctx, 0, 0, 0).front() == 48);

    // a smaller budget holds for each pool
    CHECK(retain_set_budget(ctx, 0, 20));
    for (const auto & kept : all_positions(ctx, 0)) {
        CHECK(kept.size() == 20);
    }
    for (llama_pos pos = 78; pos < 300; pos += 16) {
        decode(ctx, 0, pos, random_tokens(pos, 16));
        check_within_share(ctx);
    }
    llama_free(ctx);
}

// under policy none, and held back, each pool has its own end too
static void test_unequal_pools_that_do_not_evict(llama_model * model) {
    const auto rp = window_params();
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    CHECK(retain_set_callback(ctx, old_and_new, nullptr));
    decode(ctx, 0, 0, random_tokens(1, 48));
    CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 0, 24));
    CHECK(retain_set_callback(ctx, nullptr, nullptr) && retain_set_policy(ctx, "none"));
    llama_token token = 5;
    CHECK(llama_decode(ctx, llama_batch_get_one(&token, 1)) != 0 && error_says("policy none never evicts"));
    check_within_share(ctx);
    llama_free(ctx);
}

// the same text as on one device, and states that pass from one to the other
static void test_same_as_one_pool(llama_model * one, llama_model * two) {
    auto rp = window_params();
    rp.n_sink = 2;
    llama_context * a = retain_init_from_model(one, context_params(2), &rp);
    llama_context * b = retain_init_from_model(two, context_params(2), &rp);
    for (llama_pos pos = 0; pos < 90; pos += 9) {
        CHECK(nmse(decode(b, 0, pos, random_tokens(pos, 9)), decode(a, 0, pos, random_tokens(pos, 9))) < 1e-10);
        CHECK(all_positions(a, 0) == all_positions(b, 0));
    }

    const auto state = state_of(b, 0);
    CHECK(llama_state_seq_set_data(a, state.data(), state.size(), 1) == state.size());
    llama_memory_seq_cp(llama_get_memory(b), 0, 1, -1, -1);
    CHECK(all_positions(a, 1) == all_positions(b, 1));
    CHECK(nmse(decode(a, 1, 90, { 7 }), decode(b, 1, 90, { 7 })) < 1e-10);
    llama_free(a);
    llama_free(b);
}

int main() {
    const tiny_files files;
    llama_model * one = files.load();
    llama_model * two = files.load(two_device_params());

    test_unequal_pools(two);
    test_unequal_pools_that_do_not_evict(two);
    test_same_as_one_pool(one, two);

    llama_model_free(two);
    llama_model_free(one);

    printf("pools: each keeps its share\n");
    return 0;
}
