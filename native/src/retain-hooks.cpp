#include "retain-hooks.h"
#include "retain-error.h"
#include "retain-mixed-graph.h"

#include "llama-impl.h"
#include "llama-model.h"

#include <cstring>

// inputs

template <typename INP>
static std::unique_ptr<INP> new_input(const llm_graph_context & llm) {
    const auto * parts = dynamic_cast<const retain_mixed_parts *>(llm.mctx);
    return parts ? std::make_unique<INP>(llm.ctx0, llm.ubatch, llm.hparams, llm.cparams, *parts) : nullptr;
}

std::unique_ptr<llm_graph_input_attn_kv> retain_build_attn_inp(
        ggml_context                 * ctx,
        const llama_ubatch           & ubatch,
        const llama_hparams          & hparams,
        const llama_cparams          & cparams,
        const llama_kv_cache_context * mctx) {
    const auto * retain = dynamic_cast<const retain_context *>(mctx);
    if (!retain) {
        return nullptr;
    }

    auto inp = std::make_unique<retain_graph_input>(hparams, cparams, retain);
    inp->build(ctx, ubatch);
    return inp;
}

std::unique_ptr<llm_graph_input_attn_kv_iswa> retain_build_iswa_inp(const llm_graph_context & llm) {
    return new_input<retain_iswa_input>(llm);
}

std::unique_ptr<llm_graph_input_mem_hybrid> retain_build_hybrid_inp(const llm_graph_context & llm) {
    return new_input<retain_hybrid_input>(llm);
}

// gates

// the input whose gates read hidden states, and the layer when it has cells in the pool
static std::pair<retain_graph_input *, const retain_layer *> find_gated(const llm_graph_context & llm, int il) {
    const auto * retain = retain_find_context(llm.mctx);
    if (!retain || !retain->get_mem().get_gates()) {
        return { nullptr, nullptr };
    }
    const auto * layer = retain->get_mem().find_layer(il);
    return { layer ? retain_find_input(*llm.res) : nullptr, layer };
}

void retain_build_gate(const llm_graph_context & llm, ggml_tensor * h, int il) {
    const auto [inp, layer] = find_gated(llm, il);
    if (inp) {
        inp->build_gate(llm, *layer, h);
    }
}

void retain_note_norm(const llm_graph_context & llm, ggml_tensor * cur, const char * name, int il) {
    if (strcmp(name, "attn_norm") == 0) {
        const auto [inp, layer] = find_gated(llm, il);
        if (inp) {
            inp->note_norm(*layer, cur);
        }
    }
}

// attention

// k and v are null where the layer reads the cells of another one
static ggml_tensor * build_attn(
        const llm_graph_context & llm,
        retain_graph_input      & inp,
        const retain_layer      * layer,
        ggml_tensor             * q,
        ggml_tensor             * k,
        ggml_tensor             * v,
        ggml_tensor             * kq_b,
        ggml_tensor             * sinks,
        float                     kq_scale) {
    const std::string arch = inp.mem().get_model().arch_name();
    if (!layer || kq_b) {
        throw retain_error(retain_format("the attention of %s models is not supported: %s", arch.c_str(),
                    kq_b ? "it adds a bias to the logits" : "a layer attends without a cache of its own"));
    }
    if (k) {
        if (inp.mem().get_gates() && !inp.has_gate(*layer) && !inp.build_gate_of_norm(llm, *layer)) {
            throw retain_error(retain_format("gates cannot read the input of attention in %s models; use policy window without gates", arch.c_str()));
        }
        inp.build_queries(llm, *layer, q, kq_scale);
    }
    return inp.build_attn(llm, *layer, q, k, v, sinks, kq_scale);
}

ggml_tensor * retain_build_attn(
        const llm_graph_context & llm,
        llm_graph_input_attn_kv * inp_kv,
        ggml_tensor             * q,
        ggml_tensor             * k,
        ggml_tensor             * v,
        ggml_tensor             * kq_b,
        ggml_tensor             * sinks,
        float                     kq_scale,
        int                       il) {
    auto * inp = dynamic_cast<retain_graph_input *>(inp_kv);
    if (!inp) {
        return nullptr;
    }
    return build_attn(llm, *inp, inp->mem().find_layer(il), q, k, v, kq_b, sinks, kq_scale);
}

ggml_tensor * retain_build_attn_iswa(
        const llm_graph_context      & llm,
        llm_graph_input_attn_kv_iswa * inp_iswa,
        ggml_tensor                  * wo,
        ggml_tensor                  * wo_b,
        ggml_tensor                  * wo_s,
        ggml_tensor                  * q,
        ggml_tensor                  * k,
        ggml_tensor                  * v,
        ggml_tensor                  * kq_b,
        ggml_tensor                  * sinks,
        float                          kq_scale,
        int                            il) {
    auto * inp = dynamic_cast<retain_iswa_input *>(inp_iswa);
    if (!inp || llm.hparams.is_swa(il)) {
        return nullptr;
    }
    auto & full = inp->get_full();

    for (ggml_tensor ** cur : { &q, &k }) {
        if (*cur && full.self_k_rot) {
            *cur = llama_mul_mat_hadamard(llm.ctx0, *cur, full.self_k_rot);
        }
    }
    if (v && full.self_v_rot) {
        v = llama_mul_mat_hadamard(llm.ctx0, v, full.self_v_rot);
    }
    for (ggml_tensor * cur : { q, v, k }) {
        if (cur) {
            ggml_build_forward_expand(llm.gf, cur);
        }
    }

    ggml_tensor * cur = build_attn(llm, full, inp->find_layer(il), q, k, v, kq_b, sinks, kq_scale);
    llm.cb(cur, "kqv_out", il);

    if (full.self_v_rot) {
        cur = llama_mul_mat_hadamard(llm.ctx0, cur, full.self_v_rot);
    }
    if (wo) {
        cur = llm.build_lora_mm(wo, cur, wo_s);
    }
    return wo_b ? ggml_add(llm.ctx0, cur, wo_b) : cur;
}

// decoding

bool retain_is_busy(llama_memory_i * mem) {
    const auto * retain = retain_find_memory(mem);
    return retain && retain->is_busy();
}

void retain_finish_ubatch(llama_memory_context_i * mctx, ggml_backend_sched_t sched) {
    const auto * retain = retain_find_context(mctx);
    if (retain) {
        retain->finish(sched);
    }
}
