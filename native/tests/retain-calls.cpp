// retain-calls.cpp - calls that a caller should not make: NULL for every argument, and a hook that changes its context

#include "tiny-context.h"

static void test_null(llama_model * model, const std::string & gates) {
    const auto rp = small_params(gates);
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    retain_stats stats;

    CHECK(!retain_init_from_model(nullptr, context_params(), &rp)       && error_says("the model is NULL"));
    CHECK(!retain_init_from_model(model, context_params(), nullptr)     && error_says("the parameters are NULL"));
    CHECK(!retain_gates_check(nullptr, gates.c_str())                   && error_says("the model is NULL"));
    CHECK(!retain_gates_check(model, nullptr)                           && error_says("the path of the gates is NULL"));
    CHECK(!retain_is_enabled(nullptr));
    CHECK(!retain_has_gates(nullptr)                                    && error_says("the context is NULL"));
    CHECK(!retain_get_stats(nullptr, &stats)                            && error_says("the context is NULL"));
    CHECK(!retain_get_stats(ctx, nullptr)                               && error_says("statistics is NULL"));
    CHECK(retain_layers(nullptr, nullptr, 4) == -1                      && error_says("the context is NULL"));
    CHECK(retain_layers(ctx, nullptr, 4) == tiny::N_LAYER);
    CHECK(retain_n_head_kv(nullptr, 0) == -1                            && error_says("the context is NULL"));
    CHECK(retain_get_cells(nullptr, 0, 0, 0, nullptr, nullptr, nullptr, 9) == -1 && error_says("the context is NULL"));
    CHECK(retain_get_cells(ctx, 0, 0, 0, nullptr, nullptr, nullptr, 9) == 0);
    CHECK(retain_n_cells(nullptr, 0) == -1                              && error_says("the context is NULL"));
    CHECK(!retain_pin(nullptr, 0, 0, 1)                                 && error_says("the context is NULL"));
    CHECK(!retain_unpin(nullptr, 0, 0, 1)                               && error_says("the context is NULL"));
    CHECK(!retain_set_budget(nullptr, 0, 8)                             && error_says("the context is NULL"));
    CHECK(retain_get_budget(nullptr, 0) == -1                           && error_says("the context is NULL"));
    CHECK(!retain_hold(nullptr, 0, true)                                && error_says("the context is NULL"));
    CHECK(retain_rollback_limit(nullptr, 0) == -1                       && error_says("the context is NULL"));
    CHECK(!retain_set_policy(nullptr, "window")                         && error_says("the context is NULL"));
    CHECK(!retain_set_policy(ctx, nullptr)                              && error_says("the name of the policy is NULL"));
    CHECK(!retain_get_policy(nullptr)                                   && error_says("the context is NULL"));
    CHECK(!retain_set_callback(nullptr, nullptr, nullptr)               && error_says("the context is NULL"));
    CHECK(retain_set_callback(ctx, nullptr, nullptr));
    CHECK(retain_set_params(nullptr));
    CHECK(!retain_policy_name(-1) && !retain_policy_name(1000) && !retain_policy_description(-1));

    // refused parameters arm nothing
    llama_context * stock = llama_init_from_model(model, context_params());
    CHECK(stock && !retain_is_enabled(stock));
    CHECK(retain_n_cells(stock, 0) == -1 && error_says("no retention memory"));
    llama_free(stock);

    // lists of the length that the caller asks for
    decode(ctx, 0, 0, random_tokens(1, 5));
    int32_t pos[2] = { -1, -1 };
    CHECK(retain_get_cells(ctx, 0, 0, 0, pos, nullptr, nullptr, -3) == 5 && pos[0] == -1);
    CHECK(retain_get_cells(ctx, 0, 0, 0, pos, nullptr, nullptr, 1) == 5 && pos[0] == 0 && pos[1] == -1);
    CHECK(retain_layers(ctx, pos, -1) == tiny::N_LAYER && pos[0] == 0);
    llama_free(ctx);
}

struct meddler {
    llama_context *      ctx;
    std::vector<uint8_t> state;
    int                  n_calls;
};

// tries everything that would change the context under the eviction's feet
static bool meddle(void * user_data, llama_seq_id, int64_t, int64_t, const int32_t *, const int32_t *, const int32_t *, const float *,
        const int32_t *, float *) {
    auto & m = *(meddler *) user_data;
    ++m.n_calls;

    llama_context * ctx = m.ctx;
    llama_memory_t  mem = llama_get_memory(ctx);
    const int64_t   n   = retain_n_cells(ctx, 0);
    const char *    why = "eviction hook";

    CHECK(!retain_pin(ctx, 0, 0, 1)                        && error_says(why));
    CHECK(!retain_unpin(ctx, 0, 0, 1)                      && error_says(why));
    CHECK(!retain_set_budget(ctx, 0, 4)                    && error_says(why));
    CHECK(!retain_hold(ctx, 0, true)                       && error_says(why));
    CHECK(!retain_set_policy(ctx, "window")                && error_says(why));
    CHECK(!retain_set_callback(ctx, nullptr, nullptr)      && error_says(why));
    CHECK(!llama_memory_seq_rm(mem, -1, -1, -1)            && error_says(why));

    const std::function<void()> silent[] = {
        [&]() { llama_memory_clear(mem, true); },
        [&]() { llama_memory_seq_cp(mem, 0, 1, -1, -1); },
        [&]() { llama_memory_seq_keep(mem, 1); },
        [&]() { llama_memory_seq_add(mem, 0, 0, -1, 1); },
        [&]() { CHECK(llama_state_set_data(ctx, m.state.data(), m.state.size()) == 0); },
        [&]() { CHECK(llama_state_seq_set_data(ctx, m.state.data(), m.state.size(), 0) == 0); },
        [&]() { llama_token t = 5; CHECK(llama_decode(ctx, llama_batch_get_one(&t, 1)) != 0); },
    };
    for (size_t i = 0; i < sizeof(silent)/sizeof(silent[0]); ++i) {
        retain_clear_error();
        silent[i]();
        CHECK(i == 5 || error_says(why)); // a state of all is none of a sequence, which shows first
    }

    // to look is allowed
    retain_stats stats;
    CHECK(retain_get_stats(ctx, &stats) && retain_n_cells(ctx, 0) == n && retain_get_budget(ctx, 0) > 4);
    CHECK(!state_of(ctx, 0).empty());
    return false;
}

static void test_hook(llama_model * model, const std::string & gates) {
    const auto rp = small_params(gates);
    llama_context * plain = retain_init_from_model(model, context_params(2), &rp);
    llama_context * ctx   = retain_init_from_model(model, context_params(2), &rp);

    meddler m = { ctx, state_of(plain), 0 };
    CHECK(retain_set_callback(ctx, meddle, &m));
    for (llama_pos pos = 0; pos < 90; pos += 15) {
        const auto tokens = random_tokens(pos, 15);
        CHECK(nmse(decode(ctx, 0, pos, tokens), decode(plain, 0, pos, tokens)) < 1e-10);
        CHECK(all_positions(ctx, 0) == all_positions(plain, 0));
    }
    CHECK(m.n_calls > 3);
    CHECK(retain_set_callback(ctx, nullptr, nullptr) && retain_set_budget(ctx, 0, 4)); // and afterwards all works again
    llama_free(ctx);
    llama_free(plain);
}

int main() {
    const tiny_files files;
    llama_model * model = files.load();

    test_null(model, files.gates);
    test_hook(model, files.gates);

    llama_model_free(model);

    printf("calls: refused in one line\n");
    return 0;
}
