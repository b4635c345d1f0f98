// gate.cpp - the learned retention score of "Make Each Token Count" (arXiv 2605.09649)
//
//     s = (n + 1 - p)*log(beta)                                                            lookahead 1
//     s = (n + 2 - p)*log(beta) + log1mexp(N*log(beta)) - log1mexp(log(beta))              lookahead N
//
// with n tokens seen and a cell that p tokens came before: the log of beta^age, and of its sum over the next N tokens. Static
// gates give s itself, whatever the age.

#include "retain-policy.h"

#include <algorithm>
#include <cmath>

static double log1mexp(double x) {
    return std::log(-std::expm1(x));
}

// log((1 - beta^N)/(1 - beta)), which tends to log(N) as beta tends to 1
static float log_sum_ahead(float log_beta, int32_t lookahead) {
    if (log_beta == 0.0f) {
        return (float) std::log((double) lookahead);
    }
    return (float) (log1mexp((double) lookahead*log_beta) - log1mexp(log_beta));
}

// Each product and sum is rounded to fp32 on its own, so that neither fused instructions nor the backend can change an order.
static void score(const retain_policy_input & in, float * scores) {
    if (in.is_static) {
        std::copy(in.log_beta, in.log_beta + in.n_cells, scores);
        return;
    }

    if (in.lookahead == 1) {
        const int32_t n = (int32_t) (in.n_seen + 1);
        for (int64_t i = 0; i < in.n_cells; ++i) {
            scores[i] = (float) (n - in.ordinal[i])*in.log_beta[i];
        }
        return;
    }

    for (int64_t i = 0; i < in.n_cells; ++i) {
        const float  age     = (float) (in.n_seen + 2 - in.ordinal[i]);
        const double product = (double) age*(double) in.log_beta[i]; // exact
        scores[i] = (float) ((double) (float) product + (double) log_sum_ahead(in.log_beta[i], in.lookahead));
    }
}

extern const retain_policy retain_policy_gate = {
    /*.name          =*/ "gate",
    /*.description   =*/ "by learned retention scores",
    /*.needs_gates   =*/ true,
    /*.needs_keys    =*/ false,
    /*.needs_queries =*/ false,
    /*.score         =*/ score,
};
