// retain-memory.cpp - the memory through llama.h and retain.h on a tiny model: caps, sequences, state, bad input

#include "tiny-context.h"

#include <set>

static void test_cap(llama_model * model, const std::string & gates) {
    const auto rp = small_params(gates);
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    CHECK(ctx && retain_is_enabled(ctx) && retain_has_gates(ctx));

    llama_pos pos = 0;
    retain_stats stats;
    for (const int n : { 16, 16, 7, 1, 1, 1, 1, 1, 1, 16, 3, 1, 1, 1, 1, 1 }) {
        decode(ctx, 0, pos, random_tokens(pos, n));
        pos += n;

        CHECK(retain_get_stats(ctx, &stats));
        CHECK(stats.n_seen == pos);
        CHECK(stats.n_cells <= stats.n_cells_peak && stats.n_cells_peak <= N_STREAMS*(24 + 16));
        CHECK(stats.n_cells + stats.n_evicted == (int64_t) pos*N_STREAMS);
        for (const auto & kept : all_positions(ctx, 0)) {
            CHECK(std::set<int32_t>(kept.begin(), kept.end()).size() == kept.size());
            CHECK(kept[0] == 0 && kept[1] == 1); // sinks
        }
    }
    CHECK(stats.n_evictions > 0);
    CHECK(stats.bytes_cell == 2*8*(int64_t) sizeof(float));
    CHECK(stats.n_pages == N_STREAMS*(24 + 16)/8 + N_STREAMS);
    CHECK(stats.bytes_pool == stats.n_pages*8*stats.bytes_cell);
    llama_free(ctx);
}

// a budget that covers everything gives what stock llama.cpp gives, whatever the ubatch
static void test_same_as_stock(llama_model * model, const std::string & gates) {
    const auto tokens = random_tokens(5, 60);

    llama_context * stock = llama_init_from_model(model, context_params());
    CHECK(stock && !retain_is_enabled(stock));
    const auto want = decode(stock, 0, 0, tokens);
    llama_free(stock);

    for (const int n_ubatch : { 64, 16, 1 }) {
        auto rp = small_params(gates);
        rp.budget = 512;
        llama_context * ctx = retain_init_from_model(model, context_params(1, n_ubatch), &rp);
        CHECK(nmse(decode(ctx, 0, 0, tokens), want) < 1e-10);
        llama_free(ctx);
    }
}

static void test_rollback(llama_model * model, const std::string & gates) {
    auto rp = small_params(gates);
    rp.buffer = 16; // room for the tokens that are taken back
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);

    decode(ctx, 0, 0, random_tokens(1, 50));
    const llama_pos limit = retain_rollback_limit(ctx, 0);
    CHECK(limit == 48);

    const auto kept = all_positions(ctx, 0);
    const auto once = decode(ctx, 0, 50, random_tokens(2, 3));
    CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 50, -1));
    CHECK(all_positions(ctx, 0) == kept);
    CHECK(llama_memory_seq_pos_max(llama_get_memory(ctx), 0) == 49);
    CHECK(nmse(decode(ctx, 0, 50, random_tokens(2, 3)), once) < 1e-10);
    llama_free(ctx);
}

