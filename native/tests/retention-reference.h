// retention-reference.h - the retention ops in plain C++, in double: what every backend is tested against

#pragma once

#include "ggml-retention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace reference {

// log beta, or the score itself, [n_tokens][n_head] of a [n_tokens][n_ff], w [n_head][n_ff], b [n_head]
inline std::vector<float> score(int64_t n_ff, int64_t n_head, int64_t n_tokens, const float * a, const float * w, const float * b,
        ggml_retention_gate_output output) {
    std::vector<float> res(n_tokens*n_head);
    for (int64_t t = 0; t < n_tokens; ++t) {
        for (int64_t h = 0; h < n_head; ++h) {
            double u = b[h];
            for (int64_t i = 0; i < n_ff; ++i) {
                u += (double) w[h*n_ff + i]*a[t*n_ff + i];
            }
            const double log_beta = std::min(u, 0.0) - std::log1p(std::exp(-std::fabs(u)));
            res[t*n_head + h] = (float) (output == GGML_RETENTION_GATE_SCORE ? u : log_beta);
        }
    }
    return res;
}

// one KV head of one sequence, gathered: rows in the order of the cell list
struct cell_list {
    std::vector<float> k; // [n_cells][n_embd_k]
    std::vector<float> v; // [n_cells][n_embd_v]
    int64_t n_old;        // cells before the ubatch
};

// the attention of one query row over the first n_cells cells; sink: null, or a logit that adds nothing
inline std::vector<float> attend(const float * q, int64_t n_embd_k, int64_t n_embd_v, const cell_list & s, int64_t n_cells,
        double scale, double softcap, const float * sink) {
    std::vector<double> logit(n_cells);
    double m = sink ? *sink : -INFINITY;
    for (int64_t c = 0; c < n_cells; ++c) {
        double x = 0.0;
        for (int64_t i = 0; i < n_embd_k; ++i) {
            x += (double) q[i]*s.k[c*n_embd_k + i];
        }
        x *= scale;
        logit[c] = softcap != 0.0 ? softcap*std::tanh(x/softcap) : x;
        m = std::max(m, logit[c]);
    }

    double sum = sink ? std::exp(*sink - m) : 0.0;
    std::vector<double> acc(n_embd_v, 0.0);
    for (int64_t c = 0; c < n_cells; ++c) {
        const double p = std::exp(logit[c] - m);
        sum += p;
        for (int64_t i = 0; i < n_embd_v; ++i) {
            acc[i] += p*s.v[c*n_embd_v + i];
        }
    }

    std::vector<float> res(n_embd_v);
    for (int64_t i = 0; i < n_embd_v; ++i) {
        res[i] = (float) (acc[i]/sum);
    }
    return res;
}

} // namespace reference
