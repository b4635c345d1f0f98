// retain-archive.cpp - what becomes of evicted cells: each is resident or archived, until a full archive lets the lowest go

#include "tiny-context.h"

#include <fstream>

namespace {

constexpr int N_EMBD_WIDE = 128; // heads of 32, which a block of q4_0 needs

struct wide_files : tiny_files {
    const std::string wide       = dir/"wide.gguf";
    const std::string wide_gates = dir/"wide.gates.gguf";
    const std::string archive    = dir/"archive";

    wide_files() {
        tiny::write_model(wide, "llama", N_EMBD_WIDE);
        tiny::write_gates(wide_gates, "", N_EMBD_WIDE);
    }

    llama_model * load_wide() const {
        llama_model * res = llama_model_load_from_file(wide.c_str(), llama_model_default_params());
        CHECK(res);
        return res;
    }
};

retain_params recall_params(const std::string & gates) {
    retain_params rp = small_params(gates);
    rp.recall        = 0.25f;
    rp.archive_type  = GGML_TYPE_Q8_0;
    rp.archive_bytes = 1 << 20;
    return rp;
}

std::vector<int32_t> archived(llama_context * ctx, llama_seq_id seq, int il, int head) {
    std::vector<int32_t> res(retain_get_archived(ctx, seq, il, head, nullptr, nullptr, nullptr, nullptr, 0));
    CHECK(retain_get_archived(ctx, seq, il, head, res.data(), nullptr, nullptr, nullptr, res.size()) == (int64_t) res.size());
    std::sort(res.begin(), res.end());
    return res;
}

std::vector<std::vector<int32_t>> all_archived(llama_context * ctx, llama_seq_id seq) {
    std::vector<std::vector<int32_t>> res;
    for (int il = 0; il < tiny::N_LAYER; ++il) {
        for (int h = 0; h < tiny::N_HEAD_KV; ++h) {
            res.push_back(archived(ctx, seq, il, h));
        }
    }
    return res;
}

retain_stats stats_of(const llama_context * ctx) {
    retain_stats res;
    CHECK(retain_get_stats(ctx, &res));
    return res;
}

// resident and archived positions of every cell list together are 0 to n - 1, each once
void check_all_are_somewhere(llama_context * ctx, llama_seq_id seq, int n) {
    for (int il = 0; il < tiny::N_LAYER; ++il) {
        for (int h = 0; h < tiny::N_HEAD_KV; ++h) {
            auto all = positions(ctx, seq, il, h);
            for (const int32_t p : archived(ctx, seq, il, h)) {
                all.push_back(p);
            }
            std::sort(all.begin(), all.end());
            CHECK((int) all.size() == n);
            for (int p = 0; p < n; ++p) {
                CHECK(all[p] == p);
            }
        }
    }
}

void test_budget(llama_model * model, const wide_files & files) {
    const auto rp = recall_params(files.wide_gates);
    llama_context * ctx = retain_init_from_model(model, context_params(2), &rp);
    CHECK(ctx);

    const auto tokens = random_tokens(1, 200);
    for (int pos = 0; pos < 200;) {
        const int n = std::min(pos%3 == 0 ? 30 : 1, 200 - pos);
        decode(ctx, 0, pos, std::vector<llama_token>(tokens.begin() + pos, tokens.begin() + pos + n));
        pos += n;
        check_all_are_somewhere(ctx, 0, pos);

        const auto stats = stats_of(ctx);
        CHECK(stats.budget == 24 && stats.recall == 6 && stats.residents == 18);
        CHECK(stats.n_cells_max == 2*N_STREAMS*(18 + 16));
        CHECK(stats.n_cells <= stats.n_cells_max);
        CHECK(stats.n_archived == (int64_t) pos*N_STREAMS - stats.n_cells && stats.n_dropped == 0);
        CHECK(stats.bytes_archived <= stats.bytes_archive && stats.bytes_archive <= rp.archive_bytes);
    }

    // each token recalls R cells of each list
    const auto recalled = [&]() {
        int64_t sum = 0;
        for (int il = 0; il < tiny::N_LAYER; ++il) {
            for (int h = 0; h < tiny::N_HEAD_KV; ++h) {
                std::vector<uint32_t> counts(archived(ctx, 0, il, h).size());
                retain_get_archived(ctx, 0, il, h, nullptr, nullptr, nullptr, counts.data(), counts.size());
                for (const uint32_t n : counts) {
                    sum += n;
                }
            }
        }
        return sum;
    };
    const int64_t before = recalled();
    decode(ctx, 0, 200, { 1 });
    CHECK(recalled() - before == 6*N_STREAMS);

    // cells come and go with their sequence
    llama_memory_seq_cp(llama_get_memory(ctx), 0, 1, -1, -1);
    CHECK(all_archived(ctx, 1) == all_archived(ctx, 0) && all_positions(ctx, 1) == all_positions(ctx, 0));
    CHECK(nmse(decode(ctx, 1, 201, random_tokens(2, 9)), decode(ctx, 0, 201, random_tokens(2, 9))) < 1e-10);
    CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 1, -1, -1));
    CHECK(all_archived(ctx, 1) == std::vector<std::vector<int32_t>>(N_STREAMS));
    check_all_are_somewhere(ctx, 0, 210);

    // what is taken from the middle is gone from the archive too
    CHECK(llama_memory_seq_rm(llama_get_memory(ctx), 0, 20, 60));
    for (const auto & list : all_archived(ctx, 0)) {
        CHECK(std::none_of(list.begin(), list.end(), [](int32_t p) { return p >= 20 && p < 60; }));
    }
    llama_memory_clear(llama_get_memory(ctx), true);
    CHECK(stats_of(ctx).n_archived == 0 && stats_of(ctx).bytes_archived == 0);
    llama_free(ctx);
}