static void test_sequences(llama_model * model, const std::string & gates) {
    const auto rp = small_params(gates);
    llama_context * ctx = retain_init_from_model(model, context_params(3), &rp);
    llama_memory_t  mem = llama_get_memory(ctx);

    for (int s = 0; s < 3; ++s) {
        decode(ctx, s, 0, random_tokens(10 + s, 30 + s));
    }
    const auto kept_1 = all_positions(ctx, 1);

    llama_memory_seq_rm(mem, 0, 10, 20);
    for (const auto & kept : all_positions(ctx, 0)) {
        CHECK(std::none_of(kept.begin(), kept.end(), [](int32_t p) { return p >= 10 && p < 20; }));
    }
    llama_memory_seq_cp(mem, 1, 2, -1, -1);
    CHECK(all_positions(ctx, 2) == kept_1);
    CHECK(nmse(decode(ctx, 2, 31, { 5 }), decode(ctx, 1, 31, { 5 })) < 1e-10);

    llama_memory_seq_keep(mem, 1);
    CHECK(retain_n_cells(ctx, 0) == 0 && retain_n_cells(ctx, 2) == 0 && retain_n_cells(ctx, 1) > 0);

    CHECK(retain_set_budget(ctx, 1, 8));
    CHECK(retain_n_cells(ctx, 1) == 8*N_STREAMS);
    CHECK(!retain_set_budget(ctx, 1, 25) && !retain_set_budget(ctx, 1, 0));
    CHECK(!retain_pin(ctx, 1, 0, 100) && strstr(retain_last_error(), "more than the budget"));

    llama_memory_clear(mem, true);
    retain_stats stats;
    CHECK(retain_get_stats(ctx, &stats) && stats.n_pages_used == 0 && stats.n_cells == 0);
    llama_free(ctx);
}

// after a shift the cells stand where stock llama.cpp would have put them
static void test_shift(llama_model * model, const std::string & gates) {
    auto rp = small_params(gates);
    rp.budget = 512;
    const auto tokens = random_tokens(6, 40);

    std::vector<std::vector<float>> logits;
    for (int retained = 0; retained < 2; ++retained) {
        llama_context * ctx = retained ? retain_init_from_model(model, context_params(), &rp) : llama_init_from_model(model, context_params());
        decode(ctx, 0, 0, tokens);
        llama_memory_t mem = llama_get_memory(ctx);
        CHECK(llama_memory_can_shift(mem));
        llama_memory_seq_rm (mem, 0, 0, 10);
        llama_memory_seq_add(mem, 0, 10, -1, -10);
        CHECK(llama_memory_seq_pos_max(mem, 0) == 29);
        logits.push_back(decode(ctx, 0, 30, random_tokens(7, 5)));
        llama_free(ctx);
    }
    CHECK(nmse(logits[1], logits[0]) < 1e-8);

    rp.budget = 24;
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    decode(ctx, 0, 0, tokens);
    const auto before = all_positions(ctx, 0);
    CHECK(!llama_memory_can_shift(llama_get_memory(ctx)));
    llama_memory_seq_add(llama_get_memory(ctx), 0, 0, -1, 10);
    CHECK(strstr(retain_last_error(), "cannot be shifted") && all_positions(ctx, 0) == before);
    llama_free(ctx);
}

static void test_hold(llama_model * model, const std::string & gates) {
    auto rp = small_params(gates);
    rp.prefill = RETAIN_PREFILL_FULL;
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);

    CHECK(retain_hold(ctx, 0, true));
    decode(ctx, 0, 0, random_tokens(1, 60));
    CHECK(retain_n_cells(ctx, 0) == 60*N_STREAMS);
    CHECK(retain_hold(ctx, 0, false));
    CHECK(retain_n_cells(ctx, 0) == 60*N_STREAMS && retain_rollback_limit(ctx, 0) == 0); // it can still be cut back
    decode(ctx, 0, 60, random_tokens(2, 1));
    CHECK(retain_n_cells(ctx, 0) == 25*N_STREAMS && retain_rollback_limit(ctx, 0) == 60);
    llama_free(ctx);

    const auto bounded = small_params(gates);
    ctx = retain_init_from_model(model, context_params(), &bounded);
    CHECK(!retain_hold(ctx, 0, true) && strstr(retain_last_error(), "full prefill"));
    llama_free(ctx);
}

