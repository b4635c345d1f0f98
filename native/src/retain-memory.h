// retain-memory.h - the KV cache of fixed size, as a llama.cpp memory
//
// Every sequence keeps budget*n_cell_lists cells. Cells of all the layers that share a pool compete; with one backend
// that is the whole model. With several backends each pool keeps its own layers' share, since memory cannot move.
//
//     retain-memory.cpp    making it: layers, pools, sequences
//     retain-batch.cpp     a batch on its way through it; retain_context
//     retain-score.cpp     scores of the cells, and which are raised above them
//     retain-recall.cpp    what evictions do with the archive
//     retain-evict.cpp     evictions; pins, budget, policy and statistics, which retain.h offers
//     retain-seq.cpp       clear, remove, copy, keep, and the positions of a shift
//     retain-shift.cpp     the keys of a shift
//     retain-queries.cpp   the queries of the last tokens
//     retain-state.cpp     save and restore
//
// What it is made of has files of its own: retain-cells (cell lists, sequences), retain-pool (pages), retain-split (where a
// batch is cut), retain-select (which cells stay), retain-threads (loops in several threads), retain-policy and policies/
// (scores), retain-gate* (log betas and static scores). Around it are retain-create (which models get one), retain-mixed (windows
// and recurrent layers beside it), retain-graph (attention over it), retain-params (its configuration) and retain-api (retain.h).
// retain-checksum reads the bytes of a state.

#pragma once

#include "retain-archive.h"
#include "retain-cells.h"
#include "retain-gates.h"
#include "retain-params.h"
#include "retain-policy.h"
#include "retain-pool.h"
#include "retain-select.h"

#include "llama-kv-cache.h"
#include "llama-memory.h"

#include <memory>
#include <vector>

// one layer with a KV cache
struct retain_layer {
    int32_t il;
    int32_t n_head;
    int32_t n_head_kv;
    int32_t n_embd_k;     // of a head
    int32_t n_embd_v;
    int32_t pool;
    int32_t list_first;   // index of its first cell list
    int32_t head_first;   // heads of the layers before it in the same pool
    int64_t query_first;  // floats of the layers before it in a token's queries
};

