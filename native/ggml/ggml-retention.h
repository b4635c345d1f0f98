// ggml-retention.h - the two ops of the retention cache
//
// The pool is one allocation of pages. A page holds page_size cells of one cell list (one sequence, layer and KV head):
// page_size K rows and, from v_first rows on, page_size V rows, so that a page is one long run of memory. K and V are
// two tensors over the same bytes: row r of cell i of page p is p*k_stride + i in k, and p*v_stride + v_first + i in v.

#pragma once

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// op_params of GGML_OP_RETENTION_ATTN
struct ggml_retention_attn_params {
    float   scale;         // of the logits, before the soft-cap
    float   softcap;       // 0: none; else logit = softcap*tanh(logit/softcap)
    int32_t n_head_kv;
    int32_t page_size;     // cells per page
    int32_t k_stride;      // K rows from one page to the next
    int32_t v_stride;      // V rows from one page to the next
    int32_t v_first;       // V rows before the first V row of a page
    int32_t list_first;    // index of (sequence 0, this layer, head 0) in cell lists
    int32_t list_stride;   // cell lists from one sequence to the next
    int32_t few_tokens;    // a hint: each sequence has but few tokens in this ubatch, as when text is generated

    // recall, set by ggml_retention_attn_add_archive()
    int32_t recall_max;        // most cells that a token recalls from a cell list; 0: none
    int32_t archive_page_size; // cells per page
    int32_t archive_type_k;    // ggml_type
    int32_t archive_type_v;
    int32_t archive_rotated;   // rows are written by ggml_retention_rotate() first
    int32_t archive_lists;     // index in cell_lists of the archive's first list
};

// what a gate gives
enum ggml_retention_gate_output {
    GGML_RETENTION_GATE_LOG_BETA = 0, // logsigmoid(w*a + b): scores that decay with age
    GGML_RETENTION_GATE_SCORE    = 1, // w*a + b: the score itself
};

// The last layer of a gate, in fp32 whatever the type of w; it is the only one of a linear gate, where n_ff is n_embd.
//   dst f32 [n_head_kv, n_tokens]  written; the result is a view of it; rows may be further apart than n_head_kv
//   a   f32 [n_ff, n_tokens]       rows may be further apart than n_ff; n_ff need not be a multiple of anything but
//                                  the block size of w
//   w   f32, f16 or q8_0 [n_ff, n_head_kv]
//   b   f32 [n_head_kv]
GGML_API struct ggml_tensor * ggml_retention_gate(
        struct ggml_context * ctx,
        struct ggml_tensor  * dst,
        struct ggml_tensor  * a,
        struct ggml_tensor  * w,
        struct ggml_tensor  * b,
        enum ggml_retention_gate_output output);

enum ggml_retention_activation {
    GGML_RETENTION_SILU     = 0,
    GGML_RETENTION_GELU     = 1, // by tanh
    GGML_RETENTION_GELU_ERF = 2,
    GGML_RETENTION_RELU     = 3,
};

// op_params of GGML_OP_RETENTION_GATE
struct ggml_retention_gate_params {
    int32_t output;     // enum ggml_retention_gate_output
    int32_t activation; // of whole gates: enum ggml_retention_activation
    int32_t is_last;    // of whole gates: compute this one and all before it
};

// A whole gate in three kernels, where a graph of products, biases and functions would take ten. With few tokens the number
// of kernels is what costs time: then the gates of a model's layers form a chain and are computed together at its last one. Until
// then h must keep its data, and every gate's dst is written. All layers have the same types and sizes but for n_head_kv. Not
// on the CPU.
//   dst      f32 [n_head_kv, n_tokens]  written; the result is a view of it
//   h        f32 [n_embd, n_tokens]
//   weights  in_w [n_embd, n_ff], in_b [n_ff], mid_w [n_ff, n_ff] and mid_b [n_ff] or NULL, score_w [n_ff, n_head_kv],
//            score_b [n_head_kv]; w f32, f16 or q8_0, b f32
//   previous the gate before it in the chain, or NULL
struct ggml_retention_gate_weights {
    struct ggml_tensor * in_w;
    struct ggml_tensor * in_b;
    struct ggml_tensor * mid_w;
    struct ggml_tensor * mid_b;
    struct ggml_tensor * score_w;
    struct ggml_tensor * score_b;
};