static void test_policies(llama_model * model, const std::string & gates) {
    auto rp = small_params(gates);
    rp.policy = "window";
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    decode(ctx, 0, 0, random_tokens(1, 60));
    decode(ctx, 0, 60, random_tokens(2, 1)); // an eviction comes before it
    for (const auto & kept : all_positions(ctx, 0)) {
        CHECK(kept.size() == 25 && kept[1] == 1 && kept[2] == 60 - 22 && kept[24] == 60);
    }

    // the hook: even positions are worth more
    const retain_score_callback even_first = [](void * user_data, llama_seq_id, int64_t, int64_t n, const int32_t *, const int32_t *,
            const int32_t * pos, const float *, const int32_t * age, float * scores) {
        ++*(int *) user_data;
        for (int64_t i = 0; i < n; ++i) {
            scores[i] = pos[i] % 2 == 0 ? 1.0f : -(float) age[i];
        }
        return true;
    };
    int n_calls = 0;
    CHECK(retain_set_callback(ctx, even_first, &n_calls));
    decode(ctx, 0, 61, random_tokens(2, 16));
    CHECK(n_calls == 1); // to make room
    decode(ctx, 0, 77, random_tokens(2, 1));
    CHECK(n_calls == 2);
    for (const auto & kept : all_positions(ctx, 0)) {
        CHECK(std::count_if(kept.begin(), kept.end(), [](int32_t p) { return p >= 60 && p % 2 == 0; }) == 9);
    }
    llama_free(ctx);

    rp.policy = "none";
    ctx = retain_init_from_model(model, context_params(), &rp);
    decode(ctx, 0, 0, random_tokens(1, 24));
    auto more = random_tokens(2, 1);
    CHECK(llama_decode(ctx, llama_batch_get_one(more.data(), 1)) == 1);
    CHECK(strstr(retain_last_error(), "policy none never evicts"));
    llama_free(ctx);
}

// decode one batch in which the sequences take turns, n tokens each, from position pos on
static void decode_in_turn(llama_context * ctx, int n_seq, llama_pos pos, int n) {
    const auto tokens = random_tokens(pos, n*n_seq);
    llama_batch batch = llama_batch_init(tokens.size(), 0, 1);
    batch.n_tokens = tokens.size();
    for (int i = 0; i < batch.n_tokens; ++i) {
        batch.token[i]     = tokens[i];
        batch.pos[i]       = pos + i/n_seq;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = i%n_seq;
        batch.logits[i]    = false;
    }
    CHECK(llama_decode(ctx, batch) == 0);
    llama_batch_free(batch);
}

// the last queries go with the tokens of their sequence: through batches of several, copies, roll-backs and states
static void test_queries(llama_model * model, const std::string & gates) {
    auto rp = small_params(gates);
    rp.policy = "snapkv";
    rp.budget = 48;
    llama_context * ctx = retain_init_from_model(model, context_params(2), &rp);
    llama_memory_t  mem = llama_get_memory(ctx);

    for (llama_pos pos = 0; pos < 200; pos += 25) {
        decode_in_turn(ctx, 2, pos, 25);
    }
    const auto state = state_of(ctx, 0);

    // a restored sequence and a copied one evict alike
    llama_context * other = retain_init_from_model(model, context_params(2), &rp);
    CHECK(llama_state_seq_set_data(other, state.data(), state.size(), 1) == state.size());
    llama_memory_seq_cp(mem, 0, 1, -1, -1);
    CHECK(retain_set_budget(other, 1, 40) && retain_set_budget(ctx, 1, 40));
    CHECK(all_positions(other, 1) == all_positions(ctx, 1));
    for (const auto & kept : all_positions(ctx, 1)) {
        CHECK(kept.size() >= 32 && kept[kept.size() - 32] == 200 - 32); // the window
    }

    // cut back to nothing, and filled by fewer tokens than the window
    const llama_pos limit = retain_rollback_limit(ctx, 0);
    CHECK(limit < 200 && llama_memory_seq_rm(mem, 0, limit, -1));
    CHECK(state_of(ctx, 0).size() < state.size());
    llama_memory_seq_rm(mem, 0, 0, -1);
    decode(ctx, 0, 0, random_tokens(1, 10));
    CHECK(retain_set_budget(ctx, 0, 8));

    // another policy keeps none, and takes none from a state
    CHECK(retain_set_policy(ctx, "knorm"));
    CHECK(llama_state_seq_set_data(ctx, state.data(), state.size(), 0) == state.size());
    const size_t n_query = tiny::N_LAYER*tiny::N_EMBD*sizeof(float);
    CHECK(state_of(ctx, 0).size() == state.size() - 64*(2*sizeof(int32_t) + n_query));
    decode(ctx, 0, 200, random_tokens(2, 16));
    CHECK(retain_set_policy(ctx, "snapkv")); // the next graph has the shape of the last one, but hands out queries
    decode(ctx, 0, 216, random_tokens(3, 16));
    CHECK(retain_set_policy(ctx, "window"));
    decode(ctx, 0, 232, random_tokens(4, 16));

    llama_free(other);
    llama_free(ctx);
}

