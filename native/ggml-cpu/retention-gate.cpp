// retention-gate.cpp - GGML_OP_RETENTION_GATE on the CPU: W*a + b, or its logsigmoid

#include "retention-cpu.h"
#include "retention-simd.h"

#include "ggml-retention.h"

#include <algorithm>
#include <cmath>

size_t ggml_retention_gate_work_size(const ggml_tensor * dst, int n_threads) {
    const ggml_tensor * w = dst->src[1];

    return w->type == GGML_TYPE_F32 ? 0 : n_threads*ggml_nelements(w)*sizeof(float);
}

// log(1/(1 + e^-u)), exact to fp32 at both ends
static float logsigmoid(float u) {
    return std::min(u, 0.0f) - log1pf(expf(-fabsf(u)));
}

static float dot(int64_t n, const float * x, const float * y) {
    vf32 acc = vf_zero();

    int64_t i = 0;
    for (; i + VF <= n; i += VF) {
        acc = vf_fma(vf_load(x + i), vf_load(y + i), acc);
    }

    float sum = vf_sum(acc);
    for (; i < n; ++i) {
        sum += x[i]*y[i];
    }

    return sum;
}

void ggml_compute_forward_retention_gate(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor * a = dst->src[0];
    const ggml_tensor * w = dst->src[1];
    const ggml_tensor * b = dst->src[2];

    const int64_t n_ff     = w->ne[0];
    const int64_t n_head   = w->ne[1];
    const int64_t n_tokens = a->ne[1];

    const bool is_score = dst->op_params[0] == GGML_RETENTION_GATE_SCORE;

    // tokens are split over the threads; the projection is small, so each thread unpacks it for itself
    const int64_t per_thread = (n_tokens + params->nth - 1)/params->nth;
    const int64_t t0 = std::min<int64_t>(n_tokens, per_thread*params->ith);
    const int64_t t1 = std::min<int64_t>(n_tokens, t0 + per_thread);
    if (t0 == t1) {
        return;
    }

    const float * weight = (const float *) w->data;
    if (w->type != GGML_TYPE_F32) {
        float * unpacked = (float *) params->wdata + params->ith*ggml_nelements(w);
        ggml_get_type_traits(w->type)->to_float(w->data, unpacked, ggml_nelements(w));
        weight = unpacked;
    }

    for (int64_t t = t0; t < t1; ++t) {
        const float * x = (const float *) ((const char *) a->data + t*a->nb[1]);
        float       * y = (float       *) ((char *) dst->data + t*dst->nb[1]);

        for (int64_t h = 0; h < n_head; ++h) {
            const float u = dot(n_ff, weight + h*n_ff, x) + ((const float *) b->data)[h];
            y[h] = is_score ? u : logsigmoid(u);
        }
    }
}
