// retention-plan.h - which Metal kernels compute the two ops, and with how many threads
//
// Plain C, as it is read by ggml's Objective-C too. It is also what the tests run the kernels by on the CPU.

#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "ggml-backend.h"
#include "ggml.h"

#include "ggml-retention.h"

#include "retention-args.h"

// Not measured, as no Apple machine was at hand: about four threadgroups for each core of a large GPU, and at most 16
// parts, so that a part of a budget of 2,048 cells is longer than what merging costs.
#define RETENTION_METAL_THREADGROUPS 160
#define RETENTION_METAL_PARTS        16

#define RETENTION_METAL_SIMDGROUPS   4  // of a threadgroup of the decode kernel
#define RETENTION_METAL_ROWS_MAX     32 // of a tile of the prompt kernel
#define RETENTION_METAL_EMBD_MAX     256

struct retention_metal_plan {
    struct retention_attn_args args;

    bool    prompt;
    bool    f32;       // prompt: blocks of cells in f32 instead of f16
    int32_t n_heads;   // decode: query heads of a threadgroup
    int32_t n_v;       // decode: quadruples of V per lane; prompt: columns of 8x8 matrices
    int32_t n_threads; // of a threadgroup
    int32_t grid[3];   // threadgroups
    size_t  smem;      // bytes of a threadgroup's memory
    size_t  scratch;   // decode: bytes of partial results
};

static inline int32_t retention_metal_type(enum ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:  return RETENTION_F32;
        case GGML_TYPE_F16:  return RETENTION_F16;
        case GGML_TYPE_BF16: return RETENTION_BF16;
        case GGML_TYPE_Q8_0: return RETENTION_Q8_0;
        case GGML_TYPE_Q4_0: return RETENTION_Q4_0;
        default:             return -1;
    }
}

// the smallest of the sizes that kernels were compiled for that holds n
static inline int32_t retention_metal_size(const int32_t * sizes, int32_t n_sizes, int32_t n) {
    for (int32_t i = 0; i < n_sizes; ++i) {
        if (n <= sizes[i]) {
            return sizes[i];
        }
    }
    return -1;
}

// whether the kernels can compute the op
static inline bool retention_metal_computes(const struct ggml_tensor * op) {
    if (op->op == GGML_OP_RETENTION_GATE) {
        const enum ggml_type type = op->src[1]->type;
        const bool is_whole = op->src[4] != NULL; // there is a kernel for the last layer of a gate alone
        return !is_whole && (type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_Q8_0);
    }

    const struct ggml_tensor * k = op->src[1];
    const struct ggml_tensor * v = op->src[2];
    return retention_metal_type(k->type) >= 0 && retention_metal_type(v->type) >= 0 &&
        k->ne[0]%4 == 0 && v->ne[0]%4 == 0 && k->ne[0] <= RETENTION_METAL_EMBD_MAX && v->ne[0] <= RETENTION_METAL_EMBD_MAX;
}

// the same, and the pool does not lie in the host's memory: the scheduler would copy all of it for each layer
static inline bool retention_metal_supports(const struct ggml_tensor * op) {
    if (op->op == GGML_OP_RETENTION_ATTN) {
        const struct ggml_tensor  * k      = op->src[1];
        const ggml_backend_buffer_t buffer = k->view_src ? k->view_src->buffer : k->buffer;
        if ((buffer && ggml_backend_buffer_is_host(buffer)) || op->src[9]) { // recall is the CPU's alone
            return false;
        }
    }
    return retention_metal_computes(op);
}

