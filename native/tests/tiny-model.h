// tiny-model.h - a llama model with random weights, written to a GGUF file

#pragma once

#include "testing.h"

#include "ggml-cpp.h"
#include "ggml.h"
#include "gguf.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace tiny {

constexpr int N_VOCAB   = 64;
constexpr int N_EMBD    = 32;
constexpr int N_LAYER   = 2;
constexpr int N_HEAD    = 4;
constexpr int N_HEAD_KV = 2;
constexpr int N_FF      = 64;
constexpr int N_CTX     = 4096;
constexpr int N_GATE    = 32;

// a file of random tensors with f32 weights
class file {
public:
    explicit file(int seed) : gguf(gguf_init_empty()), rng(seed) {
        ctx.reset(ggml_init({ 16u << 20, nullptr, false }));
    }

    void add(const std::string & name, int64_t ne0, int64_t ne1, float scale, float mean = 0.0f) {
        ggml_tensor * t = ne1 > 0 ? ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, ne0, ne1) : ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, ne0);
        ggml_set_name(t, name.c_str());
        auto data = random_normal(rng, ggml_nelements(t), scale);
        for (auto & x : data) {
            x += mean;
        }
        memcpy(t->data, data.data(), ggml_nbytes(t));
        gguf_add_tensor(gguf.get(), t);
    }

    void write(const std::string & path) const {
        CHECK(gguf_write_to_file(gguf.get(), path.c_str(), /*only_meta =*/ false));
    }

    gguf_context_ptr gguf;

private:
    ggml_context_ptr ctx;
    std::mt19937     rng;
};

// arch: llama, or qwen2vl, whose positions have several parts; n_embd: N_HEAD times the head size
inline void write_model(const std::string & path, const std::string & arch = "llama", int n_embd = N_EMBD) {
    file f(1);

    const float wide = std::sqrt((float) N_EMBD/n_embd); // what keeps products at the size that they have with N_EMBD

    const auto key = [&](const char * name) { return arch + "." + name; };
    gguf_set_val_str(f.gguf.get(), "general.architecture", arch.c_str());
    gguf_set_val_u32(f.gguf.get(), key("block_count").c_str(), N_LAYER);
    gguf_set_val_u32(f.gguf.get(), key("context_length").c_str(), N_CTX);
    gguf_set_val_u32(f.gguf.get(), key("embedding_length").c_str(), n_embd);
    gguf_set_val_u32(f.gguf.get(), key("feed_forward_length").c_str(), N_FF);
    gguf_set_val_u32(f.gguf.get(), key("attention.head_count").c_str(), N_HEAD);
    gguf_set_val_u32(f.gguf.get(), key("attention.head_count_kv").c_str(), N_HEAD_KV);
    gguf_set_val_f32(f.gguf.get(), key("attention.layer_norm_rms_epsilon").c_str(), 1e-5f);
    gguf_set_val_u32(f.gguf.get(), key("vocab_size").c_str(), N_VOCAB);
    if (arch == "qwen2vl") {
        const int32_t sections[4] = { 2, 1, 1, 0 };
        gguf_set_arr_data(f.gguf.get(), key("rope.dimension_sections").c_str(), GGUF_TYPE_INT32, sections, 4);
    }
    gguf_set_val_str(f.gguf.get(), "tokenizer.ggml.model", "none");

    const int n_kv = n_embd/N_HEAD*N_HEAD_KV;

    f.add("token_embd.weight",  n_embd, N_VOCAB, 1.0f);
    f.add("output_norm.weight", n_embd, 0, 0.0f, 1.0f);
    f.add("output.weight",      n_embd, N_VOCAB, 0.3f*wide);
    for (int il = 0; il < N_LAYER; ++il) {
        const std::string blk = "blk." + std::to_string(il) + ".";
        f.add(blk + "attn_norm.weight",   n_embd, 0, 0.0f, 1.0f);
        f.add(blk + "attn_q.weight",      n_embd, n_embd, 0.4f*wide);
        f.add(blk + "attn_k.weight",      n_embd, n_kv,   0.4f*wide);
        f.add(blk + "attn_v.weight",      n_embd, n_kv,   0.4f*wide);
        f.add(blk + "attn_output.weight", n_embd, n_embd, 0.4f*wide);
        f.add(blk + "ffn_norm.weight",    n_embd, 0, 0.0f, 1.0f);
        f.add(blk + "ffn_gate.weight",    n_embd, N_FF, 0.2f*wide);
        f.add(blk + "ffn_up.weight",      n_embd, N_FF, 0.2f*wide);
        f.add(blk + "ffn_down.weight",    N_FF, n_embd, 0.2f);
    }
    f.write(path);
}

// tied rg10 gates; broken: "" or what to get wrong
inline void write_gates(const std::string & path, const std::string & broken = "", int n_embd = N_EMBD) {
    file f(2);

    gguf_set_val_str (f.gguf.get(), "general.type", broken == "type" ? "model" : "adapter");
    gguf_set_val_str (f.gguf.get(), "general.architecture", broken == "arch" ? "qwen3" : "llama");
    gguf_set_val_str (f.gguf.get(), "adapter.type", "retention_gate");
    gguf_set_val_u32 (f.gguf.get(), "retention_gate.version", broken == "version" ? 3 : 1);
    gguf_set_val_str (f.gguf.get(), "retention_gate.variant", broken == "variant" ? "rg11" : "rg10");
    gguf_set_val_bool(f.gguf.get(), "retention_gate.tied", true);
    gguf_set_val_u32 (f.gguf.get(), "retention_gate.block_count", broken == "layers" ? N_LAYER + 1 : N_LAYER);
    gguf_set_val_u32 (f.gguf.get(), "retention_gate.embedding_length", n_embd);
    gguf_set_val_u32 (f.gguf.get(), "retention_gate.feed_forward_length", N_GATE);
    gguf_set_val_u32 (f.gguf.get(), "retention_gate.head_count_kv", N_HEAD_KV);
    if (broken != "activation") {
        gguf_set_val_str(f.gguf.get(), "retention_gate.activation", "silu");
    }
    if (broken == "fingerprint") {
        gguf_set_val_str(f.gguf.get(), "retention_gate.base_fingerprint", "0123456789abcdef");
    }

    for (int il = 0; il < N_LAYER; ++il) {
        const std::string blk = "blk." + std::to_string(il) + ".";
        f.add(blk + "retention_in.weight",  n_embd, broken == "shape" ? N_GATE + 1 : N_GATE, 0.3f);
        f.add(blk + "retention_in.bias",    N_GATE, 0, 0.3f);
        if (broken != "missing") {
            f.add(blk + "retention_mid.weight", N_GATE, N_GATE, 0.3f);
        }
        f.add(blk + "retention_mid.bias",   N_GATE, 0, 0.3f);
    }
    if (broken == "extra") {
        f.add("blk.0.retention_more.bias", N_GATE, 0, 0.3f);
    }
    f.add("retention_score.weight", N_GATE, N_HEAD_KV, 0.5f);
    f.add("retention_score.bias",   N_HEAD_KV, 0, broken == "nan" ? NAN : 0.5f, 3.0f);
    f.write(path);
}

} // namespace tiny
