// retain-gate-forward.cpp - gates in the graph
//
// Fast KVzip's (arXiv 2601.17668): a small query for each query head and a small key for each KV head, both RMS-normed, of
// d numbers each. A cell's score is the share of attention that its key gets beside S learned base keys, averaged over the
// G queries of its KV head:
//
//     q_g = norm(Wq*h + bq)   k = norm(Wk*h)
//     s   = mean over g of 1/(1 + sum over j of exp(q_g.base_j/sqrt(d) - q_g.k/sqrt(d) - b_g))
//
// which is what a softmax gives the key's logit among those of the base keys.

#include "retain-gates.h"

#include "ggml-retention.h"

#include <cmath>

static constexpr float NORM_EPS = 1e-6f; // of the norms that Fast KVzip's gates are trained with

ggml_tensor * retain_gates::build_dense(ggml_context * ctx, ggml_tensor * w, ggml_tensor * b, ggml_tensor * x) const {
    x = ggml_add(ctx, ggml_mul_mat(ctx, w, x), b);
    switch (header.activation) {
        case retain_activation::silu:     return ggml_silu(ctx, x);
        case retain_activation::gelu:     return ggml_gelu(ctx, x);
        case retain_activation::gelu_erf: return ggml_gelu_erf(ctx, x);
        case retain_activation::relu:     return ggml_relu(ctx, x);
    }
    GGML_ABORT("unknown activation");
}

ggml_tensor * retain_gates::build_fast_kvzip(ggml_context * ctx, const retain_gate_layer & l, ggml_tensor * h, int64_t n_head) const {
    const int64_t n_key    = header.n_key;
    const int64_t n_base   = header.n_base;
    const int64_t n_group  = header.n_group;
    const int64_t n_tokens = h->ne[1];
    const float   scale    = 1.0f/sqrtf((float) n_key);

    ggml_tensor * q = ggml_add(ctx, ggml_mul_mat(ctx, l.q_w, h), l.q_b);
    q = ggml_reshape_4d(ctx, q, n_key, n_group, n_head, n_tokens);
    q = ggml_mul(ctx, ggml_rms_norm(ctx, q, NORM_EPS), l.q_norm);

    ggml_tensor * k = ggml_reshape_4d(ctx, ggml_mul_mat(ctx, l.k_w, h), n_key, 1, n_head, n_tokens);
    k = ggml_mul(ctx, ggml_rms_norm(ctx, k, NORM_EPS), l.k_norm);

    ggml_tensor * base = ggml_reshape_3d(ctx, l.base,    n_key, n_base, n_head);
    ggml_tensor * b    = ggml_reshape_3d(ctx, l.score_b, 1, n_group, n_head);

    ggml_tensor * own    = ggml_add(ctx, ggml_scale(ctx, ggml_mul_mat(ctx, k, q), scale), b); // [1, n_group, n_head, n_tokens]
    ggml_tensor * others = ggml_scale(ctx, ggml_mul_mat(ctx, base, q), scale);                // [n_base, n_group, n_head, n_tokens]

    ggml_tensor * share = ggml_soft_max(ctx, ggml_concat(ctx, own, others, 0));
    share = ggml_view_4d(ctx, share, 1, n_group, n_head, n_tokens, share->nb[1], share->nb[2], share->nb[3], 0);
    share = ggml_reshape_2d(ctx, ggml_cont(ctx, share), n_group, n_head*n_tokens);

    return ggml_reshape_2d(ctx, ggml_mean(ctx, share), n_head, n_tokens);
}

ggml_tensor * retain_gates::build(ggml_context * ctx, int32_t il, ggml_tensor * h, ggml_tensor * dst) const {
    const auto & l = layers[il];

    if (header.variant == retain_gate_variant::fast_kvzip) {
        return ggml_cpy(ctx, build_fast_kvzip(ctx, l, h, dst->ne[0]), dst);
    }

    ggml_tensor * x = h;
    if (l.in_w) {
        x = build_dense(ctx, l.in_w, l.in_b, x);
    }
    if (l.mid_w) {
        x = build_dense(ctx, l.mid_w, l.mid_b, x);
    }
    return ggml_retention_gate(ctx, dst, x, l.score_w, l.score_b,
            header.is_static ? GGML_RETENTION_GATE_SCORE : GGML_RETENTION_GATE_LOG_BETA);
}

ggml_tensor * retain_gates::build_chained(
        ggml_context * ctx, int32_t il, ggml_tensor * h, ggml_tensor * dst, ggml_tensor * previous, bool is_last) const {
    const auto & l = layers[il];
    if (header.variant == retain_gate_variant::fast_kvzip || !l.in_w) {
        return nullptr;
    }
    const auto same_type = [](const ggml_tensor * a, const ggml_tensor * b) { return !a == !b && (!a || a->type == b->type); };
    for (const auto & other : layers) {
        if (other.score_b && !(same_type(other.in_w, l.in_w) && same_type(other.mid_w, l.mid_w) && same_type(other.score_w, l.score_w))) {
            return nullptr;
        }
    }
    const ggml_retention_gate_weights weights = { l.in_w, l.in_b, l.mid_w, l.mid_b, l.score_w, l.score_b };
    const ggml_retention_gate_params  params  = {
        header.is_static ? GGML_RETENTION_GATE_SCORE : GGML_RETENTION_GATE_LOG_BETA,
        (int32_t) header.activation, // the same numbers as enum ggml_retention_activation
        is_last,
    };
    return ggml_retention_whole_gate(ctx, dst, h, previous, &weights, &params);
}