GGML_API struct ggml_tensor * ggml_retention_whole_gate(
        struct ggml_context * ctx,
        struct ggml_tensor  * dst,
        struct ggml_tensor  * h,
        struct ggml_tensor  * previous,
        const struct ggml_retention_gate_weights * weights,
        const struct ggml_retention_gate_params  * params);

// Stores the new cells, then softmax attention of q over the cells of each KV head's cell list: a token sees all the cells
// that the cell list had before this ubatch and the first n_vis that its sequence adds in it (the causal rule; they are
// the last cells).
//   q          f32 [n_embd_head_k, n_head, n_tokens]
//   k          any type with rows of n_embd_head_k; k_new is written to it
//   v          any type with rows of n_embd_head_v; v_new is written to it
//   k_new      f32 [n_embd_head_k, n_head_kv, n_tokens] or NULL: the tokens' cells are there already
//   v_new      f32 [n_embd_head_v, n_head_kv, n_tokens] or NULL, as k_new
//   pages      i32 [n_pages]          page numbers, cell list after cell list
//   cell_lists i32 [2, n_cell_lists]  {index of the first page in pages, cells before this ubatch}
//   tokens     i32 [3, n_tokens]      {sequence, n_vis, tokens of its sequence before it in this ubatch}
//   sinks      f32 [n_head] or NULL   logits that take part in the softmax and add nothing
// returns f32 [n_embd_head_v, n_head, n_tokens]
GGML_API struct ggml_tensor * ggml_retention_attn(
        struct ggml_context * ctx,
        struct ggml_tensor  * q,
        struct ggml_tensor  * k,
        struct ggml_tensor  * v,
        struct ggml_tensor  * k_new,
        struct ggml_tensor  * v_new,
        struct ggml_tensor  * pages,
        struct ggml_tensor  * cell_lists,
        struct ggml_tensor  * tokens,
        struct ggml_tensor  * sinks,
        const struct ggml_retention_attn_params * params);

// Recall: each token also attends to cells of an archive, on the CPU alone. Of each cell list's archived cells it takes those that
// its query heads give the largest weights, measured against the cells that the cell list holds: the score of an archived
// cell is the largest of logit - log(sum of exp(logits of the cells held)) over the query heads of the KV head; of equal
// scores the cell that comes first. The softmax then runs over the cells held and those. For the scores of q4_0 and q8_0 keys alone,
// each query is rounded to whole numbers from -127 to 127 times one scale.
//
// The archive is an i8 tensor of three areas, each with a row per cell: K rows, V rows, and uint32 numbers of tokens that
// recalled the cell, which the op counts up. Cell i of page p is row p*archive_page_size + i of each. The op's cell_lists go on
// with the archive's lists from archive_lists on, in the same order; their pages are in the op's pages; and from
// 2*archive_lists on there is for each sequence {most cells that a token recalls from a cell list, 0}.
GGML_API void ggml_retention_attn_add_archive(
        struct ggml_tensor * attn,
        struct ggml_tensor * archive,
        int32_t              recall_max,
        int32_t              page_size,
        enum ggml_type       type_k,
        enum ggml_type       type_v,
        bool                 rotated,
        int32_t              archive_lists);

// Turn a row by a Hadamard matrix, its own inverse, in blocks of the largest power of two that divides n: a row with a few large
// values becomes one with many middling ones, of which 4 bits keep more. Products of two rows that are both turned stay the same.
GGML_API void ggml_retention_rotate(float * x, int64_t n);

// bytes of an archive of so many cells
GGML_API size_t ggml_retention_archive_size(enum ggml_type type_k, int64_t n_embd_k, enum ggml_type type_v, int64_t n_embd_v, int64_t n_cells);

// Copies of cells within a pool: rows of its two tensors. No row may be both read and written.
struct ggml_retention_copy {
    int32_t k_src;
    int32_t k_dst;
    int32_t v_src;
    int32_t v_dst;
};

// A backend whose buffers are not host memory offers this through its registry's get_proc_address, under the name
// below: one step on the device, done when it returns.
typedef void (*ggml_retention_copy_cells_t)(
        struct ggml_tensor               * k,
        struct ggml_tensor               * v,
        const struct ggml_retention_copy * copies,
        int64_t                            n);

#define GGML_RETENTION_COPY_CELLS "ggml_retention_copy_cells"

// Ask the system to back host memory, not yet touched, with huge pages: the pool is walked in runs of some 64 KB in
// random order, and with pages of 4 KB every run begins with misses of the TLB.
GGML_API void ggml_retention_use_huge_pages(void * data, size_t size);

#ifdef __cplusplus
}
#endif
