// retain-queries.h - the queries of a sequence's last tokens, for policies that look at attention
//
// The graph hands them out only under such a policy; under another one nothing is computed or kept.

#pragma once

#include "llama.h"

#include <cstdint>
#include <deque>
#include <vector>

// the queries of one token as attention multiplies them with K: after RoPE, turned as quantised K is, and scaled
struct retain_query {
    llama_pos          pos;
    int32_t            ordinal;
    std::vector<float> q; // layer after layer [n_head, n_embd_k]
};

// of one sequence, oldest first
class retain_queries {
public:
    static constexpr int64_t N_WINDOW = 32;         // W: so many a policy looks at, as in SnapKV's code; not measured
    static constexpr int64_t N_MAX    = 2*N_WINDOW; // with those that come back to it when W tokens are taken back

    // the queries of the next token, to be filled in: n floats; the oldest go when there are more than N_MAX
    retain_query & push(llama_pos pos, int32_t ordinal, int64_t n);

    // forget those of positions [p0, p1)
    void remove(llama_pos p0, llama_pos p1);

    // forget those from p on, of tokens that are taken back
    void cut(llama_pos p);

    // forget all of them, before position p
    void forget(llama_pos p);

    int64_t size() const { return queries.size(); }

    const retain_query & operator[](int64_t i) const { return queries[i]; }

    // the smallest p such that cutting at p gives the window that there was before position p
    llama_pos rollback_limit() const { return limit; }

    // the window: the last N_WINDOW queries, or all when there are fewer

    int64_t              n_window() const { return size() < N_WINDOW ? size() : N_WINDOW; }
    std::vector<int32_t> window_ordinals() const;

    // n floats from offset on of each token's queries, one token after the other
    std::vector<float> window_slice(int64_t offset, int64_t n) const;

private:
    std::deque<retain_query> queries;
    llama_pos limit = 0;
};
