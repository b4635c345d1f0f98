// retain-api.cpp - retain.h over retain_memory and retain_mixed

#include "retain.h"
#include "retain-error.h"
#include "retain-mixed.h"

#include "llama-context.h"

#include <algorithm>

// the memory of ctx; clears the last error, as every call does
static retain_memory * find_memory(const llama_context * ctx) {
    retain_error_clear();

    auto * mem = ctx ? retain_find_memory(ctx->get_memory()) : nullptr;
    if (!mem) {
        retain_error_set(ctx ? "the context has no retention memory" : "the context is NULL");
    }
    return mem;
}

// the memory of ctx, when it has that sequence
static retain_memory * find_memory(const llama_context * ctx, llama_seq_id seq_id) {
    auto * mem = find_memory(ctx);
    if (mem && !mem->has_seq(seq_id)) {
        retain_error_set(retain_format("sequence %d is out of range; the context has %zu", seq_id, mem->n_seqs()));
        return nullptr;
    }
    return mem;
}

// the memory of ctx, to be changed: not while its eviction hook runs
static retain_memory * find_idle_memory(const llama_context * ctx) {
    auto * mem = find_memory(ctx);
    return mem && !mem->is_busy() ? mem : nullptr;
}

static retain_memory * find_idle_memory(const llama_context * ctx, llama_seq_id seq_id) {
    auto * mem = find_memory(ctx, seq_id);
    return mem && !mem->is_busy() ? mem : nullptr;
}

// the memory of ctx when it has windows or recurrent states beside the retention memory, or null
static const retain_mixed * find_mixed(const llama_context * ctx) {
    return dynamic_cast<const retain_mixed *>(ctx->get_memory());
}

// what: "the model is", of an argument that must not be NULL
static void require(const void * argument, const char * what) {
    if (!argument) {
        throw retain_error(retain_format("%s NULL", what));
    }
}

// run fn; an exception becomes the last error and false
template <typename F>
static bool guarded(F fn) {
    retain_error_clear();
    try {
        fn();
        return true;
    } catch (const std::exception & err) {
        retain_error_set(err.what());
        return false;
    }
}

int32_t retain_api_version(void) {
    return RETAIN_API_VERSION;
}

const char * retain_upstream_version(void) {
    return RETAIN_UPSTREAM_VERSION;
}

const char * retain_last_error(void) {
    return retain_error_get().c_str();
}

retain_params retain_default_params(void) {
    retain_params res = {};
    res.budget    = 2048;
    res.buffer    = 128;
    res.lookahead = 1;
    res.n_sink    = 4;
    res.prefill   = RETAIN_PREFILL_BOUNDED;
    res.scope     = RETAIN_SCOPE_GLOBAL;
    res.recall       = 0.25f;
    res.archive_type = GGML_TYPE_Q4_0;
    return res;
}

void retain_clear_error(void) {
    retain_error_clear();
}

bool retain_set_params(const retain_params * params) {
    if (!params) {
        retain_config_set_pending(nullptr);
        return true;
    }
    return guarded([&]() { retain_config_set_pending(params); });
}

llama_context * retain_init_from_model(llama_model * model, llama_context_params cparams, const retain_params * params) {
    const bool ok = guarded([&]() {
        require(model,  "the model is");
        require(params, "the parameters are");
        retain_config_set_pending(params);
    });
    if (!ok) {
        return nullptr;
    }
    llama_context * ctx = llama_init_from_model(model, cparams);
    retain_config_set_pending(nullptr);

    if (!ctx && retain_error_get().empty()) {
        retain_error_set("llama.cpp could not make the context; its log says why");
    }
    return ctx;
}

llama_context * retain_init_stock_from_model(llama_model * model, llama_context_params cparams) {
    const retain_config_pause pause;
    return llama_init_from_model(model, cparams);
}

bool retain_gates_check(const llama_model * model, const char * path) {
    return guarded([&]() {
        require(model, "the model is");
        require(path,  "the path of the gates is");
        retain_gates(*model, path, /*load =*/ false);
    });
}

bool retain_is_enabled(const llama_context * ctx) {
    return ctx && retain_find_memory(ctx->get_memory());
}

bool retain_has_gates(const llama_context * ctx) {
    const auto * mem = find_memory(ctx);
    return mem && mem->get_gates();
}

bool retain_has_static_gates(const llama_context * ctx) {
    const auto * mem = find_memory(ctx);
    return mem && mem->has_static_gates();
}

bool retain_get_stats(const llama_context * ctx, retain_stats * stats) {
    const auto * mem = find_memory(ctx);
    return mem && guarded([&]() {
        require(stats, "the place for the statistics is");
        mem->get_stats(*stats);
        const auto * mixed = find_mixed(ctx);
        stats->bytes_fixed = mixed ? mixed->bytes_fixed() : 0;
    });
}

const char * retain_cells_device(const llama_context * ctx) {
    const auto * mem = find_memory(ctx);
    return mem ? mem->get_devices().c_str() : nullptr;
}

int32_t retain_layers(const llama_context * ctx, int32_t * layers, int32_t n_max) {
    const auto * mem = find_memory(ctx);
    if (!mem) {
        return -1;
    }
    const auto  & all     = mem->get_layers();
    const int32_t n_given = layers ? std::min<int32_t>(n_max, all.size()) : 0;
    for (int32_t i = 0; i < n_given; ++i) {
        layers[i] = all[i].il;
    }
    return all.size();
}

