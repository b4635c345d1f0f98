// retain-sequences.cpp - what is done to sequences, and when it is refused: cutting back, copies, shifts, positions

#include "tiny-context.h"

// decode tokens from pos on as a client does that may be refused
static int try_decode(llama_context * ctx, llama_seq_id seq, llama_pos pos, int n) {
    const auto tokens = random_tokens(pos, n);
    llama_batch batch = llama_batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (int i = 0; i < n; ++i) {
        batch.token[i]     = tokens[i];
        batch.pos[i]       = pos + i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = seq;
        batch.logits[i]    = false;
    }
    const int res = llama_decode(ctx, batch);
    llama_batch_free(batch);
    return res;
}

// below what can be reused exactly the answer is false, and nothing changes
static void test_cutting_back(llama_model * model, const std::string & gates) {
    auto rp = small_params(gates);
    rp.buffer = 16;
    llama_context * ctx = retain_init_from_model(model, context_params(3), &rp);
    llama_memory_t  mem = llama_get_memory(ctx);

    decode(ctx, 0, 0, random_tokens(1, 20));
    CHECK(llama_memory_seq_pos_min(mem, 0) == 0);
    CHECK(llama_memory_seq_rm(mem, 0, 12, -1) && llama_memory_seq_pos_max(mem, 0) == 11);
    CHECK(llama_memory_seq_rm(mem, 0, 1, -1)); // nothing was evicted: to any place

    llama_memory_clear(mem, true);
    decode(ctx, 0, 0, random_tokens(1, 50));
    decode(ctx, 1, 0, random_tokens(2, 10));
    CHECK(retain_rollback_limit(ctx, 0) == 48);
    CHECK(llama_memory_seq_pos_min(mem, 0) == 47 && llama_memory_seq_pos_max(mem, 0) == 49);
    const auto before = state_of(ctx);

    for (const llama_pos p0 : { 1, 10, 24, 47 }) {
        for (const llama_pos p1 : { -1, 50, 51, INT32_MAX }) {
            retain_clear_error();
            CHECK(!llama_memory_seq_rm(mem, 0, p0, p1) && error_says("cannot be cut back"));
            CHECK(state_of(ctx) == before);
        }
    }
    // of all sequences: none when one of them cannot
    CHECK(!llama_memory_seq_rm(mem, -1, 5, -1) && state_of(ctx) == before);

    // there is nothing behind the end, in an empty range, or in a sequence that is not there
    CHECK(llama_memory_seq_rm(mem, 0, 50, -1) && llama_memory_seq_rm(mem, 0, 100, 200) && llama_memory_seq_rm(mem, 0, 20, 20));
    CHECK(llama_memory_seq_rm(mem, 2, 5, -1) && llama_memory_seq_rm(mem, 7, 5, -1) && state_of(ctx) == before);

    // what the limit allows
    CHECK(llama_memory_seq_rm(mem, 0, 49, -1) && llama_memory_seq_rm(mem, 0, 48, -1));
    CHECK(llama_memory_seq_pos_max(mem, 0) == 47 && retain_rollback_limit(ctx, 0) == 48);
    CHECK(!llama_memory_seq_rm(mem, 0, 47, -1));

    // a range from the middle goes; nothing before the end can be had back exactly then
    CHECK(llama_memory_seq_rm(mem, 1, 3, 6));
    CHECK(!llama_memory_seq_rm(mem, 1, 8, -1) && llama_memory_seq_pos_min(mem, 1) == 9);
    CHECK(llama_memory_seq_rm(mem, 0, 0, 40));
    for (const auto & kept : all_positions(ctx, 0)) {
        CHECK(kept.empty() || kept[0] >= 40);
    }

    // all of it can always go
    CHECK(llama_memory_seq_rm(mem, 0, -1, -1) && retain_n_cells(ctx, 0) == 0 && llama_memory_seq_pos_min(mem, 0) == -1);
    CHECK(llama_memory_seq_rm(mem, 1, 0, 10) && retain_n_cells(ctx, 1) == 0);
    decode(ctx, 0, 0, random_tokens(1, 50));
    CHECK(llama_memory_seq_rm(mem, -1, 0, -1) && retain_n_cells(ctx, 0) == 0);
    CHECK(retain_rollback_limit(ctx, 0) == 0);
    llama_free(ctx);
}