// cells of every type; those that are quantised keep their type
void test_types(llama_model * model, const wide_files & files) {
    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        auto rp = recall_params(files.wide_gates);
        rp.archive_type = GGML_TYPE_Q4_0;
        auto cp = context_params();
        cp.type_k = cp.type_v = type;
        cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO;
        llama_context * ctx = retain_init_from_model(model, cp, &rp);
        CHECK(ctx);
        decode(ctx, 0, 0, random_tokens(1, 60));
        for (const float x : decode(ctx, 0, 60, random_tokens(2, 1))) {
            CHECK(std::isfinite(x));
        }
        check_all_are_somewhere(ctx, 0, 61);

        const auto    stats  = stats_of(ctx);
        const int64_t n_cell = 2*ggml_row_size(type == GGML_TYPE_Q8_0 ? type : GGML_TYPE_Q4_0, 32);
        CHECK(stats.bytes_archive%(128*n_cell) == 0);
        llama_free(ctx);
    }
}

// The lowest scores go, an eighth at a time: those that are left are never below one that went.
void test_full(llama_model * model, const wide_files & files) {
    for (const char * policy : { "gate", "window", "keydiff", "snapkv" }) {
        auto rp = recall_params(files.wide_gates);
        rp.policy        = policy;
        rp.archive_bytes = 0x18000;
        llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
        CHECK(ctx);
        const int64_t n_max = stats_of(ctx).n_archived_max;
        for (int i = 0; i < 40; ++i) {
            decode(ctx, 0, i*40, random_tokens(i, 40));
            const auto stats = stats_of(ctx);
            CHECK(stats.n_archived <= n_max && stats.n_archived + stats.n_cells + stats.n_dropped == (i + 1)*40*N_STREAMS);
        }
        CHECK(stats_of(ctx).n_dropped > 0 && stats_of(ctx).n_archived > n_max*3/4);
        if (strcmp(policy, "window") == 0) {
            for (int il = 0; il < tiny::N_LAYER; ++il) {
                for (int h = 0; h < tiny::N_HEAD_KV; ++h) {
                    const auto list = archived(ctx, 0, il, h);
                    CHECK(list.back() - list.front() == (int) list.size() - 1);
                }
            }
        }
        llama_free(ctx);
    }
}

