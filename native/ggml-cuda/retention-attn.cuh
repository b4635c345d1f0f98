// retention-attn.cuh - what the kernels of retention attention share
//
//     retention-attn.cu          the op: which kernels run, with which arguments
//     retention-attn-decode.cuh  few tokens: all query heads of a KV head at once, cells split over the blocks
//     retention-attn-prompt.cuh  many tokens: blocks of query rows against tiles of cells in shared memory

#pragma once

#include "retention-cells.cuh"

namespace retention {

constexpr int N_WARPS = 4; // of a block

struct attn_args {
    pool_view     pool;
    const float * q; // f32 [n_embd, n_head, n_tokens]
    int64_t       q_head; // floats from head to head
    int64_t       q_token;
    const float * k_new; // null: nothing to store
    int64_t       k_new_head;
    int64_t       k_new_token;
    const float * v_new;
    int64_t       v_new_head;
    int64_t       v_new_token;
    const float * sinks; // or null
    float       * dst;   // [n_embd, n_head, n_tokens], contiguous

    int32_t n_head;
    int32_t n_head_kv;
    int32_t n_tokens;
    int32_t n_group; // query heads per KV head

    // The query heads of a KV head are taken n_rows at a time, in n_slices. A list is a token's view of a cell list for one
    // slice: number (token*n_head_kv + KV head)*n_slices + slice.
    int32_t n_rows;
    int32_t n_slices;

    float q_scale;   // of the logits before the soft-cap's tanh
    float cap;       // of the tanh, 0: none; both times log2(e), as the softmax is computed with powers of 2

    // partial results of pieces of lists: per piece and row its values [n_embd], maximum and sum
    float  * part_acc;
    float2 * part_sum;
    int32_t * n_written; // of each list the pieces that are there; 0 before and after the kernel
    int32_t  n_blocks;   // that lists are split over
};

static __device__ __forceinline__ int n_lists(const attn_args & args) {
    return args.n_tokens*args.n_head_kv*args.n_slices;
}

static __device__ __forceinline__ int list_token(const attn_args & args, int list) {
    return list/args.n_slices/args.n_head_kv;
}

static __device__ __forceinline__ int list_head_kv(const attn_args & args, int list) {
    return list/args.n_slices%args.n_head_kv;
}

// query head of a row of a list; at least n_head when the last slice has no such row
static __device__ __forceinline__ int list_head(const attn_args & args, int list, int row) {
    const int in_group = list%args.n_slices*args.n_rows + row;
    return in_group < args.n_group ? list_head_kv(args, list)*args.n_group + in_group : args.n_head;
}

// a logit for the softmax, in powers of 2
static __device__ __forceinline__ float soft_cap(const attn_args & args, float x) {
    // tanh by its definition: the approximate instruction is off by 5e-4
    return args.cap == 0.0f ? x : args.cap*(1.0f - 2.0f/(1.0f + exp2_fast(x*2.885390082f)));
}

// write the K row or the V row of a token and KV head to its place
template <ggml_type T, int D>
static __device__ __forceinline__ void store_half_cell(const attn_args & args, int token, int head_kv, bool is_v) {
    const auto    list = view_list(args.pool, token, head_kv);
    const int     cell = list.n_old + args.pool.tokens[3*token + 2];
    const int32_t page = page_of(args.pool, list, cell);
    if (is_v) {
        store_row<T, D>(v_row_of(args.pool, page, cell), args.v_new + head_kv*args.v_new_head + token*args.v_new_token);
    } else {
        store_row<T, D>(k_row_of(args.pool, page, cell), args.k_new + head_kv*args.k_new_head + token*args.k_new_token);
    }
}

} // namespace retention
