// knorm.cpp - keys with a low norm stay: "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression"
// (arXiv 2406.11430)
//
//     s = -||k||
//
// The authors found that a key with a low norm tends to get much attention. RoPE keeps norms.

#include "retain-policy.h"

#include <cmath>

static void score(const retain_policy_input & in, float * scores) {
    for (int64_t i = 0; i < in.n_cells; ++i) {
        const float * k = in.keys + i*in.n_embd_k;

        double sum = 0.0;
        for (int64_t j = 0; j < in.n_embd_k; ++j) {
            sum += (double) k[j]*k[j];
        }
        scores[i] = -(float) std::sqrt(sum);
    }
}

extern const retain_policy retain_policy_knorm = {
    /*.name          =*/ "knorm",
    /*.description   =*/ "keys of low norm",
    /*.needs_gates   =*/ false,
    /*.needs_keys    =*/ true,
    /*.needs_queries =*/ false,
    /*.score         =*/ score,
};
