// retain.h - a KV cache of fixed size for llama.cpp: the C API
//
// The cache is one pool of cells. A cell is the K row and the V row of one (layer, KV head, position). Every sequence
// has a budget of M cells per (layer, KV head) on average; when it is exceeded, the cells with the lowest retention score
// go, wherever in the model they are. Layers with a sliding window, and recurrent layers, keep what llama.cpp gives them
// beside the pool. llama.h is untouched: a context made while retention parameters are set for the
// thread uses the pool, any other context is stock llama.cpp.
//
//     struct retain_params rp = retain_default_params();
//     rp.budget = 2048;
//     rp.gates  = "model.gates.gguf";
//     struct llama_context * ctx = retain_init_from_model(model, cparams, &rp);
//
// Functions that can fail return false, a negative number or NULL, and retain_last_error() says why in one line.
// Every function that takes a context fails on one without a retention memory, and on NULL. A context is used by one
// thread at a time, as in llama.h.
//
// llama_memory_seq_rm() answers false, and changes nothing, where a sequence would be cut back further than to
// retain_rollback_limit(); removing all of a sequence always works. docs/c-api.md has what else differs.

#pragma once

#include "llama.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RETAIN_API_VERSION 6

enum retain_prefill {
    RETAIN_PREFILL_BOUNDED = 0, // evict between the ubatches of the prompt: memory is bounded by the budget
    RETAIN_PREFILL_FULL    = 1, // hold a whole prompt (retain_hold), evict once before the token after it: memory is bounded by n_ctx
    RETAIN_PREFILL_EVEN    = 2, // bounded, and a ubatch ends where an eviction is due, whatever else is in a batch (with a buffer of a ubatch or more)
};

// which cells compete for a place
enum retain_scope {
    RETAIN_SCOPE_GLOBAL = 0, // all cells of the model
    RETAIN_SCOPE_LAYER  = 1, // those of one layer: each layer keeps M cells for each of its KV heads
    RETAIN_SCOPE_HEAD   = 2, // those of one (layer, KV head): each keeps M
};

struct retain_params {
    int32_t budget;       // M: cells per (layer, KV head) on average, per sequence; > 0
    int32_t buffer;       // tokens that may come in over the budget before an eviction runs; >= 0
    int32_t lookahead;    // N of the lookahead score; >= 1
    int32_t n_sink;       // the first tokens are kept; >= 0
    int32_t n_recent;     // the last tokens are kept; >= 0
    int32_t min_per_head; // cells that every (layer, KV head) keeps; >= 0
    int32_t page_size;    // cells per page, a power of two from 8 to 256; 0: chosen from the budget
    enum retain_prefill prefill;
    enum retain_scope   scope;
    uint32_t seed;        // of the policies that draw at random
    const char * policy;  // a name of retain_policy_name(); NULL: "gate" with gates, "window" without
    const char * gates;   // path of a gate sidecar (GGUF), or NULL

    // Recall: evicted cells go to an archive in host memory, and each token also attends to those of them that its queries
    // ask for. Of a budget M, R = floor(recall*M) cells per (layer, KV head) are for these, and M - R stay resident.
    float          recall;        // 0 to 0.9
    enum ggml_type archive_type;  // of archived K and V: GGML_TYPE_Q4_0 or GGML_TYPE_Q8_0; cells that are quantised keep their type
    int64_t        archive_bytes; // most bytes of archived K and V, all sequences; 0: no archive and no recall
    const char   * archive_file;  // path of a file to map them from, or NULL: they are in memory
};