// The last ubatch can be cut back in any place, also when it made an eviction due; what comes then is as if it had not been
// there. And tokens up to the draft limit can be tried at once, where decoding them one by one has the same evictions.
static void test_due_evictions(llama_model * model, const std::string & gates) {
    for (const char * policy : { "gate", "window", "snapkv", "knorm" }) {
        auto rp = small_params(gates);
        rp.policy = policy;
        rp.budget = 40;
        rp.buffer = 8;
        llama_context * ctx      = retain_init_from_model(model, context_params(), &rp);
        llama_context * straight = retain_init_from_model(model, context_params(), &rp);
        llama_memory_t  mem      = llama_get_memory(ctx);
        const auto tokens = random_tokens(1, 200);
        const auto part   = [&](int from, int n) { return std::vector<llama_token>(tokens.begin() + from, tokens.begin() + from + n); };

        decode(ctx, 0, 0, part(0, 48));
        decode(straight, 0, 0, part(0, 47));
        retain_stats stats;
        CHECK(retain_get_stats(ctx, &stats) && stats.n_evictions == 0 && stats.n_cells == 48*N_STREAMS);
        CHECK(retain_rollback_limit(ctx, 0) <= 16 && retain_draft_limit(ctx, 0) == 8 && retain_draft_limit(straight, 0) == 1);

        // a due eviction goes with its sequence
        const auto due = state_of(ctx, 0);
        CHECK(llama_state_seq_set_data(ctx, due.data(), due.size(), 0) == due.size() && retain_n_cells(ctx, 0) == 48*N_STREAMS);

        CHECK(llama_memory_seq_rm(mem, 0, 47, -1) && all_positions(ctx, 0) == all_positions(straight, 0));
        for (int i = 47; i < 130; ++i) {
            // drafts: wrong ones first, then some more than are taken
            const int n_most = retain_draft_limit(ctx, 0);
            CHECK(n_most >= 1 && n_most <= 8);
            decode(ctx, 0, i, random_tokens(i, n_most));
            CHECK(llama_memory_seq_rm(mem, 0, i, -1));
            decode(ctx, 0, i, part(i, n_most));
            CHECK(n_most == 1 || llama_memory_seq_rm(mem, 0, i + 1, -1));

            decode(straight, 0, i, part(i, 1));
            CHECK(all_positions(ctx, 0) == all_positions(straight, 0));
            CHECK(retain_rollback_limit(ctx, 0) == retain_rollback_limit(straight, 0));
        }
        CHECK(retain_get_stats(straight, &stats) && stats.n_evictions >= 10);
        llama_free(straight);
        llama_free(ctx);
    }

    // nothing is promised where nothing fits
    auto rp = small_params(gates);
    rp.policy = "none";
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    CHECK(retain_draft_limit(ctx, 0) == 24 && retain_draft_limit(ctx, 1) == -1);
    decode(ctx, 0, 0, random_tokens(1, 24));
    CHECK(retain_draft_limit(ctx, 0) == 0);
    llama_free(ctx);
}

