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
    std::vector<float> q; // layer after layer [n_head, n_embd_k]
};

// of one sequence, oldest first
class retain_queries {
public:
    static constexpr int64_t N_MAX = 32; // W

    // the queries of the next token, to be filled in: n floats; the oldest go when there are more than N_MAX
    retain_query & push(llama_pos pos, int64_t n);

    // forget those of positions [p0, p1)
    void remove(llama_pos p0, llama_pos p1);

    void clear() { queries.clear(); }

    int64_t size() const { return queries.size(); }

    const retain_query & operator[](int64_t i) const { return queries[i]; }

    std::vector<int32_t> positions() const;

    // n floats from offset on of each token's queries, one token after the other
    std::vector<float> slice(int64_t offset, int64_t n) const;

private:
    std::deque<retain_query> queries;
};
