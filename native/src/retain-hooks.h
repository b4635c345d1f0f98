// retain-hooks.h - the functions that the patches make llama.cpp call

#pragma once

#include "retain-error.h"

#include "llama-graph.h"
#include "llama-memory.h"

#include <memory>

struct llama_cparams;
struct llama_model;

// llama_model::create_memory

// Throws when retention was asked for and this model cannot have it, before anything is allocated for it.
void retain_check_model(const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams);

// the memory of a model whose layers all attend, some in sliding windows, or null for a stock context
//   filter: the layers of this context; may be empty
//   reuse:  the layer whose cells a layer reads, or -1; may be empty
llama_memory_i * retain_create_memory(
        const llama_model                     & model,
        const llama_memory_params             & params,
        const llama_cparams                   & cparams,
        const llama_memory_i::layer_filter_cb & filter,
        const llama_memory_i::layer_reuse_cb  & reuse);

// the memory of a model with recurrent layers, or null for a stock context
//   filter_attn, filter_recr: which layers attend and which are recurrent; empty: as the model's hyper-parameters say
llama_memory_i * retain_create_hybrid(
        const llama_model                     & model,
        const llama_memory_params             & params,
        const llama_cparams                   & cparams,
        const llama_memory_i::layer_filter_cb & filter_attn,
        const llama_memory_i::layer_filter_cb & filter_recr);

// llm_graph_context

// the inputs of retention attention, or null for a stock context
std::unique_ptr<llm_graph_input_attn_kv> retain_build_attn_inp(
        ggml_context                 * ctx,
        const llama_ubatch           & ubatch,
        const llama_hparams          & hparams,
        const llama_cparams          & cparams,
        const llama_kv_cache_context * mctx);

std::unique_ptr<llm_graph_input_attn_kv_iswa> retain_build_iswa_inp  (const llm_graph_context & llm);
std::unique_ptr<llm_graph_input_mem_hybrid>   retain_build_hybrid_inp(const llm_graph_context & llm);

// add the gate of layer il to the graph; h is what the q, k and v projections read
void retain_build_gate(const llm_graph_context & llm, ggml_tensor * h, int il);

// a tensor got its name: note it when a gate may have to read it
void retain_note_norm(const llm_graph_context & llm, ggml_tensor * cur, const char * name, int il);

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

// the same of models with sliding windows, and multiply with wo; null also for the layers that have a window
ggml_tensor * retain_build_attn_iswa(
        const llm_graph_context      & llm,
        llm_graph_input_attn_kv_iswa * inp,
        ggml_tensor                  * wo,
        ggml_tensor                  * wo_b,
        ggml_tensor                  * wo_s,
        ggml_tensor                  * q,
        ggml_tensor                  * k,
        ggml_tensor                  * v,
        ggml_tensor                  * kq_b,
        ggml_tensor                  * sinks,
        float                          kq_scale,
        int                            il);

// llama_context::decode

// whether the call comes from an eviction hook of this memory, which may not decode; sets the last error
bool retain_is_busy(llama_memory_i * mem);

// the graph of a ubatch was submitted: its log betas are asked for
void retain_finish_ubatch(llama_memory_context_i * mctx, ggml_backend_sched_t sched);
