// window.cpp - the most recent cells stay; with sinks this is StreamingLLM (arXiv 2309.17453)
//
//     s = -(n + 1 - p)

#include "retain-policy.h"

static void score(const retain_policy_input & in, float * scores) {
    for (int64_t i = 0; i < in.n_cells; ++i) {
        scores[i] = -(float) (in.n_seen + 1 - in.ordinal[i]);
    }
}

extern const retain_policy retain_policy_window = {
    /*.name          =*/ "window",
    /*.description   =*/ "the first and the most recent tokens",
    /*.needs_gates   =*/ false,
    /*.needs_keys    =*/ false,
    /*.needs_queries =*/ false,
    /*.score         =*/ score,
};
