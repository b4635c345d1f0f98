// keydiff.cpp - keys unlike the others stay: "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM
// Inference in Resource-Constrained Environments" (arXiv 2504.15364)
//
//     m = mean over the cells j of the cell list of k_j/||k_j||
//     s = -cos(k, m)
//
// A key of norm 0 adds nothing to the mean, and its cosine is 0.

#include "retain-policy.h"

#include <cmath>
#include <vector>

static double dot(const float * x, const double * y, int64_t n) {
    double sum = 0.0;
    for (int64_t j = 0; j < n; ++j) {
        sum += x[j]*y[j];
    }
    return sum;
}

static double norm(const float * x, int64_t n) {
    double sum = 0.0;
    for (int64_t j = 0; j < n; ++j) {
        sum += (double) x[j]*x[j];
    }
    return std::sqrt(sum);
}

static void score(const retain_policy_input & in, float * scores) {
    const int64_t n = in.n_embd_k;

    // the sum of the keys' directions: the cosine with it is that with the mean
    std::vector<double> norms(in.n_cells);
    std::vector<double> sum(n, 0.0);
    double sum_norm = 0.0;

    for (int64_t i = 0; i < in.n_cells; ++i) {
        const float * k = in.keys + i*n;
        norms[i] = norm(k, n);
        if (norms[i] > 0.0) {
            for (int64_t j = 0; j < n; ++j) {
                sum[j] += k[j]/norms[i];
            }
        }
    }
    for (const double x : sum) {
        sum_norm += x*x;
    }
    sum_norm = std::sqrt(sum_norm);

    for (int64_t i = 0; i < in.n_cells; ++i) {
        const double scale = norms[i]*sum_norm;
        scores[i] = scale > 0.0 ? -(float) (dot(in.keys + i*n, sum.data(), n)/scale) : 0.0f;
    }
}

extern const retain_policy retain_policy_keydiff = {
    /*.name          =*/ "keydiff",
    /*.description   =*/ "keys unlike the mean key",
    /*.needs_gates   =*/ false,
    /*.needs_keys    =*/ true,
    /*.needs_queries =*/ false,
    /*.score         =*/ score,
};