// In a batch of several sequences, one after the other or in turn, each eviction runs after as many tokens of its sequence
// as when the sequence is decoded token by token.
static void test_batches_of_several(llama_model * model, const std::string & gates) {
    constexpr int N_SEQ = 3;

    std::vector<std::vector<llama_token>> texts;
    for (int s = 0; s < N_SEQ; ++s) {
        texts.push_back(random_tokens(20 + s, 300));
    }
    for (const int buffer : { 16, 21 }) {
        for (const bool in_turn : { false, true }) {
            auto rp = small_params(gates);
            rp.buffer  = buffer;
            rp.prefill = RETAIN_PREFILL_EVEN;
            llama_context * ctx   = retain_init_from_model(model, context_params(N_SEQ), &rp);
            llama_context * alone = retain_init_from_model(model, context_params(N_SEQ), &rp);

            std::mt19937 rng(buffer);
            std::vector<int> n_done(N_SEQ, 0);
            llama_batch batch = llama_batch_init(64, 0, 1);
            for (int round = 0; round < 9; ++round) {
                std::vector<int> n_new;
                for (int s = 0; s < N_SEQ; ++s) { // some read a prompt, others write
                    n_new.push_back(std::uniform_int_distribution<int>(0, 2)(rng) ? 1 : std::uniform_int_distribution<int>(2, 31)(rng));
                }
                batch.n_tokens = 0;
                const auto add = [&](int s) {
                    const int i = batch.n_tokens++;
                    batch.token[i]     = texts[s][n_done[s]];
                    batch.pos[i]       = n_done[s]++;
                    batch.n_seq_id[i]  = 1;
                    batch.seq_id[i][0] = s;
                    batch.logits[i]    = false;
                };
                for (int i = 0; i < 31 && in_turn; ++i) {
                    for (int s = 0; s < N_SEQ; ++s) {
                        if (n_new[s]-- > 0 && batch.n_tokens < 64) {
                            add(s);
                        }
                    }
                }
                for (int s = 0; s < N_SEQ && !in_turn; ++s) {
                    while (n_new[s]-- > 0 && batch.n_tokens < 64) {
                        add(s);
                    }
                }
                CHECK(llama_decode(ctx, batch) == 0);
            }
            llama_batch_free(batch);

            for (int s = 0; s < N_SEQ; ++s) {
                for (int i = 0; i < n_done[s]; ++i) {
                    decode(alone, s, i, { texts[s][i] });
                }
                CHECK(n_done[s] > rp.budget + buffer && retain_rollback_limit(ctx, s) == retain_rollback_limit(alone, s));
                CHECK(all_positions(ctx, s) == all_positions(alone, s));
            }
            llama_free(ctx);
            llama_free(alone);
        }
    }
}

// a shift is announced only where it will be possible for ever
static void test_announced_shifts(llama_model * model, const std::string & gates) {
    for (const int budget : { 24, 512 }) {
        auto rp = small_params(gates);
        rp.budget = budget;
        llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
        CHECK(llama_memory_can_shift(llama_get_memory(ctx)) == (budget == 512));
        CHECK(retain_set_policy(ctx, "none") && llama_memory_can_shift(llama_get_memory(ctx)));
        llama_free(ctx);
    }
}

