// retain-queries.cpp - keeping the last queries of each sequence, and taking them from the graph

#include "retain-queries.h"
#include "retain-memory.h"

#include <algorithm>

retain_query & retain_queries::push(llama_pos pos, int64_t n) {
    std::vector<float> q;
    if (size() == N_MAX) {
        q.swap(queries.front().q);
        queries.pop_front();
    }
    q.resize(n);
    queries.push_back({ pos, std::move(q) });
    return queries.back();
}

void retain_queries::remove(llama_pos p0, llama_pos p1) {
    queries.erase(std::remove_if(queries.begin(), queries.end(), [&](const retain_query & query) {
        return query.pos >= p0 && query.pos < p1;
    }), queries.end());
}

std::vector<int32_t> retain_queries::positions() const {
    std::vector<int32_t> res;
    for (const auto & query : queries) {
        res.push_back(query.pos);
    }
    return res;
}

std::vector<float> retain_queries::slice(int64_t offset, int64_t n) const {
    std::vector<float> res;
    for (const auto & query : queries) {
        res.insert(res.end(), query.q.begin() + offset, query.q.begin() + offset + n);
    }
    return res;
}

int64_t retain_memory::n_query_rows(int64_t n_tokens) const {
    return std::min<int64_t>(n_tokens, retain_queries::N_MAX*seqs.size());
}

std::vector<int32_t> retain_memory::query_tokens(const llama_ubatch & ubatch) const {
    std::vector<int64_t> n_left(seqs.size(), retain_queries::N_MAX);
    std::vector<int32_t> res;
    for (int64_t t = (int64_t) ubatch.n_tokens - 1; t >= 0; --t) {
        if (n_left[ubatch.seq_id[t][0]]-- > 0) {
            res.push_back(t);
        }
    }
    std::reverse(res.begin(), res.end());
    return res;
}

void retain_memory::take_queries(const llama_ubatch & ubatch) {
    const auto tokens = query_tokens(ubatch);

    for (size_t i = 0; i < tokens.size(); ++i) {
        const int32_t t = tokens[i];
        auto & query = seqs[ubatch.seq_id[t][0]].queries.push(ubatch.pos[t], n_query);
        for (size_t l = 0; l < layers.size(); ++l) {
            const size_t n_bytes = query_rows[l]->nb[1];
            ggml_backend_tensor_get(query_rows[l], query.q.data() + layers[l].query_first, i*n_bytes, n_bytes);
        }
    }
}
