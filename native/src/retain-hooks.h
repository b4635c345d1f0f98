// retain-hooks.h - the functions that the patches make llama.cpp call

#pragma once

#include "retain-error.h"

#include "llama-graph.h"
#include "llama-memory.h"

#include <memory>

struct llama_model;

// llama_model::create_memory

// the memory of a model with plain attention, or null for a stock context; throws when this model cannot have one
llama_memory_i * retain_create_memory(
        const llama_model                     & model,
        const llama_memory_params             & params,
        const llama_cparams                   & cparams,
        const llama_memory_i::layer_filter_cb & filter);

// mem as it is, or throws (and frees mem) when retention was asked for and the model got another kind of memory
llama_memory_i * retain_check_memory(const llama_model & model, llama_memory_i * mem);

// llm_graph_context

// the inputs of retention attention, or null for a stock context
std::unique_ptr<llm_graph_input_attn_kv> retain_build_attn_inp(
        ggml_context                 * ctx,
        const llama_ubatch           & ubatch,
        const llama_hparams          & hparams,
        const llama_cparams          & cparams,
        const llama_kv_cache_context * mctx);

// add the gate of layer il to the graph; h is what the q, k and v projections read
void retain_build_gate(const llm_graph_context & llm, ggml_tensor * h, int il);

// store k and v and attend to the cells: [n_embd_head_v*n_head, n_tokens], or null for a stock context
ggml_tensor * retain_build_attn(
        const llm_graph_context & llm,
        llm_graph_input_attn_kv * inp,
        ggml_tensor             * q,
        ggml_tensor             * k,
        ggml_tensor             * v,
        ggml_tensor             * kq_b,
        ggml_tensor             * sinks,
        float                     kq_scale,
        int                       il);

// llama_context::decode

// whether the call comes from an eviction hook of this memory, which may not decode; sets the last error
bool retain_is_busy(const llama_memory_i * mem);

// the graph of a ubatch was submitted: take in its log betas and evict
void retain_finish_ubatch(llama_memory_context_i * mctx, ggml_backend_sched_t sched);