// under snapkv every roll-back that is allowed ends in the same text and the same cells
static void test_cutting_back_under_snapkv(llama_model * model, const std::string & gates) {
    auto rp = small_params(gates);
    rp.policy = "snapkv";
    rp.budget = 64;
    rp.buffer = 40;
    llama_context * straight = retain_init_from_model(model, context_params(1, 64), &rp);
    llama_context * ctx      = retain_init_from_model(model, context_params(1, 64), &rp);
    const auto tokens = random_tokens(1, 300);
    const auto rest   = [&](int from, int to) { return std::vector<llama_token>(tokens.begin() + from, tokens.begin() + to); };

    int n_tried = 0;
    for (int n = 5; n < 240; n += 11) {
        for (const int back : { 1, 9, 31, 32, 33, 39, 60 }) {
            llama_memory_clear(llama_get_memory(straight), true);
            llama_memory_clear(llama_get_memory(ctx), true);
            for (int i = 0; i < n; ++i) {
                decode(ctx, 0, i, { tokens[i] });
            }
            const int p = n - back;
            if (p < std::max(1, retain_rollback_limit(ctx, 0))) {
                CHECK(p <= 0 || !llama_memory_seq_rm(llama_get_memory(ctx), 0, p, -1));
                continue;
            }
            for (int i = 0; i < p; ++i) {
                decode(straight, 0, i, { tokens[i] });
            }
            CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, p, -1));
            if (retain_n_cells(straight, 0) == 104*N_STREAMS) { // an eviction is due there that ran here
                CHECK(retain_rollback_limit(ctx, 0) == p);
                CHECK(nmse(decode(ctx, 0, p, rest(p, p + 1)), decode(straight, 0, p, rest(p, p + 1))) < 1e-10);
                CHECK(all_positions(ctx, 0) == all_positions(straight, 0));
                continue;
            }
            CHECK(all_positions(ctx, 0) == all_positions(straight, 0));
            // an eviction at once looks at the last queries
            CHECK(retain_set_budget(ctx, 0, 40) && retain_set_budget(straight, 0, 40));
            CHECK(all_positions(ctx, 0) == all_positions(straight, 0));
            CHECK(nmse(decode(ctx, 0, p, rest(p, p + 50)), decode(straight, 0, p, rest(p, p + 50))) < 1e-10);
            CHECK(all_positions(ctx, 0) == all_positions(straight, 0));
            CHECK(retain_set_budget(ctx, 0, 64) && retain_set_budget(straight, 0, 64));
            ++n_tried;
        }
    }
    CHECK(n_tried > 50);

    // the window's length of tokens can be taken back, when no eviction stands in between
    llama_memory_clear(llama_get_memory(ctx), true);
    decode(ctx, 0, 0, rest(0, 64));
    decode(ctx, 0, 64, rest(64, 103));
    CHECK(retain_rollback_limit(ctx, 0) == 103 - 32);

    // queries that were dropped by another policy do not come back either
    CHECK(retain_set_policy(ctx, "window") && retain_rollback_limit(ctx, 0) == 0);
    CHECK(retain_set_policy(ctx, "snapkv") && retain_rollback_limit(ctx, 0) == 103);

    // and a state keeps the promise that was given
    const auto state = state_of(ctx, 0);
    CHECK(llama_state_seq_set_data(straight, state.data(), state.size(), 0) == state.size());
    CHECK(retain_rollback_limit(straight, 0) == 103);
    llama_free(straight);
    llama_free(ctx);
}

static void test_copies(llama_model * model, const std::string & gates) {
    const auto rp = small_params(gates);
    llama_context * ctx = retain_init_from_model(model, context_params(2), &rp);
    llama_memory_t  mem = llama_get_memory(ctx);

    CHECK(retain_pin(ctx, 0, 5, 20));
    decode(ctx, 0, 0, random_tokens(1, 30));
    decode(ctx, 1, 0, random_tokens(2, 12));
    const auto kept_1 = all_positions(ctx, 1);
    const auto unchanged = [&](const char * reason) {
        return error_says(reason) && all_positions(ctx, 1) == kept_1 && llama_memory_seq_pos_max(mem, 1) == 11;
    };

    // pins that do not fit the budget they would come into
    CHECK(retain_set_budget(ctx, 1, 12));
    retain_clear_error();
    llama_memory_seq_cp(mem, 0, 1, -1, -1);
    CHECK(unchanged("more than the budget of 12"));
    CHECK(retain_set_budget(ctx, 1, 18));
    llama_memory_seq_cp(mem, 0, 1, -1, -1);
    CHECK(retain_n_cells(ctx, 1) == 18*N_STREAMS);
    for (const auto & kept : all_positions(ctx, 1)) {
        CHECK(std::count_if(kept.begin(), kept.end(), [](int32_t p) { return p >= 5 && p < 20; }) == 15);
    }
    // the pins came with it: 15 of 18 are taken, and 2 by sinks
    CHECK(!retain_pin(ctx, 1, 30, 32) && retain_pin(ctx, 1, 30, 31));

    // a prefix that has lost cells since
    llama_memory_clear(mem, true);
    decode(ctx, 0, 0, random_tokens(1, 40));
    decode(ctx, 1, 0, random_tokens(2, 12));
    const llama_pos limit = retain_rollback_limit(ctx, 0);
    CHECK(limit > 20);
    llama_memory_seq_cp(mem, 0, 1, 0, 20);
    CHECK(unchanged("cannot copy the first 20 tokens"));

    // nothing to copy
    llama_memory_seq_cp(mem, 0, 1, 7, 7);
    llama_memory_seq_cp(mem, 0, 1, 50, -1);
    CHECK(all_positions(ctx, 1) == kept_1 && llama_memory_seq_pos_max(mem, 1) == 11);

    // policy none does not make room
    CHECK(retain_set_budget(ctx, 1, 13));
    CHECK(retain_set_policy(ctx, "none"));
    llama_memory_seq_cp(mem, 0, 1, -1, -1);
    CHECK(unchanged("policy none never evicts"));
    llama_free(ctx);
}

