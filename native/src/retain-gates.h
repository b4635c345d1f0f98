// retain-gates.h - a gate sidecar: the weights that turn the input of q, k and v into log beta
//
//     rg10   u = W3*act(W2*act(W1*h + b1) + b2) + b     W3 and b tied over the layers, or one copy per layer
//     rg     u = W2*act(W1*h + b1) + b
//     log beta = logsigmoid(u)

#pragma once

#include "ggml-cpp.h"

#include <string>
#include <vector>

struct llama_model;

struct retain_gate_layer {
    ggml_tensor * in_w    = nullptr; // [n_embd, n_ff]
    ggml_tensor * in_b    = nullptr; // [n_ff]
    ggml_tensor * mid_w   = nullptr; // [n_ff, n_ff], null for rg
    ggml_tensor * mid_b   = nullptr; // [n_ff]
    ggml_tensor * score_w = nullptr; // [n_ff, n_head_kv]
    ggml_tensor * score_b = nullptr; // [n_head_kv]
};

enum class retain_activation { silu, gelu, relu };

class retain_gates {
public:
    // Reads and checks the file against the model: every key, name, shape and type, before any weight is used.
    // Throws retain_error with one line that says what is wrong.
    //   load: false stops after the checks
    retain_gates(const llama_model & model, const std::string & path, bool load = true);

    const retain_gate_layer & layer(int32_t il) const { return layers[il]; }

    // log beta of h f32 [n_embd, n_tokens], written to dst f32 [n_head_kv, n_tokens]; returns a view of dst
    ggml_tensor * build(ggml_context * ctx, int32_t il, ggml_tensor * h, ggml_tensor * dst) const;

private:
    std::vector<retain_gate_layer> layers; // [n_layer]
    retain_activation activation;

    std::vector<ggml_context_ptr>        ctxs;
    std::vector<ggml_backend_buffer_ptr> bufs;
};

// FNV-1a over the architecture, the sizes and the vocabulary: 16 hex digits
std::string retain_model_fingerprint(const llama_model & model);
