// retain-graph.h - the graph inputs of retention attention

#pragma once

#include "retain-memory.h"

#include "llama-graph.h"

// Page tables and cell list lengths, of a shape that depends only on the memory and the number of tokens,
// so that graphs are reused.
class retain_graph_input : public llm_graph_input_attn_kv {
public:
    retain_graph_input(const llama_hparams & hparams, const llama_cparams & cparams, const retain_context * mctx);

    void build(ggml_context * ctx, const llama_ubatch & ubatch);

    void set_input(const llama_ubatch * ubatch) override;
    bool can_reuse(const llm_graph_params & params) override;

    retain_memory & mem() const { return retain->get_mem(); }

    // add the gate of a layer; h is what its q, k and v projections read
    void build_gate(const llm_graph_context & llm, const retain_layer & layer, ggml_tensor * h);

    bool has_gate(const retain_layer & layer) const { return gated[layer.il]; }

    // Where q, k and v are not projected by llama.cpp's common function, the gate reads the tensor named attn_norm: note it
    // when it is made, and add the gate. False when there was none.
    void note_norm(const retain_layer & layer, ggml_tensor * cur) { norms[layer.il] = cur; }
    bool build_gate_of_norm(const llm_graph_context & llm, const retain_layer & layer);

    // hand out the queries of query_tokens, under a policy that needs them
    void build_queries(const llm_graph_context & llm, const retain_layer & layer, ggml_tensor * q, float kq_scale);

    // store k and v, unless they are null, and attend to the layer's cells: [n_embd_v*n_head, n_tokens]
    ggml_tensor * build_attn(
            const llm_graph_context & llm,
            const retain_layer      & layer,
            ggml_tensor             * q,
            ggml_tensor             * k,
            ggml_tensor             * v,
            ggml_tensor             * sinks,
            float                     kq_scale);

private:
    // pages, cell_lists and tokens of ggml_retention_attn: views of places
    struct place_views {
        ggml_tensor * pages      = nullptr;
        ggml_tensor * cell_lists = nullptr;
        ggml_tensor * tokens     = nullptr;
    };

    place_views view_places(ggml_context * ctx, ggml_tensor * of) const;

    // those in the memory of a pool
    const place_views & places_for(const llm_graph_context & llm, const retain_layer & layer);

    int64_t n_table() const; // rows of cell_lists

    void set_cells  (const llama_ubatch & ubatch);
    void set_tokens (const llama_ubatch & ubatch);
    void set_queries(const llama_ubatch & ubatch);

    // whether each sequence of the ubatch has but few tokens in it, which asks for another kernel on a GPU
    static bool has_few_tokens(const llama_ubatch & ubatch) { return ubatch.n_tokens <= FEW_TOKENS*ubatch.n_seqs_unq; }

    // a guess: a page is read once per token then, from the L2 cache after the first
    static constexpr uint32_t FEW_TOKENS = 4;

    const retain_context * retain;
    bool few_tokens = false;

    // one tensor, since a device copies each input for itself and waits for the copy
    ggml_tensor * places   = nullptr; // i32 [3*n_tokens + 2*n_table() + n_pages]
    int64_t       n_tokens = 0;
    place_views   views;      // on the host
    std::vector<place_views> pool_views; // of each pool, once a layer of it has asked

    ggml_tensor * query_tokens = nullptr; // i32 [n_query_rows], null when no queries are kept

    // with more tokens each layer's gate is computed by itself; where the border should be was not measured
    static constexpr int64_t MAX_CHAINED_TOKENS = 8;

    ggml_tensor * build_chained_gate(const llm_graph_context & llm, const retain_layer & layer, ggml_tensor * h, ggml_tensor * dst);

    std::vector<ggml_tensor *> gate_chains; // of each pool the last gate so far

    std::vector<bool>          gated;      // [n_layer] whether the graph has the layer's gate
    std::vector<ggml_tensor *> norms;      // [n_layer] null where none was noted
    std::vector<ggml_tensor *> query_rows; // [n_layer] as in retain_memory

    std::vector<float> rot_k; // the matrices that self_k_rot and self_v_rot are set to
    std::vector<float> rot_v;
};

// the orthonormal Hadamard matrix [n, n], its own inverse; n a power of two
std::vector<float> retain_hadamard(int64_t n);
