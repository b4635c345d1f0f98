// snapkv.cpp - what the last queries attend to stays: "SnapKV: LLM Knows What You are Looking for Before Generation"
// (arXiv 2404.14469)
//
//     a_i = mean of softmax(logits)_i over the queries of the last W tokens and the query heads of the KV head
//     s_i = (a_i-2 + a_i-1 + a_i + a_i+1 + a_i+2)/5     neighbours in order of the tokens, 0 beyond the ends
//
// A query sees the cells up to its own token's. The cells of the W tokens themselves always stay and are nobody's
// neighbours. Averages where the authors' code (github.com/FasterDecoding/SnapKV) has a choice of average and maximum:
// they are its default, and what kvpress does. Without queries every score is 0, so the newest cells stay.

#include "retain-policy.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

static constexpr int64_t N_POOL    = 5;    // neighbours that are averaged, as in the authors' code; not measured
static constexpr float   IN_WINDOW = 2.0f; // above every mean of probabilities

// the cells in order of their tokens
static std::vector<int64_t> sorted_cells(const retain_policy_input & in) {
    std::vector<int64_t> res(in.n_cells);
    std::iota(res.begin(), res.end(), 0);
    std::sort(res.begin(), res.end(), [&](int64_t a, int64_t b) {
        return in.ordinal[a] != in.ordinal[b] ? in.ordinal[a] < in.ordinal[b] : a < b;
    });
    return res;
}

// add the attention of one query to the first n cells of order
static void add_attention(const retain_policy_input & in, const float * q, const float * sink,
        const std::vector<int64_t> & order, int64_t n, std::vector<float> & logits, std::vector<double> & sum) {
    const auto dot = ggml_get_type_traits_cpu(GGML_TYPE_F32)->vec_dot;

    float max = sink ? *sink : -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < n; ++i) {
        float x;
        dot(in.n_embd_k, &x, 0, in.keys + order[i]*in.n_embd_k, 0, q, 0, 1);
        logits[i] = in.softcap != 0.0f ? in.softcap*std::tanh(x/in.softcap) : x;
        max = std::max(max, logits[i]);
    }

    double total = sink ? std::exp(*sink - max) : 0.0f;
    for (int64_t i = 0; i < n; ++i) {
        logits[i] = std::exp(logits[i] - max);
        total += logits[i];
    }
    for (int64_t i = 0; i < n; ++i) {
        sum[i] += logits[i]/total;
    }
}

static void score(const retain_policy_input & in, float * scores) {
    const auto order = sorted_cells(in);

    std::vector<float>  logits(in.n_cells);
    std::vector<double> sum(in.n_cells, 0.0); // of the attention that each cell gets, in order
    for (int64_t w = 0; w < in.n_queries; ++w) {
        const int64_t n = std::partition_point(order.begin(), order.end(), [&](int64_t i) {
            return in.ordinal[i] <= in.query_ordinal[w];
        }) - order.begin();
        for (int64_t g = 0; g < in.n_group; ++g) {
            const float * q = in.queries + (w*in.n_group + g)*in.n_embd_k;
            add_attention(in, q, in.sinks ? in.sinks + g : nullptr, order, n, logits, sum);
        }
    }

    std::vector<int64_t> others; // indices into order of the cells outside the window
    for (int64_t i = 0; i < in.n_cells; ++i) {
        if (std::binary_search(in.query_ordinal, in.query_ordinal + in.n_queries, in.ordinal[order[i]])) {
            scores[order[i]] = IN_WINDOW;
        } else {
            others.push_back(i);
        }
    }

    const int64_t n_others = others.size();
    const int64_t n_mean   = std::max<int64_t>(1, in.n_queries*in.n_group);
    for (int64_t i = 0; i < n_others; ++i) {
        double pooled = 0.0;
        for (int64_t j = std::max<int64_t>(0, i - N_POOL/2); j <= std::min(n_others - 1, i + N_POOL/2); ++j) {
            pooled += sum[others[j]];
        }
        scores[order[others[i]]] = (float) (pooled/(N_POOL*n_mean));
    }
}

extern const retain_policy retain_policy_snapkv = {
    /*.name          =*/ "snapkv",
    /*.description   =*/ "what the last queries attend to",
    /*.needs_gates   =*/ false,
    /*.needs_keys    =*/ true,
    /*.needs_queries =*/ true,
    /*.score         =*/ score,
};