int32_t retain_n_head_kv(const llama_context * ctx, int32_t il) {
    const auto * mem   = find_memory(ctx);
    const auto * layer = mem ? mem->find_layer(il) : nullptr;
    if (mem && !layer) {
        retain_error_set(retain_format("layer %d has no KV cache", il));
    }
    return layer ? layer->n_head_kv : -1;
}

// the layer of a KV head; null when there is none
static const retain_layer * find_head(const retain_memory & mem, int32_t il, int32_t head) {
    const auto * layer = mem.find_layer(il);
    if (!layer || head < 0 || head >= layer->n_head_kv) {
        retain_error_set(retain_format("there is no KV head %d in layer %d", head, il));
        return nullptr;
    }
    return layer;
}

static int64_t get_cells(const retain_cell_list & cell_list, int32_t * pos, int32_t * ordinal, float * log_beta, int64_t n_max) {
    const int64_t n = std::max<int64_t>(0, std::min(n_max, cell_list.size()));
    if (pos) {
        std::copy_n(cell_list.pos.begin(), n, pos);
    }
    if (ordinal) {
        std::copy_n(cell_list.ordinal.begin(), n, ordinal);
    }
    if (log_beta) {
        std::copy_n(cell_list.log_beta.begin(), n, log_beta);
    }
    return cell_list.size();
}

int64_t retain_get_cells(const llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t head, int32_t * pos, int32_t * ordinal, float * log_beta, int64_t n_max) {
    const auto * mem   = find_memory(ctx, seq_id);
    const auto * layer = mem ? find_head(*mem, il, head) : nullptr;
    if (layer) {
        mem->settle();
    }
    return layer ? get_cells(mem->get_seq(seq_id).cell_lists[layer->list_first + head], pos, ordinal, log_beta, n_max) : -1;
}

int64_t retain_get_archived(const llama_context * ctx, llama_seq_id seq_id, int32_t il, int32_t head, int32_t * pos, int32_t * ordinal, float * log_beta, uint32_t * n_recalled, int64_t n_max) {
    const auto * mem   = find_memory(ctx, seq_id);
    const auto * layer = mem ? find_head(*mem, il, head) : nullptr;
    if (!layer) {
        return -1;
    }
    if (!mem->get_archive()) {
        return 0;
    }
    const auto & cell_list = mem->get_seq(seq_id).archived[layer->list_first + head];
    for (int64_t i = 0; n_recalled && i < std::min(n_max, cell_list.size()); ++i) {
        n_recalled[i] = mem->get_archive()->n_recalled(cell_list, i);
    }
    return get_cells(cell_list, pos, ordinal, log_beta, n_max);
}

int64_t retain_n_cells(const llama_context * ctx, llama_seq_id seq_id) {
    const auto * mem = find_memory(ctx, seq_id);
    return mem ? mem->n_cells(mem->get_seq(seq_id)) : -1;
}

bool retain_pin(llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    auto * mem = find_idle_memory(ctx, seq_id);
    return mem && guarded([&]() { mem->pin(seq_id, p0, p1); });
}

bool retain_unpin(llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    auto * mem = find_idle_memory(ctx, seq_id);
    return mem && guarded([&]() { mem->unpin(seq_id, p0, p1); });
}

bool retain_set_budget(llama_context * ctx, llama_seq_id seq_id, int32_t budget) {
    auto * mem = find_idle_memory(ctx, seq_id);
    return mem && guarded([&]() { mem->set_budget(seq_id, budget); });
}

int32_t retain_get_budget(const llama_context * ctx, llama_seq_id seq_id) {
    const auto * mem = find_memory(ctx, seq_id);
    return mem ? mem->get_seq(seq_id).budget : -1;
}

bool retain_hold(llama_context * ctx, llama_seq_id seq_id, bool hold) {
    auto * mem = find_idle_memory(ctx, seq_id);
    return mem && guarded([&]() { mem->set_hold(seq_id, hold); });
}

int64_t retain_draft_limit(const llama_context * ctx, llama_seq_id seq_id) {
    const auto * mem = find_memory(ctx, seq_id);
    return mem ? mem->draft_limit(mem->get_seq(seq_id)) : -1;
}

llama_pos retain_rollback_limit(const llama_context * ctx, llama_seq_id seq_id) {
    const auto * mem = find_memory(ctx, seq_id);
    if (!mem) {
        return -1;
    }
    const auto * mixed = find_mixed(ctx);
    return mixed ? mixed->rollback_limit(seq_id) : mem->rollback_limit(mem->get_seq(seq_id));
}

const char * retain_policy_name(int32_t i) {
    int32_t n = 0;
    while (n < i && retain_policies[n]) {
        ++n;
    }
    return i >= 0 && retain_policies[n] ? retain_policies[n]->name : nullptr;
}

const char * retain_policy_description(int32_t i) {
    const char * name = retain_policy_name(i);
    return name ? retain_policies[i]->description : nullptr;
}

bool retain_set_policy(llama_context * ctx, const char * name) {
    auto * mem = find_idle_memory(ctx);
    return mem && guarded([&]() {
        require(name, "the name of the policy is");
        mem->set_policy(name);
    });
}

const char * retain_get_policy(const llama_context * ctx) {
    const auto * mem = find_memory(ctx);
    return mem ? mem->get_policy().name : nullptr;
}

bool retain_set_callback(llama_context * ctx, retain_score_callback callback, void * user_data) {
    auto * mem = find_idle_memory(ctx);
    return mem && guarded([&]() { mem->set_callback(callback, user_data); });
}
