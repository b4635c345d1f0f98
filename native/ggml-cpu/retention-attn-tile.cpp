// retention-attn-tile.cpp - the op, its tiles and their running softmax

#include "retention-attn.h"
#include "retention-simd.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace retention {

// Most rows of a tile: the more, the less often a cell is unpacked for a prompt, and the fewer pieces of work there are. Not
// measured alone: 512 tokens with 2 query heads a KV head are 4 tiles for each KV head.
static constexpr int64_t TILE_ROWS = 256;

attn_op::attn_op(const ggml_tensor * dst) {
    memcpy(&p, dst->op_params, sizeof(p));

    q          = dst->src[0];
    k          = dst->src[1];
    v          = dst->src[2];
    k_new      = dst->src[7];
    v_new      = dst->src[8];
    pages      = (const int32_t *) dst->src[3]->data;
    cell_lists = (const int32_t *) dst->src[4]->data;
    tokens     = (const int32_t *) dst->src[5]->data;
    sinks      = dst->src[6] ? (const float *) dst->src[6]->data : nullptr;

    n_embd_k = k->ne[0];
    n_embd_v = v->ne[0];

    archive_k     = nullptr;
    archive_v     = nullptr;
    recall_counts = nullptr;
    if (const ggml_tensor * archive = dst->src[9]) {
        const size_t  row_k  = ggml_row_size(type_archive_k(), n_embd_k);
        const size_t  row_v  = ggml_row_size(type_archive_v(), n_embd_v);
        const int64_t n_rows = archive->ne[0]/(row_k + row_v + sizeof(uint32_t));

        archive_k     = (const char *) archive->data;
        archive_v     = archive_k + n_rows*row_k;
        recall_counts = (uint32_t *) ((char *) archive->data + n_rows*(row_k + row_v));
    }
    n_head   = q->ne[1];
    n_tokens = q->ne[2];
    n_group  = n_head/p.n_head_kv;

    tile_tokens = std::max<int64_t>(1, TILE_ROWS/n_group);
    acc_stride  = round_up(n_embd_v, 2*VF); // so that products need no tails
    q_scale     = p.softcap != 0.0f ? p.scale/p.softcap : p.scale;

    const bool quantized = ggml_is_quantized(k->type);
    q_type = quantized ? ggml_get_type_traits_cpu(k->type)->vec_dot_type : GGML_TYPE_F32;
    if (quantized && !ggml_get_type_traits(q_type)->to_float) {
        q_type = GGML_TYPE_Q8_0; // instead of q8_1 or q8_K, which ggml cannot widen again: 8 bits as well
    }
    q_round = quantized ? ggml_get_type_traits_cpu(q_type)->from_float : nullptr;
}

attn_tile::attn_tile(const attn_op & op, int64_t t0, int64_t n_t, int64_t head) :
        t0(t0), n_t(n_t), head(head), n_rows(n_t*op.n_group), tokens(op.tokens + N_TOKEN*t0) {
    const int32_t * cell_list = op.cell_lists + 2*(op.p.list_first + (int64_t) tokens[0]*op.p.list_stride + head);

    pages   = op.pages + cell_list[0];
    n_old   = cell_list[1];
    n_cells = n_old;
    for (int64_t t = 0; t < n_t; ++t) {
        n_cells = std::max(n_cells, visible(t));
    }
}

size_t attn_state::n_floats(const attn_op & op) {
    return round_up(op.rows_max(), 2*VF)*(op.acc_stride + 2);
}

attn_state::attn_state(const attn_op & op, float * base) {
    const int64_t rows = round_up(op.rows_max(), 2*VF);

    m   = base;
    l   = m + rows;
    acc = l + rows;
}

void attn_state::reset(const attn_op & op) {
    std::fill(m, l, -INFINITY);
    std::fill(l, acc, 0.0f);
    std::fill(acc, acc + op.rows_max()*op.acc_stride, 0.0f);
}

float attn_state::log_sum(int64_t r) const {
    return l[r] > 0.0f ? m[r] + logf(l[r]) : 0.0f;
}

attn_state attn_state::from(const attn_op & op, int64_t r) const {
    attn_state res = *this;
    res.m   += r;
    res.l   += r;
    res.acc += r*op.acc_stride;
    return res;
}

void merge_rows(const attn_op & op, attn_state & state, const attn_state & other, int64_t n_rows) {
    for (int64_t r = 0; r < n_rows; ++r) {
        if (other.m[r] == -INFINITY) {
            continue;
        }

        const float m = std::max(state.m[r], other.m[r]);
        const float a = expf(state.m[r] - m);
        const float b = expf(other.m[r] - m);

        state.m[r] = m;
        state.l[r] = state.l[r]*a + other.l[r]*b;

        float       * x = state.acc + r*op.acc_stride;
        const float * y = other.acc + r*op.acc_stride;
        for (int64_t i = 0; i < op.n_embd_v; ++i) {
            x[i] = x[i]*a + y[i]*b;
        }
    }
}

void load_query(const attn_op & op, const attn_tile & tile, int64_t r, char * rounded, float * dst) {
    const int64_t t = tile.t0 + r/op.n_group;
    const int64_t h = tile.head*op.n_group + r%op.n_group;

    const float * src = (const float *) ((const char *) op.q->data + h*op.q->nb[1] + t*op.q->nb[2]);
    if (op.q_round) {
        op.q_round(src, rounded, op.n_embd_k);
        ggml_get_type_traits(op.q_type)->to_float(rounded, dst, op.n_embd_k);
        src = dst;
    }
    for (int64_t i = 0; i < op.n_embd_k; ++i) {
        dst[i] = src[i]*op.q_scale;
    }
}

} // namespace retention