class retain_memory : public llama_memory_i {
public:
    retain_memory(
            const llama_model         & model,
            const llama_memory_params & params,
            const llama_cparams       & cparams,
            const layer_filter_cb     & filter,
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

    // A batch: whether its ubatches can come in, one after the other; sets the last error. Then for each of them: evictions,
    // room and places for its cells; the graph runs; its log betas come in. Cells appended whose graph failed are taken back
    // by seq_rm().

    bool can_append(const std::vector<llama_ubatch> & ubatches) const;
    bool append_ubatch(const llama_ubatch & ubatch);
    void finish_ubatch(const llama_ubatch & ubatch, ggml_backend_sched_t sched);

    // Log betas of the last ubatch come into its cells: before anything reads them, or changes which cells are the last ones.
    // Until then a device computes while the host goes on.
    void settle() const;

    // the queries of the last tokens, under a policy that needs them; see retain-queries.cpp

    bool                 keeps_queries() const { return policy->needs_queries; }
    int64_t              n_query_rows(int64_t n_tokens) const;            // most tokens of a ubatch that are kept
    std::vector<int32_t> query_tokens(const llama_ubatch & ubatch) const; // the last of each sequence, in order

    // of the graph that runs: per layer of the model the queries of query_tokens(), f32 [n_embd_k*n_head, n_query_rows()]
    void set_query_rows(const std::vector<ggml_tensor *> & rows) { query_rows = rows; }

    // per sequence its tokens in the ubatch, in order
    std::vector<std::vector<int32_t>> tokens_by_seq(const llama_ubatch & ubatch) const;

    // call fn(layer, KV head, cell list) for the cell lists of a sequence, const or not, in order of layer and head
    template <typename SEQ, typename F>
    void for_each_cell_list(SEQ & seq, F fn) const {
        for (const auto & layer : layers) {
            for (int32_t h = 0; h < layer.n_head_kv; ++h) {
                fn(layer, h, seq.cell_lists[layer.list_first + h]);
            }
        }
    }

    // the same for those in one pool
    template <typename SEQ, typename F>
    void for_each_cell_list(SEQ & seq, size_t pool, F fn) const {
        for_each_cell_list(seq, [&](const retain_layer & layer, int32_t h, auto & cell_list) {
            if (layer.pool == (int32_t) pool) {
                fn(layer, h, cell_list);
            }
        });
    }

    // the cell lists of a pool as pairs of layer and KV head, in order
    std::vector<std::pair<const retain_layer *, int32_t>> heads_of(size_t pool) const;

    const llama_model               & get_model()  const { return model; }
    const std::vector<retain_layer> & get_layers() const { return layers; }
    const retain_policy             & get_policy() const { return *policy; }
    int32_t                           get_buffer() const { return config.buffer; }

    bool cuts_where_due() const { return config.prefill_even && config.buffer >= (int32_t) n_ubatch; }
    const retain_gates              * get_gates()  const { return gates.get(); } // null without a sidecar

    const retain_archive * get_archive() const { return archive.get(); } // null: nothing is recalled

    // most cells of a cell list that a token of a sequence recalls
    int32_t n_recalled(const retain_seq & seq) const { return config.recalled(seq.budget); }
    int32_t n_recalled_max() const { return config.recalled(config.budget); }

    int64_t n_archived(const retain_seq & seq) const;

    bool has_static_gates() const { return gates && gates->is_static(); }

    const retain_layer * find_layer(int32_t il) const;
    const retain_pool  & pool_of(const retain_layer & layer) const { return *pools[layer.pool]; }

    int64_t n_pages() const; // of all pools

    const std::string & get_devices() const { return devices; } // in whose memory the pools are

    int32_t get_n_cell_lists() const { return n_cell_lists; } // of a sequence
    int64_t get_n_query()      const { return n_query; }      // floats of a token's queries

    // sides of the Hadamard matrices that stock attention turns quantised K and V with; 0: none
    int64_t get_n_rot_k() const { return n_rot_k; }
    int64_t get_n_rot_v() const { return n_rot_v; }

    size_t             n_seqs()                     const { return seqs.size(); }
    bool               has_seq(llama_seq_id seq_id) const { return seq_id >= 0 && seq_id < (llama_seq_id) seqs.size(); }
    const retain_seq & get_seq(llama_seq_id seq_id) const { return seqs[seq_id]; }

    // a sequence that holds nothing
    retain_seq make_seq(llama_seq_id seq_id) const;

    // what retain.h offers

    // whether the eviction hook is running: until it returns nothing may change; sets the last error
    bool is_busy() const;

    void      pin  (llama_seq_id seq_id, llama_pos p0, llama_pos p1); // throws retain_error
    void      unpin(llama_seq_id seq_id, llama_pos p0, llama_pos p1);
    void      set_budget(llama_seq_id seq_id, int32_t budget);        // throws retain_error
    void      set_hold(llama_seq_id seq_id, bool hold);               // throws retain_error
    void      set_policy(const char * name);                          // throws retain_error
    void      set_callback(retain_score_callback callback, void * user_data);
    llama_pos rollback_limit(const retain_seq & seq) const;           // seq_rm() to here and beyond is exact
    int64_t   n_until_eviction(const retain_seq & seq) const;         // tokens that may come before the next one runs
    int64_t   draft_limit   (const retain_seq & seq) const;
    int64_t   n_cells(const retain_seq & seq) const;
    void      get_stats(retain_stats & res) const;

    // the lowest position that any cell list holds; -1 when there is none
    llama_pos first_position(const retain_seq & seq) const;

    // whether a position between the first and the last of the sequence is missing in some cell list
    bool has_holes(const retain_seq & seq) const;

    // whether the cells that are left without positions [p0, p1) are those that there would be; sets the last error
    bool can_remove(const retain_seq & seq, llama_pos p0, llama_pos p1) const;

    // whether cells wait for shift_keys()
    bool has_shift() const;

    // Move the keys of all cells to their shifted positions; see retain-shift.cpp. If it fails, the sequences that were shifted
    // hold nothing, and the next batch is refused.
    bool shift_keys(llama_context * lctx);

    // count the time that filling graph inputs took
    void add_input_time(double seconds) { t_input_s += seconds; }

private:
    void take_queries(const llama_ubatch & ubatch);

    void init_layers(const layer_filter_cb & filter);
    void init_pools(const llama_memory_params & params, const llama_cparams & cparams);

    void init_archive(const llama_memory_params & params, const llama_cparams & cparams);

    void clear_seq(retain_seq & seq);
    void run_copies(); // those that cell lists have queued in their pools

    int64_t n_cell_lists_of(size_t pool) const;
    int64_t n_cells_of(const retain_seq & seq, size_t pool) const;

    // cells per cell list, on average, in the pool where that is most, rounded up: each pool has room for its own cell lists
    int64_t n_cells_per_list(const retain_seq & seq) const;

    // whether n more tokens can come into the sequence, if need be after an eviction; sets the last error
    bool can_append(const retain_seq & seq, int64_t n_tokens) const;

    // the ordinal of the next token of a sequence, which comes at this position
    int64_t first_ordinal(const retain_seq & seq, llama_pos pos) const;

    // keep budget*n_cell_lists cells of the sequence
    void evict(retain_seq & seq);
    void evict_pool(retain_seq & seq, size_t pool);
    void score_pool(retain_seq & seq, size_t pool);
    // scores of a list's cells in a pool, by the policy
    void score_list(
            const retain_seq & seq, const retain_layer & layer, int32_t head, const retain_cell_list & cell_list, const retain_pool & pool,
            float * dst) const;
    void score_by_hook(const retain_seq & seq, size_t pool);
    int64_t n_recent_of(const retain_seq & seq) const;
    void select_pool(const retain_seq & seq, size_t pool); // by the scope
    void drop_cells(retain_seq & seq, size_t pool);        // that were not selected

    // move the cells of a pool that were not selected to the archive
    void archive_cells(retain_seq & seq, size_t pool);

    // make room for n more archived cells: let those with the lowest scores go
    void thin_archive(retain_seq & seq, int64_t n);

    // keep the archived cells for which keep(number of the cell list, cell) is true
    template <typename F>
    void keep_archived(retain_seq & seq, F keep) {
        for (size_t l = 0; l < seq.archived.size(); ++l) {
            seq.archived[l].retain_if(archive->get_pool(), [&](int64_t i) { return keep(l, i); });
        }
    }

    // whether an eviction is due when the next tokens come: some pool holds budget + buffer cells of each of its cell lists,
    // on average; after a prompt that was held, more than the budget
    bool is_due(const retain_seq & seq) const;

    int64_t n_over(const retain_seq & seq, size_t pool) const;

    // whether cells are evicted at all
    bool evicts() const { return policy->score != nullptr || callback != nullptr; }

    // take back a ubatch whose graph failed
    void drop_open(retain_seq & seq);

    // keep the cells whose position is not in [p0, p1)
    void remove_range(retain_seq & seq, llama_pos p0, llama_pos p1);

    // whether a budget has room for the tokens of a sequence that these pins and the options protect; throws retain_error
    void check_protected(const retain_seq & seq, const retain_ranges & pins, int32_t budget) const;

    int64_t n_cells_all() const;

    const llama_model & model;

    retain_config config; // as it was asked for, with what was left open filled in

    const uint32_t n_ubatch;
    const uint32_t n_ctx_seq;
    const int64_t  n_max_per_list; // cells per cell list on average that the pools have room for, per sequence

    const retain_policy         * policy = nullptr;
    std::unique_ptr<retain_gates> gates;

    std::vector<retain_layer>                 layers;
    std::vector<std::unique_ptr<retain_pool>> pools;
    std::unique_ptr<retain_archive>           archive;
    std::string                               devices;
    std::vector<retain_seq>                   seqs;

    int32_t n_cell_lists = 0;
    int64_t n_query      = 0;
    int64_t n_rot_k      = 0;
    int64_t n_rot_v      = 0;

    std::vector<ggml_tensor *> query_rows;

    // per sequence the tokens of a ubatch whose log betas are still to come into its cells; empty: none
    mutable std::vector<std::vector<int32_t>> unsettled;
    int64_t n_unsettled = 0; // tokens of the ubatch

    mutable std::string shift_error; // of a shift that failed; the next batch tells it

    retain_score_callback callback      = nullptr;
    void                * callback_data = nullptr;
    bool                  in_hook       = false;

    retain_threads     threads; // of evictions
    retain_select      select;
    std::vector<float> scores;

    int64_t n_evicted    = 0;
    int64_t n_evictions  = 0;
    int64_t n_moved      = 0;
    int64_t n_cells_peak = 0;
    double  t_select_s   = 0.0;
    double  t_move_s     = 0.0;
    double  t_input_s    = 0.0;
    int64_t n_dropped    = 0;
    double  t_archive_s  = 0.0;
};

// one batch on its way through the memory
//
// It is a llama_kv_cache_context only in type, because the graph inputs of llama.cpp hold one; none of the functions
// that would touch a llama_kv_cache is called on it.
class retain_context : public llama_kv_cache_context {
public:
    explicit retain_context(llama_memory_status status);                                // error, or nothing to update
    explicit retain_context(retain_memory * mem);                                       // worst case, for reservation
    retain_context(retain_memory * mem, llama_context * lctx);                          // pending shifts
    retain_context(retain_memory * mem, std::vector<llama_ubatch> ubatches);            // a batch

    bool next()  override;
    bool apply() override;

    const llama_ubatch & get_ubatch() const override;

    void finish(ggml_backend_sched_t sched) const;

    retain_memory & get_mem() const { return *mem; }

private:
    retain_memory * mem  = nullptr; // null: an error, or nothing to update
    llama_context * lctx = nullptr;

    std::vector<llama_ubatch> ubatches;
    size_t i_cur = 0;
};
