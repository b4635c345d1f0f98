#include "ggml-retention.h"

#include "ggml-impl.h"

#include <math.h>

struct ggml_tensor * ggml_retention_gate(
        struct ggml_context * ctx,
        struct ggml_tensor  * dst,
        struct ggml_tensor  * a,
        struct ggml_tensor  * w,
        struct ggml_tensor  * b,
        enum ggml_retention_gate_output output) {
    GGML_ASSERT(a->type == GGML_TYPE_F32 && b->type == GGML_TYPE_F32 && dst->type == GGML_TYPE_F32);
    GGML_ASSERT(w->type == GGML_TYPE_F32 || w->type == GGML_TYPE_F16 || w->type == GGML_TYPE_Q8_0);
    GGML_ASSERT(a->ne[0] == w->ne[0] && b->ne[0] == w->ne[1]);
    GGML_ASSERT(dst->ne[0] == w->ne[1] && dst->ne[1] == a->ne[1]);
    GGML_ASSERT(ggml_is_contiguous_rows(a) && ggml_is_contiguous(w) && ggml_is_contiguous(b));
    GGML_ASSERT(ggml_is_contiguous_rows(dst));

    struct ggml_tensor * result = ggml_view_tensor(ctx, dst);

    const struct ggml_retention_gate_params params = { output, 0, 0 };
    ggml_set_op_params(result, &params, sizeof(params));

    result->op     = GGML_OP_RETENTION_GATE;
    result->src[0] = a;
    result->src[1] = w;
    result->src[2] = b;
    result->src[3] = dst;

    return result;
}

struct ggml_tensor * ggml_retention_whole_gate(
        struct ggml_context * ctx,
        struct ggml_tensor  * dst,
        struct ggml_tensor  * h,
        struct ggml_tensor  * previous,
        const struct ggml_retention_gate_weights * weights,
        const struct ggml_retention_gate_params  * params) {
    GGML_ASSERT(h->type == GGML_TYPE_F32 && dst->type == GGML_TYPE_F32 && h->ne[1] == dst->ne[1]);
    GGML_ASSERT(weights->in_w->ne[0] == h->ne[0] && weights->score_w->ne[1] == dst->ne[0]);
    GGML_ASSERT(ggml_is_contiguous_rows(h) && ggml_is_contiguous_rows(dst));

    struct ggml_tensor * result = ggml_view_tensor(ctx, dst);

    ggml_set_op_params(result, params, sizeof(*params));

    result->op     = GGML_OP_RETENTION_GATE;
    result->src[0] = h;
    result->src[1] = weights->score_w;
    result->src[2] = weights->score_b;
    result->src[3] = dst;
    result->src[4] = weights->in_w;
    result->src[5] = weights->in_b;
    result->src[6] = weights->mid_w;
    result->src[7] = weights->mid_b;
    result->src[8] = previous;

    return result;
}

// whether x holds a row of the pool's tensor rows for each KV head and token, or is left out
static bool is_new(const struct ggml_tensor * x, const struct ggml_tensor * rows, const struct ggml_tensor * q,
        const struct ggml_retention_attn_params * params) {
    return !x || (x->type == GGML_TYPE_F32 && ggml_is_contiguous_rows(x) && x->ne[0] == rows->ne[0] &&
            x->ne[1] == params->n_head_kv && x->ne[2] == q->ne[2]);
}

struct ggml_tensor * ggml_retention_attn(
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
        const struct ggml_retention_attn_params * params) {
    GGML_ASSERT(q->type == GGML_TYPE_F32 && ggml_is_contiguous_rows(q));
    GGML_ASSERT(q->ne[0] == k->ne[0] && q->ne[3] == 1);
    GGML_ASSERT(pages->type == GGML_TYPE_I32 && cell_lists->type == GGML_TYPE_I32 && tokens->type == GGML_TYPE_I32);
    GGML_ASSERT(cell_lists->ne[0] == 2 && tokens->ne[0] == 3 && tokens->ne[1] == q->ne[2]);
    GGML_ASSERT(is_new(k_new, k, q, params) && is_new(v_new, v, q, params) && !k_new == !v_new);
    GGML_ASSERT(!sinks || (sinks->type == GGML_TYPE_F32 && sinks->ne[0] == q->ne[1]));
    GGML_ASSERT(params->n_head_kv > 0 && q->ne[1] % params->n_head_kv == 0);
    GGML_ASSERT(params->page_size > 0);

    const int64_t ne[4] = { v->ne[0], q->ne[1], q->ne[2], 1 };

    struct ggml_tensor * result = ggml_new_tensor(ctx, GGML_TYPE_F32, 3, ne);

    ggml_set_op_params(result, params, sizeof(*params));

    result->op     = GGML_OP_RETENTION_ATTN;
    result->src[0] = q;
    result->src[1] = k;
    result->src[2] = v;
    result->src[3] = pages;
    result->src[4] = cell_lists;
    result->src[5] = tokens;
    result->src[6] = sinks;
    result->src[7] = k_new;
    result->src[8] = v_new;

    return result;
}

size_t ggml_retention_archive_size(enum ggml_type type_k, int64_t n_embd_k, enum ggml_type type_v, int64_t n_embd_v, int64_t n_cells) {
    return n_cells*(ggml_row_size(type_k, n_embd_k) + ggml_row_size(type_v, n_embd_v) + sizeof(uint32_t));
}

void ggml_retention_attn_add_archive(
        struct ggml_tensor * attn,
        struct ggml_tensor * archive,
        int32_t              recall_max,
        int32_t              page_size,
        enum ggml_type       type_k,
        enum ggml_type       type_v,
        bool                 rotated,
        int32_t              archive_lists) {
    GGML_ASSERT(attn->op == GGML_OP_RETENTION_ATTN && archive->type == GGML_TYPE_I8 && ggml_is_contiguous(archive));
    GGML_ASSERT(recall_max > 0 && page_size > 0 && archive_lists > 0);
    GGML_ASSERT(2*archive_lists < attn->src[4]->ne[1]);

    struct ggml_retention_attn_params params;
    memcpy(&params, attn->op_params, sizeof(params));
    params.recall_max        = recall_max;
    params.archive_page_size = page_size;
    params.archive_type_k    = type_k;
    params.archive_type_v    = type_v;
    params.archive_rotated   = rotated;
    params.archive_lists     = archive_lists;
    ggml_set_op_params(attn, &params, sizeof(params));

    attn->src[9] = archive;
}

void ggml_retention_rotate(float * x, int64_t n) {
    const int64_t side = n & -n;
    for (int64_t step = 1; step < side; step *= 2) {
        for (int64_t i = 0; i < n; i += 2*step) {
            for (int64_t j = i; j < i + step; ++j) {
                const float a = x[j];
                const float b = x[j + step];
                x[j]        = a + b;
                x[j + step] = a - b;
            }
        }
    }
    const float scale = 1.0f/sqrtf((float) side);
    for (int64_t i = 0; i < n; ++i) {
        x[i] *= scale;
    }
}