static void test_shifts(llama_model * model, const std::string & gates) {
    auto rp = small_params(gates);
    rp.budget = 100;
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    llama_memory_t  mem = llama_get_memory(ctx);
    decode(ctx, 0, 0, random_tokens(1, 30));
    const auto before = state_of(ctx);

    llama_memory_seq_add(mem, 0, 0, -1, INT32_MAX);
    CHECK(error_says("beyond the last one") && state_of(ctx) == before);
    llama_memory_seq_add(mem, 0, 10, -1, -5);
    CHECK(error_says("two tokens at one position") && state_of(ctx) == before);
    llama_memory_seq_add(mem, 0, 0, 10, 5);
    CHECK(error_says("two tokens at one position") && state_of(ctx) == before);

    // the last tokens move away, and leave a gap
    llama_memory_seq_add(mem, 0, 20, -1, 100);
    CHECK(llama_memory_seq_pos_max(mem, 0) == 129 && !llama_memory_can_shift(mem));
    CHECK(try_decode(ctx, 0, 130, 1) == 0);
    llama_free(ctx);
}

// tokens that a shift moves before position 0 go, and those that stay keep their log betas, which come in after the graph has run
static void test_shift_before_the_start(llama_model * model, const std::string & gates) {
    const auto rp = small_params(gates);
    const auto log_betas = [&](int shift) {
        llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
        decode(ctx, 0, 0, random_tokens(1, 12));
        llama_memory_seq_add(llama_get_memory(ctx), 0, 0, -1, -shift);

        std::vector<float>   res(12 - shift), beta(res.size());
        std::vector<int32_t> pos(res.size());
        CHECK(retain_get_cells(ctx, 0, 1, 1, pos.data(), nullptr, beta.data(), res.size()) == (int64_t) res.size());
        for (size_t i = 0; i < res.size(); ++i) {
            res[pos[i]] = beta[i];
        }
        llama_free(ctx);
        return res;
    };
    const auto all = log_betas(0);
    for (const int shift : { 3, 9 }) {
        CHECK(log_betas(shift) == std::vector<float>(all.begin() + shift, all.end()));
    }
}

// a shift that is interrupted leaves nothing that is half turned
static void test_interrupted_shift(llama_model * model, const std::string & gates) {
    auto rp = small_params(gates);
    rp.budget = 100;
    llama_context * ctx = retain_init_from_model(model, context_params(2), &rp);
    llama_memory_t  mem = llama_get_memory(ctx);
    CHECK(try_decode(ctx, 0, 0, 30) == 0 && try_decode(ctx, 1, 0, 10) == 0);
    const auto other = state_of(ctx, 1);

    bool aborts = true;
    llama_set_abort_callback(ctx, [](void * data) { return *(bool *) data; }, &aborts);
    llama_memory_seq_add(mem, 0, 20, -1, 100);
    CHECK(try_decode(ctx, 0, 130, 1) != 0 && error_says("the shift of positions failed"));
    CHECK(retain_n_cells(ctx, 0) == 0 && llama_memory_seq_pos_max(mem, 0) == -1 && state_of(ctx, 1) == other);

    aborts = false;
    CHECK(try_decode(ctx, 0, 0, 30) == 0);
    llama_free(ctx);
}

