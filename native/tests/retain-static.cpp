// retain-static.cpp - sidecars of version 2: static gates of each form in a cache, and files that are wrong
//
// That the numbers are right is tested against NumPy in tests/cache/test_static_gates.py.

#include "retain.h"
#include "testing.h"
#include "tiny-context.h"

#include <cmath>

constexpr int N_KEY = 16, N_BASE = 3, N_GROUP = 2;

// static gates of a variant for the tiny model; broken: "" or what to get wrong
static void write_static_gates(const std::string & path, const std::string & variant, const std::string & broken = "") {
    tiny::file f(3);
    gguf_context * g = f.gguf.get();

    const uint32_t layers[] = { 0, broken == "order" ? 0u : broken == "beyond" ? 2u : 1u };
    const uint32_t heads [] = { tiny::N_HEAD_KV, broken == "heads" ? 4u : tiny::N_HEAD_KV };
    const size_t   n_layers = broken == "one layer" ? 1 : 2;

    gguf_set_val_str (g, "general.type", "adapter");
    gguf_set_val_str (g, "general.architecture", "llama");
    gguf_set_val_str (g, "adapter.type", "retention_gate");
    gguf_set_val_u32 (g, "retention_gate.version", 2);
    gguf_set_val_str (g, "retention_gate.variant", variant.c_str());
    gguf_set_val_str (g, "retention_gate.score", broken == "score" ? "best" : broken == "decay" ? "decay" : "static");
    gguf_set_val_u32 (g, "retention_gate.block_count", tiny::N_LAYER);
    gguf_set_val_u32 (g, "retention_gate.embedding_length", tiny::N_EMBD);
    if (broken == "scalar") {
        gguf_set_val_u32(g, "retention_gate.layers", 2);
    } else {
        gguf_set_arr_data(g, "retention_gate.layers", broken == "type" ? GGUF_TYPE_INT32 : GGUF_TYPE_UINT32, layers, n_layers);
    }
    gguf_set_arr_data(g, "retention_gate.head_count_kv", GGUF_TYPE_UINT32, heads, broken == "counts" ? 1 : n_layers);
    gguf_set_val_u32 (g, "retention_gate.window", broken == "window" ? UINT32_MAX : 6);
    if (variant == "rg" || variant == "rg10") {
        gguf_set_val_bool(g, "retention_gate.tied", broken == "tied");
        gguf_set_val_u32 (g, "retention_gate.feed_forward_length", tiny::N_GATE);
        gguf_set_val_str (g, "retention_gate.activation", "gelu_erf");
    }
    if (variant == "fast_kvzip") {
        gguf_set_val_u32(g, "retention_gate.key_length",  N_KEY);
        gguf_set_val_u32(g, "retention_gate.base_count",  broken == "base count" ? 1u << 20 : N_BASE);
        gguf_set_val_u32(g, "retention_gate.group_count", N_GROUP);
    }

    for (size_t il = 0; il < n_layers; ++il) {
        const std::string blk = "blk." + std::to_string(il) + ".retention_";
        if (variant == "fast_kvzip") {
            f.add(blk + "q.weight",      tiny::N_EMBD, N_KEY*N_GROUP*tiny::N_HEAD_KV, 0.3f);
            f.add(blk + "q.bias",        N_KEY*N_GROUP*tiny::N_HEAD_KV, 0, 0.3f);
            f.add(blk + "k.weight",      tiny::N_EMBD, N_KEY*tiny::N_HEAD_KV, 0.3f);
            f.add(blk + "q_norm.weight", N_KEY, 0, 0.3f, 1.0f);
            f.add(blk + "k_norm.weight", N_KEY, 0, 0.3f, 1.0f);
            f.add(blk + "base.weight",   N_KEY, N_BASE*tiny::N_HEAD_KV, 1.0f);
            f.add(blk + "score.bias",    N_GROUP*tiny::N_HEAD_KV, 0, 1.0f);
            continue;
        }
        if (variant == "rg") {
            f.add(blk + "in.weight", tiny::N_EMBD, tiny::N_GATE, 0.3f);
            f.add(blk + "in.bias",   tiny::N_GATE, 0, 0.3f);
        }
        f.add(blk + "score.weight", variant == "rg" ? tiny::N_GATE : tiny::N_EMBD, tiny::N_HEAD_KV, 0.5f);
        f.add(blk + "score.bias",   tiny::N_HEAD_KV, 0, 0.5f);
    }
    f.write(path);
}

