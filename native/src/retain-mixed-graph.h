// retain-mixed-graph.h - the graph inputs of a mixed memory: those of its retention memory beside those of the other parts

#pragma once

#include "retain-graph.h"
#include "retain-mixed.h"

// windows and full attention
class retain_iswa_input : public llm_graph_input_attn_kv_iswa {
public:
    retain_iswa_input(
            ggml_context             * ctx,
            const llama_ubatch       & ubatch,
            const llama_hparams      & hparams,
            const llama_cparams      & cparams,
            const retain_mixed_parts & parts);

    void set_input(const llama_ubatch * ubatch) override;
    bool can_reuse(const llm_graph_params & params) override;

    retain_graph_input & get_full() { return full; }

    // the layer in the pool whose cells layer il reads, its own or another one's; null where there is none
    const retain_layer * find_layer(int32_t il) const { return full.mem().find_layer(mixed.source_of(il)); }

private:
    const retain_mixed & mixed;
    retain_graph_input   full;

    const llama_kv_cache_context * window;
};

// recurrent layers and full attention
class retain_hybrid_input : public llm_graph_input_mem_hybrid {
public:
    retain_hybrid_input(
            ggml_context             * ctx,
            const llama_ubatch       & ubatch,
            const llama_hparams      & hparams,
            const llama_cparams      & cparams,
            const retain_mixed_parts & parts);

    void set_input(const llama_ubatch * ubatch) override;
    bool can_reuse(const llm_graph_params & params) override;
};

// the input of retention attention among those of a graph, or inside one of them; null where there is none
retain_graph_input * retain_find_input(const llm_graph_result & res);
