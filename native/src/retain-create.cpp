// retain-create.cpp - which models get a retention memory, of which kind, and why others do not

#include "retain-error.h"
#include "retain-hooks.h"
#include "retain-mixed.h"

#include "llama-context.h"
#include "llama-model.h"

#include <set>

// what upstream's switch gives a cache of its own
static const std::set<llm_arch> SPARSE = {
    LLM_ARCH_DEEPSEEK32, LLM_ARCH_DEEPSEEK4, LLM_ARCH_DOTS3NOTE, LLM_ARCH_GLM5_NEXT, LLM_ARCH_GLM_DSA, LLM_ARCH_HY_V4,
    LLM_ARCH_MINIMAX_M3, LLM_ARCH_QWEN4EXP,
};

static const std::set<llm_arch> LATENT = { LLM_ARCH_BAILINGMOE3, LLM_ARCH_KIMI_K3, LLM_ARCH_KIMI_LINEAR };

static const std::set<llm_arch> DRAFTERS = { LLM_ARCH_DFLASH, LLM_ARCH_EAGLE3, LLM_ARCH_GEMMA4_ASSISTANT };

static const std::set<llm_arch> NOT_CAUSAL = {
    LLM_ARCH_BERT, LLM_ARCH_DREAM, LLM_ARCH_EUROBERT, LLM_ARCH_GEMMA_EMBEDDING, LLM_ARCH_JINA_BERT_V2, LLM_ARCH_JINA_BERT_V3,
    LLM_ARCH_LLADA, LLM_ARCH_LLADA_MOE, LLM_ARCH_LLAMA_EMBED, LLM_ARCH_MODERN_BERT, LLM_ARCH_NEO_BERT, LLM_ARCH_NOMIC_BERT,
    LLM_ARCH_NOMIC_BERT_MOE, LLM_ARCH_RND1, LLM_ARCH_WAVTOKENIZER_DEC,
};

static bool has_full_attention(const llama_hparams & hparams) {
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (hparams.has_kv(il) && hparams.n_head_kv(il) > 0 && !hparams.is_swa(il)) {
            return true;
        }
    }
    return false;
}

// one line that names what about the model the pool cannot hold and what it would need, or "" when it can
static std::string unsupported_reason(const llama_model & model) {
    const auto & hparams = model.hparams;

    if (DRAFTERS.count(model.arch)) {
        return "it drafts for another model, of whose context it reads; make its context without a budget";
    }
    if (llama_model_has_encoder(&model)) {
        return "its decoder attends to an encoder; that would need cells for what the encoder wrote";
    }
    if (NOT_CAUSAL.count(model.arch) || !hparams.causal_attn) {
        return "it is an encoder, embedding or diffusion model: it does not generate token by token from a KV cache";
    }
    if (llama_model_is_recurrent(&model)) {
        return "it is recurrent: it has a state of fixed size, and no KV cache to keep in a budget";
    }
    if (SPARSE.count(model.arch)) {
        return "its attention chooses cells by an index of its own (sparse attention), which would have to be evicted with them";
    }
    if (hparams.is_mla() || LATENT.count(model.arch)) {
        return "multi-head latent attention (MLA) caches one latent vector for all heads; that would need an attention op of its own";
    }
    if (hparams.router_layer >= 0) {
        return "the keys of its router layer choose the adapter of each token; without some of them others would be chosen";
    }
    if (hparams.use_alibi || hparams.f_max_alibi_bias > 0.0f) {
        return "ALiBi adds a bias by position; that would need the positions of all cells in the attention op";
    }
    if (model.arch == LLM_ARCH_GROK) {
        return "its logits are scaled inside the soft-cap, which the attention op does not do";
    }
    if (!has_full_attention(hparams)) {
        return "each layer that attends has a sliding window of fixed size, so that there is nothing to keep in a budget";
    }
    if (model.split_mode() == LLAMA_SPLIT_MODE_TENSOR) {
        return "its tensors are split over devices; split it by layers (split_mode layer)";
    }
    return "";
}

// the configuration of a context that is to have a retention memory
static const retain_config * config_of(const llama_memory_params & params) {
    // a context that drafts tokens for another one keeps a cache of its own
    return params.ctx_type == LLAMA_CONTEXT_TYPE_MTP ? nullptr : retain_config_pending();
}

void retain_check_model(const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams) {
    GGML_UNUSED(cparams);

    if (model.arch == LLM_ARCH_GEMMA4_ASSISTANT && retain_find_memory(params.mem_other)) {
        throw retain_error("the assistant reads its target's cache, which is one of fixed size; make the target's context without a budget");
    }
    if (!config_of(params)) {
        return;
    }
    const std::string reason = unsupported_reason(model);
    if (!reason.empty()) {
        throw retain_error(retain_format("%s models cannot run in a cache of fixed size: %s", model.arch_name().c_str(), reason.c_str()));
    }
}

// what both filters let through; the first may be empty
static llama_memory_i::layer_filter_cb both(const llama_memory_i::layer_filter_cb & a, const llama_memory_i::layer_filter_cb & b) {
    return [a, b](int32_t il) { return (!a || a(il)) && b(il); };
}

llama_memory_i * retain_create_memory(
        const llama_model                     & model,
        const llama_memory_params             & params,
        const llama_cparams                   & cparams,
        const llama_memory_i::layer_filter_cb & filter,
        const llama_memory_i::layer_reuse_cb  & reuse) {
    const retain_config * config = config_of(params);
    if (!config) {
        return nullptr;
    }
    const auto & hparams = model.hparams;
    if (hparams.swa_type == LLAMA_SWA_TYPE_NONE) {
        return new retain_memory(model, params, cparams, filter, *config);
    }
    retain_mixed_layers layers;
    layers.attn   = both(filter, [&hparams](int32_t il) { return !hparams.is_swa(il); });
    layers.window = both(filter, [&hparams](int32_t il) { return  hparams.is_swa(il); });
    layers.reuse  = reuse;
    return new retain_mixed(model, params, cparams, layers, *config);
}

llama_memory_i * retain_create_hybrid(
        const llama_model                     & model,
        const llama_memory_params             & params,
        const llama_cparams                   & cparams,
        const llama_memory_i::layer_filter_cb & filter_attn,
        const llama_memory_i::layer_filter_cb & filter_recr) {
    const retain_config * config = config_of(params);
    if (!config) {
        return nullptr;
    }
    const auto & hparams = model.hparams;

    const auto attends = [&hparams](int32_t il) { return il < (int32_t) hparams.n_layer() && !hparams.is_recr(il); };
    const auto recurs  = [&hparams](int32_t il) { return hparams.is_recr(il); };

    retain_mixed_layers layers;
    layers.attn = filter_attn ? filter_attn : attends;
    layers.recr = filter_recr ? filter_recr : recurs;
    return new retain_mixed(model, params, cparams, layers, *config);
}