struct retain_stats {
    int64_t n_seen;         // tokens seen, all sequences; a sequence that began at position p counts p tokens before it
    int64_t n_cells;        // cells held now, all sequences
    int64_t n_cells_peak;   // most cells ever held at once
    int64_t n_cells_max;    // cells the pool promises to hold: n_seq_max*L*H*(M + max(buffer, n_ubatch))
    int64_t n_evicted;      // cells evicted since creation
    int64_t n_evictions;    // evictions run since creation
    int64_t n_moved;        // cells moved into holes since creation
    int64_t n_cell_lists;      // L*H: (layer, KV head) pairs
    int32_t budget;         // M of sequence 0
    int32_t page_size;      // cells per page
    int64_t n_pages;        // pages of the pool
    int64_t n_pages_used;
    int64_t bytes_pool;     // bytes allocated for K and V
    int64_t bytes_cell;     // bytes of one cell: K row + V row
    int64_t bytes_used;     // bytes of the pages in use
    int64_t bytes_full;     // bytes that a full cache of the n_seen tokens would take, in the layers that the pool holds
    int64_t bytes_fixed;    // bytes of sliding windows and recurrent states beside the pool; they do not grow
    double  t_select_s;     // seconds in scoring the cells and selecting
    double  t_move_s;       // seconds in moving cells
    double  t_input_s;      // seconds in filling page tables and other graph inputs
    int64_t n_archived;     // cells in the archive now, all sequences
    int64_t n_archived_max; // cells that the archive has room for, all sequences
    int64_t n_dropped;      // cells that the full archive let go since creation
    int64_t bytes_archive;  // bytes of K and V that the archive may take
    int64_t bytes_archived; // bytes of the archive's pages in use
    int32_t recall;         // R of sequence 0: most cells recalled per (layer, KV head) for a token
    int32_t residents;      // cells kept per (layer, KV head) on average in sequence 0: its budget less R
    double  t_archive_s;    // seconds in archiving, and in letting go of the archive's lowest scores
};

// The eviction hook: scores for the n_cells cells of a sequence, the highest are kept. It may look at the context but not
// change it (such calls are refused), and must not free it. The arrays are gone when it returns.
// All arrays have n_cells entries: layer index, KV head, position, log beta (0 without gates) and age in tokens
// (n_seen + 1 - ordinal, see retain_get_cells()). Write the scores (finite, any sign) and return true; false leaves the policy's own.
typedef bool (*retain_score_callback)(
        void          * user_data,
        llama_seq_id    seq_id,
        int64_t         n_seen,
        int64_t         n_cells,
        const int32_t * layer,
        const int32_t * head,
        const int32_t * pos,
        const float   * log_beta,
        const int32_t * age,
        float         * scores);

// version of this API, to compare with RETAIN_API_VERSION
LLAMA_API int32_t      retain_api_version(void);

// the llama-cpp-python release whose llama.cpp this library was built from
LLAMA_API const char * retain_upstream_version(void);

// why the last call in this thread failed, llama_decode, the llama_memory functions and those of states included; "" when
// it did not
LLAMA_API const char * retain_last_error(void);

// forget it, before a call of llama.h that can fail for reasons of its own
LLAMA_API void         retain_clear_error(void);

LLAMA_API struct retain_params retain_default_params(void);

// Retention parameters of every context that this thread makes from now on; NULL: stock contexts again, and the last
// error stays. The strings are copied. Contexts already made do not change.
LLAMA_API bool retain_set_params(const struct retain_params * params);

// llama_init_from_model() with retention parameters. NULL on failure.
LLAMA_API struct llama_context * retain_init_from_model(
        struct llama_model         * model,
        struct llama_context_params  cparams,
        const struct retain_params * params);

// llama_init_from_model() for a stock context, whatever retention parameters the thread has set: a draft model, say
LLAMA_API struct llama_context * retain_init_stock_from_model(struct llama_model * model, struct llama_context_params cparams);

// While a thread guards, an assertion of llama.cpp that fails in it makes the call fail and does not end the process.
// For llama_model_load_from_file() and llama_init_from_model() alone, which can fail; what the call had allocated by then
// may stay allocated. In other threads and calls a failed assertion ends the process as ever, after one line on stderr.
LLAMA_API void retain_guard_aborts(bool guard);

// Check a gate sidecar against a model without making a context: names, shapes, types, fingerprint.
LLAMA_API bool retain_gates_check(const struct llama_model * model, const char * path);

// whether the context has a retention memory
LLAMA_API bool retain_is_enabled(const struct llama_context * ctx);

// whether gates are loaded: log beta means something
LLAMA_API bool retain_has_gates(const struct llama_context * ctx);

// whether gates are loaded whose scores do not decay: where this API says log beta, they give the score itself, of any sign
LLAMA_API bool retain_has_static_gates(const struct llama_context * ctx);

LLAMA_API bool retain_get_stats(const struct llama_context * ctx, struct retain_stats * stats);

