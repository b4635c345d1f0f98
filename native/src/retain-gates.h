// retain-gates.h - a gate sidecar: the weights that turn the input of q, k and v into what the cells are scored by
//
//     rg10         u = W3*act(W2*act(W1*h + b1) + b2) + b     W3 and b tied over the layers, or one copy per layer
//     rg           u = W2*act(W1*h + b1) + b
//     linear       u = W*h + b
//     fast_kvzip   see retain-gate-forward.cpp
//
// Decaying scores come from log beta = logsigmoid(u), static ones are u itself.

#pragma once

#include "retain-gate-header.h"

#include "ggml-cpp.h"

#include <string>
#include <vector>

// null where the variant has none; F: see retain_gate_header
struct retain_gate_layer {
    ggml_tensor * in_w    = nullptr; // [n_embd, F]
    ggml_tensor * in_b    = nullptr; // [F]
    ggml_tensor * mid_w   = nullptr; // [F, F]
    ggml_tensor * mid_b   = nullptr; // [F]
    ggml_tensor * score_w = nullptr; // [F, n_head_kv]; of linear gates [n_embd, n_head_kv]
    ggml_tensor * score_b = nullptr; // [n_head_kv]; of fast_kvzip [n_group*n_head_kv]

    // of fast_kvzip
    ggml_tensor * q_w    = nullptr; // [n_embd, n_key*n_group*n_head_kv]
    ggml_tensor * q_b    = nullptr;
    ggml_tensor * k_w    = nullptr; // [n_embd, n_key*n_head_kv]
    ggml_tensor * q_norm = nullptr; // [n_key]
    ggml_tensor * k_norm = nullptr; // [n_key]
    ggml_tensor * base   = nullptr; // [n_key, n_base*n_head_kv]
};

class retain_gates {
public:
    // Reads and checks the file against the model: every key, name, shape and type, before any weight is used.
    // Throws retain_error with one line that says what is wrong.
    //   load: false stops after the checks
    retain_gates(const llama_model & model, const std::string & path, bool load = true) :
        retain_gates(model, retain_gguf(path), load) {
    }

    bool    has_layer(int32_t il) const { return il < (int32_t) layers.size() && layers[il].score_b; }
    bool    is_static()  const { return header.is_static; }
    int32_t get_window() const { return header.window; }

    // log beta, or the static score, of h f32 [n_embd, n_tokens], written to dst f32 [n_head_kv, n_tokens]; returns a view
    // of dst
    ggml_tensor * build(ggml_context * ctx, int32_t il, ggml_tensor * h, ggml_tensor * dst) const;

    // The same by one op of a chain, which is computed at its last one (ggml_retention_whole_gate) and may be that one alone; null for gates
    // of another form
    ggml_tensor * build_chained(ggml_context * ctx, int32_t il, ggml_tensor * h, ggml_tensor * dst, ggml_tensor * previous, bool is_last) const;

private:
    retain_gates(const llama_model & model, const retain_gguf & file, bool load);

    // one tensor that must be in the file
    struct slot {
        std::string    name;
        int64_t        ne[2];
        bool           is_weight; // may be f16 or q8_0
        int32_t        il;
        ggml_tensor ** dst;
    };

    std::vector<slot> list_slots(int64_t n_embd);

    static void check_slot(const retain_gguf & file, const slot & slot);

    void load_slots(const llama_model & model, const retain_gguf & file, const std::vector<slot> & slots);

    ggml_tensor * build_dense     (ggml_context * ctx, ggml_tensor * w, ggml_tensor * b, ggml_tensor * x) const;
    ggml_tensor * build_fast_kvzip(ggml_context * ctx, const retain_gate_layer & layer, ggml_tensor * h, int64_t n_head_kv) const;

    const retain_gate_header       header;
    std::vector<retain_gate_layer> layers; // [n_layer] of the model

    std::vector<ggml_context_ptr>        ctxs;
    std::vector<ggml_backend_buffer_ptr> bufs;
};