// what computes an attention op that is supported
static inline struct retention_metal_plan retention_metal_plan_attn(const struct ggml_tensor * op) {
    const struct ggml_tensor * q     = op->src[0];
    const struct ggml_tensor * k     = op->src[1];
    const struct ggml_tensor * v     = op->src[2];
    const struct ggml_tensor * k_new = op->src[7];
    const struct ggml_tensor * v_new = op->src[8];

    struct ggml_retention_attn_params params;
    memcpy(&params, op->op_params, sizeof(params));

    struct retention_metal_plan plan;
    memset(&plan, 0, sizeof(plan));

    struct retention_attn_args * args = &plan.args;
    args->n_embd_k    = (int32_t) k->ne[0];
    args->n_embd_v    = (int32_t) v->ne[0];
    args->n_head      = (int32_t) q->ne[1];
    args->n_head_kv   = params.n_head_kv;
    args->n_tokens    = (int32_t) q->ne[2];
    args->page_size   = params.page_size;
    args->k_stride    = params.k_stride;
    args->v_stride    = params.v_stride;
    args->v_first     = params.v_first;
    args->list_first  = params.list_first;
    args->list_stride = params.list_stride;
    args->has_sinks   = op->src[6] != NULL;
    args->n_parts     = 1;
    args->scale       = params.scale;
    args->softcap     = params.softcap;
    args->nb_q1       = q->nb[1];
    args->nb_q2       = q->nb[2];
    args->nb_k1       = k->nb[1];
    args->nb_v1       = v->nb[1];
    args->nb_k_new1   = k_new ? k_new->nb[1] : 0;
    args->nb_k_new2   = k_new ? k_new->nb[2] : 0;
    args->nb_v_new1   = v_new ? v_new->nb[1] : 0;
    args->nb_v_new2   = v_new ? v_new->nb[2] : 0;
    args->nb_d1       = op->nb[1];
    args->nb_d2       = op->nb[2];

    const int32_t n_group = args->n_head/args->n_head_kv;
    const int32_t n_embd  = args->n_embd_k > args->n_embd_v ? args->n_embd_k : args->n_embd_v;

    // blocks of f32 cells are of f32, all others of f16; what a threadgroup holds must fit into the 32 KB that it has
    plan.f32 = k->type == GGML_TYPE_F32 || v->type == GGML_TYPE_F32;
    args->n_rows  = plan.f32 || n_embd > 128 ? RETENTION_METAL_ROWS_MAX/2 : RETENTION_METAL_ROWS_MAX;
    args->n_block = (plan.f32 ? 16 : 32)/(n_embd > 128 ? 2 : 1);

    plan.prompt = !params.few_tokens && n_group <= args->n_rows && n_group*args->n_tokens >= args->n_rows/2;
    if (plan.prompt) {
        static const int32_t sizes[] = { 8, 10, 12, 16, 32 };
        plan.n_v       = retention_metal_size(sizes, 5, (args->n_embd_v + 7)/8);
        plan.n_threads = args->n_rows/8*32;

        const int32_t tile_tokens = args->n_rows/n_group;
        plan.grid[0] = (args->n_tokens + tile_tokens - 1)/tile_tokens;
        plan.grid[1] = args->n_head_kv;
        plan.grid[2] = 1;

        const size_t n_k   = (args->n_embd_k + 7)/8*8;
        const size_t n_v   = 8*plan.n_v;
        const size_t n_row = n_k > n_v ? n_k : n_v;
        plan.smem = sizeof(float)*args->n_rows*(n_k + args->n_block + 8) + (plan.f32 ? 4 : 2)*args->n_block*n_row;
    } else {
        static const int32_t sizes[] = { 2, 4, 8 };
        plan.n_v       = retention_metal_size(sizes, 3, (args->n_embd_v + 31)/32);
        plan.n_heads   = n_group >= 3 ? 4 : n_group;
        plan.n_threads = RETENTION_METAL_SIMDGROUPS*32;

        const int32_t n_sub = (n_group + plan.n_heads - 1)/plan.n_heads;
        const int32_t parts = RETENTION_METAL_THREADGROUPS/(args->n_head_kv*n_sub*args->n_tokens);
        args->n_parts = parts < 1 ? 1 : parts > RETENTION_METAL_PARTS ? RETENTION_METAL_PARTS : parts;

        plan.grid[0] = args->n_parts;
        plan.grid[1] = args->n_head_kv*n_sub;
        plan.grid[2] = args->n_tokens;

        const size_t n_state = 2 + args->n_embd_v;
        const size_t queries = plan.n_heads*args->n_embd_k;
        const size_t states  = RETENTION_METAL_SIMDGROUPS*plan.n_heads*n_state;
        plan.smem    = sizeof(float)*(queries > states ? queries : states);
        plan.scratch = sizeof(float)*args->n_tokens*args->n_head*args->n_parts*n_state;
    }
    plan.smem = (plan.smem + 15)/16*16; // as Metal asks

    return plan;
}