// The whole budget in one list, and then all of it gone at once: more than an eighth of the smallest archive.
void test_full_at_once(llama_model * model, const wide_files & files) {
    auto rp = recall_params(files.wide_gates);
    rp.n_sink        = 0;
    rp.buffer        = 16;
    rp.archive_bytes = 7*128*2*ggml_row_size(GGML_TYPE_Q8_0, 32) + 1; // a page for each list, and 3
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    CHECK(ctx);

    const retain_score_callback prefer_one = [](void * list, llama_seq_id, int64_t, int64_t n, const int32_t * il, const int32_t * head,
            const int32_t *, const float *, const int32_t *, float * scores) {
        for (int64_t i = 0; i < n; ++i) {
            scores[i] = il[i]*tiny::N_HEAD_KV + head[i] == *(int *) list;
        }
        return true;
    };
    int list = 0;
    CHECK(retain_set_callback(ctx, prefer_one, &list));

    const int64_t n_max = stats_of(ctx).n_archived_max;
    for (int i = 0; i < 60; ++i) { // an eviction each
        list = i/6%N_STREAMS;
        decode(ctx, 0, i*16, random_tokens(i, 16));
        const auto stats = stats_of(ctx);
        CHECK(stats.n_archived <= n_max && stats.n_archived + stats.n_cells + stats.n_dropped == (i + 1)*16*N_STREAMS);
    }
    CHECK(stats_of(ctx).n_dropped > 0);
    llama_free(ctx);
}

void test_states(llama_model * model, const wide_files & files) {
    const auto rp = recall_params(files.wide_gates);
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    decode(ctx, 0, 0, random_tokens(1, 150));
    const auto state = state_of(ctx, 0);
    const auto far   = all_archived(ctx, 0);
    const auto want  = decode(ctx, 0, 150, random_tokens(2, 9));

    llama_context * other = retain_init_from_model(model, context_params(), &rp);
    decode(other, 0, 0, random_tokens(3, 99));
    CHECK(llama_state_seq_set_data(other, state.data(), state.size(), 0) == state.size());
    CHECK(all_archived(other, 0) == far);
    CHECK(nmse(decode(other, 0, 150, random_tokens(2, 9)), want) < 1e-10);

    // whatever is wrong with it, it is refused and nothing changes
    const auto before = all_archived(other, 0);
    for (size_t at = 0; at < state.size(); at += 97) {
        auto damaged = state;
        damaged[at] ^= 0x10;
        CHECK(llama_state_seq_set_data(other, damaged.data(), damaged.size(), 0) == 0);
        CHECK(llama_state_seq_set_data(other, state.data(), at, 0) == 0);
    }
    CHECK(all_archived(other, 0) == before);
    llama_free(other);

    auto none = rp;
    none.archive_bytes = 0;
    other = retain_init_from_model(model, context_params(), &none);
    CHECK(llama_state_seq_set_data(other, state.data(), state.size(), 0) == 0 && error_says("this context has none"));
    llama_free(other);

    auto four = rp;
    four.archive_type = GGML_TYPE_Q4_0;
    other = retain_init_from_model(model, context_params(), &four);
    CHECK(llama_state_seq_set_data(other, state.data(), state.size(), 0) == 0 && error_says("another type"));
    llama_free(other);
    llama_free(ctx);
}