// scores of a cell list, in the order of the list
static std::vector<float> scores_of(llama_context * ctx, int il, int head) {
    std::vector<float> res(retain_get_cells(ctx, 0, il, head, nullptr, nullptr, nullptr, 0));
    CHECK(retain_get_cells(ctx, 0, il, head, nullptr, nullptr, res.data(), res.size()) == (int64_t) res.size());
    return res;
}

static void test_variant(llama_model * model, const std::string & path, const std::string & variant) {
    write_static_gates(path, variant);
    const retain_params rp = small_params(path);
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    CHECK(ctx && retain_has_gates(ctx) && retain_has_static_gates(ctx));
    CHECK(strcmp(retain_get_policy(ctx), "gate") == 0);

    const auto tokens = random_tokens(1, 200);
    for (int i = 0; i < 200; i += 40) {
        decode(ctx, 0, i, { tokens.begin() + i, tokens.begin() + i + 40 });
    }

    bool any_positive = false;
    for (int il = 0; il < tiny::N_LAYER; ++il) {
        for (int h = 0; h < tiny::N_HEAD_KV; ++h) {
            const auto pos = positions(ctx, 0, il, h);
            for (int p = 194; p < 200; ++p) { // the window
                CHECK(std::binary_search(pos.begin(), pos.end(), p));
            }
            for (const float x : scores_of(ctx, il, h)) {
                CHECK(std::isfinite(x));
                any_positive = any_positive || x > 0.0f;
            }
        }
    }
    CHECK(any_positive); // a log beta is never above 0

    const auto state = state_of(ctx);
    const auto kept  = all_positions(ctx, 0);
    llama_memory_clear(llama_get_memory(ctx), true);
    CHECK(llama_state_set_data(ctx, state.data(), state.size()) == state.size());
    CHECK(all_positions(ctx, 0) == kept);
    llama_free(ctx);
}

static void test_bad_input(llama_model * model, const std::string & path) {
    const struct { const char * variant; const char * broken; const char * reason; } cases[] = {
        { "linear",     "order",      "not in ascending order" },
        { "linear",     "beyond",     "no layer of the model" },
        { "linear",     "heads",      "head_count_kv 4 in layer 1, this one has 2" },
        { "linear",     "counts",     "names 2 layers and the KV heads of 1" },
        { "linear",     "scalar",     "must be an array of uint32" },
        { "linear",     "type",       "must be an array of uint32" },
        { "linear",     "score",      "retention_gate.score is 'best', must be one of decay, static" },
        { "linear",     "window",     "retention_gate.window is 4294967295" },
        { "rg",         "tied",       "only gates of variant rg10 can be tied" },
        { "rg10",       "",           "rg10 give scores that decay" },
        { "fast_kvzip", "decay",      "fast_kvzip give static scores" },
        { "fast_kvzip", "base count", "base_count is 1048576, out of range" },
        { "rg11",       "",           "must be one of rg10, rg, linear, fast_kvzip" },
    };
    for (const auto & c : cases) {
        write_static_gates(path, c.variant, c.broken);
        CHECK(!retain_gates_check(model, path.c_str()) && error_says(c.reason));
    }

    // a layer that keeps a cache needs a gate
    write_static_gates(path, "linear", "one layer");
    CHECK(retain_gates_check(model, path.c_str()));
    const retain_params rp = small_params(path);
    CHECK(!retain_init_from_model(model, context_params(), &rp) && error_says("no gate for layer 1"));
}

int main() {
    const tiny_files files;
    llama_model * model = files.load();
    const std::string path = files.dir/"static.gguf";

    for (const char * variant : { "linear", "rg", "fast_kvzip" }) {
        test_variant(model, path, variant);
    }
    test_bad_input(model, path);

    const retain_params rp = small_params(files.gates);
    llama_context * ctx = retain_init_from_model(model, context_params(), &rp);
    CHECK(ctx && retain_has_gates(ctx) && !retain_has_static_gates(ctx));
    llama_free(ctx);

    llama_model_free(model);

    printf("retain static: all as promised\n");
    return 0;
}
