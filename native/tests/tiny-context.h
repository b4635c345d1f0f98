// tiny-context.h - contexts of the tiny model, and what the tests of the memory do with them

#pragma once

#include "retain.h"
#include "testing.h"
#include "tiny-model.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace fs = std::filesystem;

static const int N_STREAMS = tiny::N_LAYER*tiny::N_HEAD_KV;

// a folder with a model and gates, made for the test and removed with it
struct tiny_files {
    const fs::path    dir   = fs::temp_directory_path()/("retain-test-" + std::to_string(std::random_device()()));
    const std::string model = dir/"model.gguf";
    const std::string gates = dir/"model.gates.gguf";

    tiny_files() {
        fs::create_directories(dir);
        tiny::write_model(model);
        tiny::write_gates(gates);
        llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        llama_backend_init();
    }

    ~tiny_files() {
        llama_backend_free();
        fs::remove_all(dir);
    }

    llama_model * load(llama_model_params params = llama_model_default_params()) const {
        llama_model * res = llama_model_load_from_file(model.c_str(), params);
        CHECK(res);
        return res;
    }
};

// the default parameters, with gates and small numbers
inline retain_params small_params(const std::string & gates) {
    retain_params rp = retain_default_params();
    rp.budget    = 24;
    rp.buffer    = 4;
    rp.n_sink    = 2;
    rp.page_size = 8;
    rp.gates     = gates.c_str();
    return rp;
}

inline llama_context_params context_params(int n_seq = 1, int n_ubatch = 16) {
    llama_context_params cp = llama_context_default_params();
    cp.n_ctx      = 512;
    cp.n_batch    = 256;
    cp.n_ubatch   = n_ubatch;
    cp.n_seq_max  = n_seq;
    cp.n_threads  = cp.n_threads_batch = 1;
    cp.kv_unified = true;
    cp.type_k     = GGML_TYPE_F32;
    cp.type_v     = GGML_TYPE_F32;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED; // it rounds f32 cells to f16
    return cp;
}

// decode tokens from position pos on; returns the logits of the last one
inline std::vector<float> decode(llama_context * ctx, llama_seq_id seq, llama_pos pos, const std::vector<llama_token> & tokens) {
    llama_batch batch = llama_batch_init(tokens.size(), 0, 1);
    batch.n_tokens = tokens.size();
    for (size_t i = 0; i < tokens.size(); ++i) {
        batch.token[i]     = tokens[i];
        batch.pos[i]       = pos + i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = seq;
        batch.logits[i]    = i + 1 == tokens.size();
    }
    CHECK(llama_decode(ctx, batch) == 0);
    llama_batch_free(batch);

    const float * logits = llama_get_logits_ith(ctx, -1);
    return std::vector<float>(logits, logits + tiny::N_VOCAB);
}

inline std::vector<llama_token> random_tokens(int seed, int n) {
    std::mt19937 rng(seed);
    std::vector<llama_token> res(n);
    for (auto & t : res) {
        t = std::uniform_int_distribution<int>(0, tiny::N_VOCAB - 1)(rng);
    }
    return res;
}

inline std::vector<int32_t> positions(llama_context * ctx, llama_seq_id seq, int il, int head) {
    std::vector<int32_t> res(retain_get_cells(ctx, seq, il, head, nullptr, nullptr, nullptr, 0));
    CHECK(retain_get_cells(ctx, seq, il, head, res.data(), nullptr, nullptr, res.size()) == (int64_t) res.size());
    std::sort(res.begin(), res.end());
    return res;
}

// every kept position of every cell list
inline std::vector<std::vector<int32_t>> all_positions(llama_context * ctx, llama_seq_id seq) {
    std::vector<std::vector<int32_t>> res;
    for (int il = 0; il < tiny::N_LAYER; ++il) {
        for (int h = 0; h < tiny::N_HEAD_KV; ++h) {
            res.push_back(positions(ctx, seq, il, h));
        }
    }
    return res;
}

inline std::vector<uint8_t> state_of(llama_context * ctx) {
    std::vector<uint8_t> res(llama_state_get_size(ctx));
    CHECK(llama_state_get_data(ctx, res.data(), res.size()) == res.size());
    return res;
}

inline std::vector<uint8_t> state_of(llama_context * ctx, llama_seq_id seq) {
    std::vector<uint8_t> res(llama_state_seq_get_size(ctx, seq));
    CHECK(llama_state_seq_get_data(ctx, res.data(), res.size(), seq) == res.size());
    return res;
}

// whether the last error says this
inline bool error_says(const char * what) {
    if (!strstr(retain_last_error(), what)) {
        fprintf(stderr, "wanted '%s', got '%s'\n", what, retain_last_error());
        return false;
    }
    return true;
}