static void test_shift_of_several_parts(const tiny_files & files) {
    const std::string path = files.dir/"mrope.gguf";
    tiny::write_model(path, "qwen2vl");
    llama_model * model = llama_model_load_from_file(path.c_str(), llama_model_default_params());
    CHECK(model);
    retain_params rp = retain_default_params();
    rp.budget = 64;
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    CHECK(ctx);
    llama_memory_t mem = llama_get_memory(ctx);

    CHECK(try_decode(ctx, 0, 0, 30) == 0);
    CHECK(!llama_memory_can_shift(mem));
    const auto before = state_of(ctx);
    CHECK(llama_memory_seq_rm(mem, 0, 0, 10));
    CHECK(llama_state_set_data(ctx, before.data(), before.size()) == before.size());
    llama_memory_seq_add(mem, 0, 0, -1, 5);
    CHECK(error_says("M-RoPE") && state_of(ctx) == before);
    CHECK(try_decode(ctx, 0, 30, 4) == 0); // it died here, in stock llama.cpp's shift of the keys
    llama_free(ctx);
    llama_model_free(model);
}

// the last positions that there are: no age overflows, and the order of an eviction stays
static void test_last_positions(llama_model * model, const std::string & gates) {
    const llama_pos last = INT32_MAX - 2;

    auto rp = small_params(gates);
    rp.policy = "window";
    rp.n_sink = 0;
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    llama_memory_t  mem = llama_get_memory(ctx);

    const retain_score_callback ages_are_positive = [](void * n_calls, llama_seq_id, int64_t n_seen, int64_t n, const int32_t *,
            const int32_t *, const int32_t * pos, const float *, const int32_t * age, float *) {
        ++*(int *) n_calls;
        for (int64_t i = 0; i < n; ++i) {
            CHECK(age[i] == n_seen + 1 - pos[i] && age[i] > 0);
        }
        return false;
    };
    int n_calls = 0;
    CHECK(retain_set_callback(ctx, ages_are_positive, &n_calls));

    CHECK(try_decode(ctx, 0, last - 39, 40) == 0);
    CHECK(n_calls > 0 && llama_memory_seq_pos_max(mem, 0) == last);
    for (const auto & kept : all_positions(ctx, 0)) {
        CHECK(kept.back() == last && kept.front() == last - (int) kept.size() + 1); // the newest
    }
    retain_stats stats;
    CHECK(retain_get_stats(ctx, &stats) && stats.n_seen == (int64_t) last + 1);

    const auto before = state_of(ctx);
    CHECK(try_decode(ctx, 0, last + 1, 1) != 0 && error_says("position 2147483646 is out of range"));
    CHECK(state_of(ctx) == before);
    CHECK(llama_memory_seq_rm(mem, 0, 0, -1));
    CHECK(try_decode(ctx, 0, INT32_MAX, 1) != 0 && error_says("out of range"));
    CHECK(try_decode(ctx, 0, -5, 1) != 0 && retain_n_cells(ctx, 0) == 0);
    CHECK(try_decode(ctx, 0, 0, 40) == 0);
    llama_free(ctx);
}

int main() {
    const tiny_files files;
    llama_model * model = files.load();

    test_cutting_back(model, files.gates);
    test_cutting_back_under_snapkv(model, files.gates);
    test_due_evictions(model, files.gates);
    test_batches_of_several(model, files.gates);
    test_announced_shifts(model, files.gates);
    test_copies(model, files.gates);
    test_shifts(model, files.gates);
    test_shift_before_the_start(model, files.gates);
    test_interrupted_shift(model, files.gates);
    test_shift_of_several_parts(files);
    test_last_positions(model, files.gates);

    llama_model_free(model);

    printf("sequences: exact, or refused\n");
    return 0;
}