void test_file(llama_model * model, const wide_files & files) {
    const auto in_memory = recall_params(files.wide_gates);
    auto rp = in_memory;
    rp.archive_file = files.archive.c_str();
    const auto refused = [&](const char * what) { return !retain_init_from_model(model, context_params(), &rp) && error_says(what); };

    llama_context * ctx   = retain_init_from_model(model, context_params(), &rp);
    llama_context * other = retain_init_from_model(model, context_params(), &in_memory);
    CHECK(ctx && other);
    decode(ctx,   0, 0, random_tokens(1, 150));
    decode(other, 0, 0, random_tokens(1, 150));
    CHECK(decode(ctx, 0, 150, random_tokens(2, 5)) == decode(other, 0, 150, random_tokens(2, 5)));
    llama_free(other);

    // it has no name by now, which another one can take; what is left of one is taken, and any other file stays as it is
    CHECK(!fs::exists(files.archive));
    std::ofstream(files.archive) << "retain-local archive\n" << '\0' << "cells";
    other = retain_init_from_model(model, context_params(), &rp);
    CHECK(other && !fs::exists(files.archive));
    llama_free(other);
    llama_free(ctx);
    const std::string text = "what somebody wrote";
    std::ofstream(files.archive) << text;
    CHECK(refused("not an archive"));
    std::ifstream file(files.archive);
    CHECK(std::string(std::istreambuf_iterator<char>(file), {}) == text);

    const std::string missing = files.dir/"missing"/"archive";
    rp.archive_file = missing.c_str();
    CHECK(refused("cannot open"));
    const std::string folder = files.dir;
    rp.archive_file = folder.c_str();
    CHECK(refused("cannot open"));
}

void test_refusals(llama_model * model, const wide_files & files) {
    const auto refused = [&](retain_params rp, llama_model * of, const char * what) {
        llama_context * ctx = retain_init_from_model(of, context_params(), &rp);
        return !ctx && error_says(what);
    };
    auto rp = recall_params(files.wide_gates);
    rp.recall = 0.95f;
    CHECK(refused(rp, model, "must be 0 to 0.9"));
    rp.recall = NAN;
    CHECK(refused(rp, model, "must be 0 to 0.9"));

    rp = recall_params(files.wide_gates);
    rp.archive_bytes = -1;
    CHECK(refused(rp, model, "makes no sense"));
    rp.archive_bytes = 100;
    CHECK(refused(rp, model, "too small"));
    rp.archive_bytes = INT64_MAX;
    CHECK(refused(rp, model, "at most"));
    rp.archive_bytes = 1 << 20;
    rp.archive_type  = GGML_TYPE_F16;
    CHECK(refused(rp, model, "q4_0 or q8_0"));

    rp = recall_params(files.wide_gates);
    rp.n_sink = 0;
    rp.budget = 3;
    CHECK(refused(rp, model, "not one cell to recall"));

    rp = recall_params(files.wide_gates);
    rp.n_recent = 20;
    CHECK(refused(rp, model, "less the 6 for recalled cells"));

    // heads of 8
    llama_model * narrow = files.load();
    CHECK(refused(recall_params(files.gates), narrow, "multiple of 32"));
    llama_model_free(narrow);

    // a budget that covers the context evicts nothing
    rp = recall_params(files.wide_gates);
    rp.budget = 512;
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    CHECK(ctx && stats_of(ctx).recall == 0 && stats_of(ctx).bytes_archive == 0);
    decode(ctx, 0, 0, random_tokens(1, 60));
    CHECK(stats_of(ctx).n_cells == 60*N_STREAMS && retain_get_archived(ctx, 0, 0, 0, nullptr, nullptr, nullptr, nullptr, 0) == 0);
    llama_free(ctx);
}

} // namespace

int main() {
    const wide_files files;
    llama_model * model = files.load_wide();

    test_budget  (model, files);
    test_types   (model, files);
    test_full    (model, files);
    test_full_at_once(model, files);
    test_states  (model, files);
#ifndef _WIN32
    test_file    (model, files);
#endif
    test_refusals(model, files);

    llama_model_free(model);
    printf("archive: evicted cells are kept, found, saved and let go\n");
    return 0;
}