static void test_bad_input(llama_model * model, const tiny_files & files) {
    const std::string & gates = files.gates;

    const auto refused = [&](const char * reason, const std::function<void(retain_params &)> & change) {
        auto rp = small_params(gates);
        change(rp);
        llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
        if (ctx || !strstr(retain_last_error(), reason)) {
            fprintf(stderr, "wanted '%s', got '%s'\n", reason, retain_last_error());
            exit(1);
        }
    };

    refused("budget is 0",            [](retain_params & rp) { rp.budget = 0; });
    refused("budget is -5",           [](retain_params & rp) { rp.budget = -5; });
    refused("budget is 2147483647",   [](retain_params & rp) { rp.budget = INT32_MAX; });
    refused("buffer is -1",           [](retain_params & rp) { rp.buffer = -1; });
    refused("lookahead is 0",         [](retain_params & rp) { rp.lookahead = 0; });
    refused("more than the budget",   [](retain_params & rp) { rp.n_sink = rp.n_recent = 20; });
    refused("power of two",           [](retain_params & rp) { rp.page_size = 24; });
    refused("unknown policy 'best'",  [](retain_params & rp) { rp.policy = "best"; });
    refused("needs a gate sidecar",   [](retain_params & rp) { rp.gates = nullptr; rp.policy = "gate"; });
    refused("cannot open",            [](retain_params & rp) { rp.gates = "/nowhere/gates.gguf"; });

    const std::pair<const char *, const char *> broken[] = {
        { "type",        "general.type is 'model'" },
        { "arch",        "for a qwen3 model" },
        { "version",     "version is 3" },
        { "variant",     "variant is 'rg11'" },
        { "layers",      "block_count 3, this one has 2" },
        { "activation",  "retention_gate.activation is missing" },
        { "fingerprint", "made for another model" },
        { "shape",       "must be [32, 32]" },
        { "missing",     "blk.0.retention_mid.weight is missing" },
        { "extra",       "tensors" },
        { "nan",         "NaN" },
    };
    const std::string path = files.dir/"broken.gguf";
    for (const auto & [what, reason] : broken) {
        tiny::write_gates(path, what);
        refused(reason, [&](retain_params & rp) { rp.gates = path.c_str(); });
        CHECK(!retain_gates_check(model, path.c_str()));
    }
    CHECK(retain_gates_check(model, gates.c_str()));

    // every truncation of a sidecar
    const auto whole = fs::file_size(gates);
    for (uintmax_t size = 0; size < whole; size += whole/41 + 1) {
        fs::copy_file(gates, path, fs::copy_options::overwrite_existing);
        fs::resize_file(path, size);
        CHECK(!retain_gates_check(model, path.c_str()));
    }

    CHECK(!retain_get_stats(nullptr, nullptr));
    llama_context * stock = llama_init_from_model(model, context_params());
    CHECK(retain_n_cells(stock, 0) == -1 && strstr(retain_last_error(), "no retention memory"));
    llama_free(stock);
}

int main() {
    const tiny_files files;
    const std::string & gates = files.gates;
    llama_model * model = files.load();

    test_cap(model, gates);
    test_same_as_stock(model, gates);
    test_rollback(model, gates);
    test_sequences(model, gates);
    test_shift(model, gates);
    test_hold(model, gates);
    test_policies(model, gates);
    test_queries(model, gates);
    test_bad_input(model, files);

    llama_model_free(model);

    printf("retain memory: all as promised\n");
    return 0;
}
