// retain-create.cpp - which models get a retention memory, and why others do not

#include "retain-error.h"
#include "retain-hooks.h"
#include "retain-memory.h"

#include "llama-model.h"

// one line that names what about the model's attention the pool cannot hold, or "" when it can
static std::string unsupported_reason(const llama_model & model, const llama_memory_i * mem) {
    const auto & hparams = model.hparams;

    if (!mem && (llama_model_has_encoder(&model) || !hparams.causal_attn)) {
        return "it is an encoder and keeps no KV cache";
    }
    if (llama_model_has_encoder(&model)) {
        return "its decoder attends to an encoder";
    }
    if (llama_model_is_recurrent(&model)) {
        return "it is recurrent and keeps a state instead of a KV cache";
    }
    if (llama_model_is_hybrid(&model)) {
        return "it mixes recurrent and attention layers";
    }
    if (hparams.is_mla()) {
        return "multi-head latent attention (MLA) caches no keys and values per head";
    }
    if (hparams.swa_type != LLAMA_SWA_TYPE_NONE) {
        return "it uses sliding-window attention (iSWA)";
    }
    if (hparams.use_alibi || hparams.f_max_alibi_bias > 0.0f) {
        return "ALiBi adds a bias by position, which the pool does not keep on the device";
    }
    if (model.arch == LLM_ARCH_GROK) {
        return "its logits are scaled inside the soft-cap";
    }
    return mem ? "its attention uses a cache of another kind" : "";
}

static void refuse(const llama_model & model, const std::string & reason) {
    throw retain_error(retain_format("%s models cannot run in a cache of fixed size: %s", model.arch_name().c_str(), reason.c_str()));
}

llama_memory_i * retain_create_memory(
        const llama_model                     & model,
        const llama_memory_params             & params,
        const llama_cparams                   & cparams,
        const llama_memory_i::layer_filter_cb & filter) {
    const retain_config * config = retain_config_pending();
    if (!config) {
        return nullptr;
    }

    const std::string reason = unsupported_reason(model, nullptr);
    if (!reason.empty()) {
        refuse(model, reason);
    }
    return new retain_memory(model, params, cparams, filter, *config);
}

llama_memory_i * retain_check_memory(const llama_model & model, llama_memory_i * mem) {
    if (retain_config_pending() && !dynamic_cast<retain_memory *>(mem)) {
        const std::string reason = unsupported_reason(model, mem);
        delete mem;
        refuse(model, reason.empty() ? "it keeps no KV cache" : reason);
    }
    return mem;
}