// The devices in whose memory the cells are, as "CPU", "CUDA0" or "CUDA0, CPU"; NULL without a retention memory. Lives as long as
// the context.
LLAMA_API const char * retain_cells_device(const struct llama_context * ctx);

// Layers whose cells are in the pool, in order: returns their number, writes up to n_max layer indices to layers (may be NULL)
LLAMA_API int32_t retain_layers(const struct llama_context * ctx, int32_t * layers, int32_t n_max);

// KV heads of layer il, or -1
LLAMA_API int32_t retain_n_head_kv(const struct llama_context * ctx, int32_t il);

// Cells of the cell list (seq_id, il, head): returns their number n, writes min(n, n_max) positions, ordinals and log
// betas in the order of the cell list (not sorted). A cell's ordinal says how many tokens of the sequence came before its
// own: its position for text, not for pictures, whose tokens share positions. pos, ordinal and log_beta may be NULL.
LLAMA_API int64_t retain_get_cells(
        const struct llama_context * ctx,
        llama_seq_id                 seq_id,
        int32_t                      il,
        int32_t                      head,
        int32_t                    * pos,
        int32_t                    * ordinal,
        float                      * log_beta,
        int64_t                      n_max);

// The same of the archived cells of (seq_id, il, head); n_recalled: for how many tokens a cell was recalled, since it was archived
// or the full archive was last thinned. It may be NULL like the others.
LLAMA_API int64_t retain_get_archived(
        const struct llama_context * ctx,
        llama_seq_id                 seq_id,
        int32_t                      il,
        int32_t                      head,
        int32_t                    * pos,
        int32_t                    * ordinal,
        float                      * log_beta,
        uint32_t                   * n_recalled,
        int64_t                      n_max);

// cells of one sequence, over all layers and heads
LLAMA_API int64_t retain_n_cells(const struct llama_context * ctx, llama_seq_id seq_id);

// Keep the cells of positions [p0, p1) of a sequence until unpinned. Fails when the pinned positions together with
// sinks and recent window would fill the budget.
LLAMA_API bool retain_pin  (struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1);

// Take back every pin that overlaps [p0, p1); p1 < 0: to the end
LLAMA_API bool retain_unpin(struct llama_context * ctx, llama_seq_id seq_id, llama_pos p0, llama_pos p1);

// Change the budget of a sequence, up to the budget the context was made with; evicts at once when it shrinks.
LLAMA_API bool    retain_set_budget(struct llama_context * ctx, llama_seq_id seq_id, int32_t budget);
LLAMA_API int32_t retain_get_budget(const struct llama_context * ctx, llama_seq_id seq_id);

// Hold evictions back while a prompt is read (RETAIN_PREFILL_FULL only). After the release one runs when the next token comes.
LLAMA_API bool retain_hold(struct llama_context * ctx, llama_seq_id seq_id, bool hold);

// The smallest p such that removing [p, inf) gives exactly the state that the cache had after p tokens
// (0 while nothing was evicted). llama_memory_seq_rm() refuses a smaller one but 0, and llama_memory_seq_pos_min() is
// this less one.
LLAMA_API llama_pos retain_rollback_limit(const struct llama_context * ctx, llama_seq_id seq_id);

// The most tokens to decode next in one batch where some may be taken back, as drafts are: up to there no eviction runs
// but the one that is due already, each of them can be taken back exactly, and evictions fall where they fall when tokens
// are decoded one by one. 0: nothing fits, under the policy "none"; -1: an error.
LLAMA_API int64_t retain_draft_limit(const struct llama_context * ctx, llama_seq_id seq_id);

// policies by index; NULL past the last
LLAMA_API const char * retain_policy_name(int32_t i);
LLAMA_API const char * retain_policy_description(int32_t i);

// Switch the policy; the cells keep their log beta. Fails for "gate" without gates. "snapkv" looks at the queries of
// the last tokens, and knows those of tokens decoded under it.
LLAMA_API bool         retain_set_policy(struct llama_context * ctx, const char * name);
LLAMA_API const char * retain_get_policy(const struct llama_context * ctx);

// Install the eviction hook, or take it out with NULL.
LLAMA_API bool retain_set_callback(struct llama_context * ctx, retain_score_callback callback, void * user_data);

#ifdef __cplusplus
}
#endif
