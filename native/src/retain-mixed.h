// retain-mixed.h - the memory of models that mix full attention with sliding windows or with recurrent layers
//
// The layers with full attention have their cells in a retention memory, under its budget. The others keep what upstream
// gives them: sliding windows a small llama_kv_cache, recurrent layers their state. That part has a fixed size, whatever
// the length of the text, and computes what stock llama.cpp computes. (In the models of llama.cpp that have both windows and
// recurrent layers, no layer attends to everything.)
//
//     retain-mixed.cpp         making it; a batch on its way through it
//     retain-mixed-seq.cpp     clear, remove, copy, keep, shift
//     retain-mixed-state.cpp   save and restore
//     retain-mixed-graph.h     its graph inputs
//
// llama.cpp's graphs cast the context of a batch to the class that they know, and so there is one context for each kind.

#pragma once

#include "retain-memory.h"

#include "llama-kv-cache-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-recurrent.h"

// which layers are kept where
struct retain_mixed_layers {
    llama_memory_i::layer_filter_cb attn;   // full attention
    llama_memory_i::layer_filter_cb window; // sliding windows; empty: there are none
    llama_memory_i::layer_filter_cb recr;   // recurrent; empty: there are none
    llama_memory_i::layer_reuse_cb  reuse;  // the layer whose cells a layer reads, or -1; may be empty
};

class retain_mixed : public llama_memory_i {
public:
    retain_mixed(
            const llama_model         & model,
            const llama_memory_params & params,
            const llama_cparams       & cparams,
            const retain_mixed_layers & layers,
            const retain_config       & config);

    // llama_memory_i

    llama_memory_context_ptr init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) override;
    llama_memory_context_ptr init_full() override;
    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize) override;

    bool get_can_shift() const override;

    void clear(bool data) override;

    bool seq_rm  (llama_seq_id seq_id,                              llama_pos p0, llama_pos p1) override;
    void seq_cp  (llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override;
    void seq_keep(llama_seq_id seq_id) override;
    void seq_add (llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) override;
    void seq_div (llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) override;

    llama_pos seq_pos_min(llama_seq_id seq_id) const override;
    llama_pos seq_pos_max(llama_seq_id seq_id) const override;

    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const override;

    void state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const override;
    void state_read (llama_io_read_i  & io, llama_seq_id seq_id, llama_state_seq_flags flags) override;

    retain_memory       & get_attn()       { return attn; }
    const retain_memory & get_attn() const { return attn; }

    llama_kv_cache         * get_window() const { return window.get(); }
    llama_memory_recurrent * get_recr()   const { return recr.get(); }

    // the layer in whose cells layer il stores and looks: itself, or the one that it shares them with
    int32_t source_of(int32_t il) const { return source[il]; }

    // the smallest p such that removing [p, inf) gives exactly the state after p tokens
    llama_pos rollback_limit(llama_seq_id seq_id) const;

    // bytes of windows and states, which do not grow
    size_t bytes_fixed() const;

private:
    // the smallest p from which on the window's cells are those that a text of p tokens needs
    llama_pos window_limit(llama_seq_id seq_id) const;

    // the same of the recurrent state
    llama_pos recr_limit(llama_seq_id seq_id) const;

    // whether [p0, p1) can go in all parts; sets the last error
    bool can_remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    bool remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1);

    // ubatches as upstream's memory of this kind cuts them; empty when they cannot be
    std::vector<llama_ubatch> split(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) const;

    // the context of this kind of memory
    llama_memory_context_ptr make_context(
            std::unique_ptr<retain_context> attn, llama_memory_context_ptr window, llama_memory_context_ptr recr) const;

    const bool     unified;
    const uint32_t n_swa;

    retain_memory                           attn;
    // one of the two, the other is null
    std::unique_ptr<llama_kv_cache>         window;
    std::unique_ptr<llama_memory_recurrent> recr;

    std::vector<int32_t> source; // [n_layer]
    std::vector<int32_t> n_last; // [n_seq] tokens of each sequence's last ubatch: snapshots of states do not go further back
};

// the parts of a context, which move together
class retain_mixed_parts {
public:
    // window, recr: null where the memory has none, or they have no part in it
    retain_mixed_parts(
            const retain_mixed            & mem,
            std::unique_ptr<retain_context> attn,
            llama_memory_context_ptr        window,
            llama_memory_context_ptr        recr);

    retain_mixed_parts(retain_mixed_parts &&) = default;

    virtual ~retain_mixed_parts() = default;

    const retain_mixed                   & get_mixed()  const { return mem; }
    retain_context                       & get_attn()   const { return *attn; }
    const llama_kv_cache_context         * get_window() const; // null without
    const llama_memory_recurrent_context * get_recr()   const; // null without

    // the window as the attention of models with sliding windows asks for it
    const llama_kv_cache_iswa_context * get_view() const { return view.get(); }

    llama_memory_status status() const;

protected:
    bool next_all();
    bool apply_all();

private:
    std::vector<llama_memory_context_i *> all() const;

    class window_view : public llama_kv_cache_iswa_context {
    public:
        explicit window_view(const llama_kv_cache_context * window) :
            llama_kv_cache_iswa_context(LLAMA_MEMORY_STATUS_SUCCESS), window(window) {}

        const llama_kv_cache_context * get_swa() const override { return window; }

    private:
        const llama_kv_cache_context * window;
    };

    const retain_mixed & mem;

    std::unique_ptr<retain_context> attn;
    llama_memory_context_ptr        window;
    llama_memory_context_ptr        recr;
    std::unique_ptr<window_view>    view;
};

// BASE: the context that upstream has for this kind of memory; of its functions only those that are virtual may be called
template <typename BASE>
class retain_mixed_context : public BASE, public retain_mixed_parts {
public:
    explicit retain_mixed_context(retain_mixed_parts && parts) :
        BASE(parts.status()), retain_mixed_parts(std::move(parts)) {}

    bool next()  override { return next_all(); }
    bool apply() override { return apply_all(); }

    const llama_ubatch & get_ubatch() const override { return get_attn().get_ubatch(); }
};

using retain_iswa_context = retain_mixed_context<llama_kv_cache_iswa_context>;

class retain_hybrid_context : public retain_mixed_context<llama_memory_hybrid_context> {
public:
    using retain_mixed_context::retain_mixed_context;

    const llama_memory_recurrent_context * get_recr() const override { return retain_mixed_parts::get_recr(); }
};

// the retention memory in a memory, and the context of one in a context; null where there is none
retain_memory        * retain_find_memory (llama_memory_i * mem);
const retain_context * retain_find_context(const llama_memory_context_i * mctx);
