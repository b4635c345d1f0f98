// retain-graph.h - the graph inputs of retention attention

#pragma once

#include "retain-memory.h"

#include "llama-graph.h"

// Page tables, cell list lengths and rows to write, of a shape that depends only on the memory and the number of tokens,
// so that graphs are reused.
class retain_graph_input : public llm_graph_input_attn_kv {
public:
    retain_graph_input(const llama_hparams & hparams, const llama_cparams & cparams, const retain_context * mctx);

    void build(ggml_context * ctx, int64_t n_tokens);

    void set_input(const llama_ubatch * ubatch) override;
    bool can_reuse(const llm_graph_params & params) override;

    retain_memory & mem() const { return retain->get_mem(); }

    // add the gate of a layer; h is what its q, k and v projections read
    void build_gate(const llm_graph_context & llm, const retain_layer & layer, ggml_tensor * h);

    bool has_gate(const retain_layer & layer) const { return gated[layer.il]; }

    // hand out the queries of query_tokens, under a policy that needs them
    void build_queries(const llm_graph_context & llm, const retain_layer & layer, ggml_tensor * q, float kq_scale);

    // store k and v and attend to the layer's cells: [n_embd_v*n_head, n_tokens]
    ggml_tensor * build_attn(
            const llm_graph_context & llm,
            const retain_layer      & layer,
            ggml_tensor             * q,
            ggml_tensor             * k,
            ggml_tensor             * v,
            ggml_tensor             * sinks,
            float                     kq_scale) const;

private:
    // write cur, the layer's new K or V, to those rows of the pool's tensor dst
    void build_store(
            const llm_graph_context & llm,
            const retain_layer      & layer,
            ggml_tensor             * rows,
            ggml_tensor             * cur,
            ggml_tensor             * dst) const;

    void set_cells  (const llama_ubatch & ubatch);
    void set_tokens (const llama_ubatch & ubatch);
    void set_queries(const llama_ubatch & ubatch);

    const retain_context * retain;

    ggml_tensor * pages        = nullptr; // i32 [n_pages]
    ggml_tensor * cell_lists   = nullptr; // i32 [2, n_seq*n_cell_lists]
    ggml_tensor * tokens       = nullptr; // i32 [2, n_tokens]
    ggml_tensor * k_rows       = nullptr; // i64 [n_cell_lists*n_tokens], layer after layer [n_head_kv, n_tokens]
    ggml_tensor * v_rows       = nullptr; // the same
    ggml_tensor * query_tokens = nullptr; // i32 [n_query_rows], null when no queries are kept

    std::vector<bool>          gated;      // [n_layer] whether the graph has the layer's gate
    std::vector<ggml_tensor *> query_rows; // [n_layer] as in retain_memory

    std::vector<float> rot_k; // the matrices that self_k_rot and self_v_rot are set to
    std::vector<float> rot_v;
};

// the orthonormal Hadamard matrix [n, n], its own inverse; n a power of two
std::vector<float> retain_hadamard(int64_t n);
