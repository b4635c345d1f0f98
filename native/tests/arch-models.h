// arch-models.h - a random model of each architecture of llama.cpp, and of variants of some

#pragma once

#include "retain.h"

#include "upstream/random-models.h"

#include <map>
#include <set>
#include <string>
#include <vector>

// what is tried of one architecture
struct variant {
    llm_arch    arch;
    bool        moe;
    std::string name; // of the architecture, and what is special about this model
    void (*edit)(gguf_context * gguf, const std::string & arch); // changes upstream's metadata; null: leaves it
};

// upstream's model of the architecture; null when it has none that can be loaded
inline llama_model_ptr make_model(const variant & v) {
    static upstream::tensor_data_params data = { /*.seed =*/ 42, /*.stdev =*/ 0.1f };

    llama_model_params params = llama_model_default_params();
    params.progress_callback = [](float, void *) { return true; };
    params.use_extra_bufts   = false;

    const gguf_context_ptr gguf = upstream::get_gguf_ctx(v.arch, v.moe);
    if (v.edit) {
        v.edit(gguf.get(), llm_arch_name(v.arch));
    }
    retain_guard_aborts(true); // some of them lack what the architecture needs
    llama_model_ptr res(llama_model_init_from_user(gguf.get(), upstream::set_tensor_data, &data, params));
    retain_guard_aborts(false);
    return res;
}

inline void remove_window(gguf_context * gguf, const std::string & arch) {
    gguf_remove_key(gguf, (arch + ".attention.sliding_window").c_str());
}

// what upstream's models leave out

inline void complete_gemma4(gguf_context * gguf, const std::string & arch) {
    // layers 3 and 4 read the cells of the last layers before them with and without a window, 1 and 2
    const bool window[] = { true, true, false, true, false };
    gguf_set_arr_data(gguf, (arch + ".attention.sliding_window_pattern").c_str(), GGUF_TYPE_BOOL, window, 5);
    gguf_set_val_u32(gguf, (arch + ".attention.shared_kv_layers").c_str(), 2);
    gguf_set_val_u32(gguf, (arch + ".attention.key_length").c_str(),   128); // twice that of the windows
    gguf_set_val_u32(gguf, (arch + ".attention.value_length").c_str(), 128);
    gguf_set_val_u32(gguf, (arch + ".rope.dimension_count_swa").c_str(), 64);
}

inline void complete_plm(gguf_context * gguf, const std::string & arch) {
    gguf_set_val_u32(gguf, (arch + ".rope.dimension_count").c_str(), 64);
}

inline void complete_graniteswitch(gguf_context * gguf, const std::string & arch) {
    const int32_t token = 1;
    gguf_set_val_u32(gguf, (arch + ".adapter.count").c_str(), 1);
    gguf_set_val_u32(gguf, (arch + ".adapter.lora_rank").c_str(), 4);
    gguf_set_arr_data(gguf, (arch + ".adapter.token_ids_activate").c_str(),   GGUF_TYPE_INT32, &token, 1);
    gguf_set_arr_data(gguf, (arch + ".adapter.token_ids_substitute").c_str(), GGUF_TYPE_INT32, &token, 1);
}

inline void add_draft_head(gguf_context * gguf, const std::string & arch) {
    gguf_set_val_u32(gguf, (arch + ".block_count").c_str(), 3);
    gguf_set_val_u32(gguf, (arch + ".nextn_predict_layers").c_str(), 1);
}

inline void remove_latents(gguf_context * gguf, const std::string & arch) {
    gguf_remove_key(gguf, (arch + ".attention.key_length_mla").c_str());
    gguf_remove_key(gguf, (arch + ".attention.value_length_mla").c_str());
    gguf_set_val_u32(gguf, (arch + ".attention.key_length").c_str(),   192);
    gguf_set_val_u32(gguf, (arch + ".attention.value_length").c_str(), 128);
}

inline std::vector<variant> all_variants() {
    static const std::map<llm_arch, decltype(variant::edit)> completed = {
        { LLM_ARCH_GEMMA4,         complete_gemma4 },
        { LLM_ARCH_GRANITE_SWITCH, complete_graniteswitch },
        { LLM_ARCH_PLM,            complete_plm },
    };
    static const std::set<llm_arch> may_slide = {
        LLM_ARCH_EXAONE4, LLM_ARCH_GEMMA3, LLM_ARCH_LAGUNA, LLM_ARCH_LFM2, LLM_ARCH_MELLUM, LLM_ARCH_OLMO2,
        LLM_ARCH_PLAMO3, LLM_ARCH_SMALLTHINKER,
    };

    std::vector<variant> res;
    for (const llm_arch arch : llm_arch_all()) {
        if (arch == LLM_ARCH_UNKNOWN || arch == LLM_ARCH_CLIP || arch == LLM_ARCH_GPTJ) {
            continue; // which llama.cpp does not load as language models
        }
        const std::string name      = llm_arch_name(arch);
        const bool        mandatory = upstream::moe_mandatory(arch);
        for (const bool moe : { false, true }) {
            if (moe ? upstream::moe_implemented(arch) : !mandatory) {
                const auto it = completed.find(arch);
                res.push_back({ arch, moe, name + (moe && !mandatory ? ", experts" : ""), it != completed.end() ? it->second : nullptr });
            }
        }
        if (may_slide.count(arch)) {
            res.push_back({ arch, mandatory, name + ", without a window", remove_window });
        }
        if (arch == LLM_ARCH_GLM4_MOE) {
            res.push_back({ arch, mandatory, name + ", with a draft head", add_draft_head });
        }
        if (arch == LLM_ARCH_DEEPSEEK2) {
            res.push_back({ arch, mandatory, name + ", old files without MLA", remove_latents });
        }
    }
    return res;
}
