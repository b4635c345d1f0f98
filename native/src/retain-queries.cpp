// retain-queries.cpp - keeping the last queries of each sequence, and taking them from the graph

#include "retain-queries.h"
#include "retain-memory.h"

#include <algorithm>
#include <limits>

retain_query & retain_queries::push(llama_pos pos, int32_t ordinal, int64_t n) {
    std::vector<float> q;
    const bool full = size() == N_MAX;
    if (full) {
        q.swap(queries.front().q);
        queries.pop_front();
    }
    q.resize(n);
    queries.push_back({ pos, ordinal, std::move(q) });
    if (full) {
        limit = std::max(limit, queries[N_WINDOW - 1].pos + 1);
    }
    return queries.back();
}

void retain_queries::cut(llama_pos p) {
    remove(p, std::numeric_limits<llama_pos>::max());
    limit = std::min(limit, p);
}

void retain_queries::forget(llama_pos p) {
    if (!queries.empty()) {
        queries.clear();
        limit = p;
    }
}

void retain_queries::remove(llama_pos p0, llama_pos p1) {
    queries.erase(std::remove_if(queries.begin(), queries.end(), [&](const retain_query & query) {
        return query.pos >= p0 && query.pos < p1;
    }), queries.end());
}

std::vector<int32_t> retain_queries::window_ordinals() const {
    std::vector<int32_t> res;
    for (int64_t i = size() - n_window(); i < size(); ++i) {
        res.push_back(queries[i].ordinal);
    }
    return res;
}

std::vector<float> retain_queries::window_slice(int64_t offset, int64_t n) const {
    std::vector<float> res;
    for (int64_t i = size() - n_window(); i < size(); ++i) {
        const auto q = queries[i].q.begin() + offset;
        res.insert(res.end(), q, q + n);
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

    // one transfer per layer
    std::vector<std::vector<float>> rows(layers.size());
    for (size_t l = 0; l < layers.size(); ++l) {
        const ggml_tensor * src = query_rows[layers[l].il];
        rows[l].resize(tokens.size()*src->ne[0]);
        ggml_backend_tensor_get(src, rows[l].data(), 0, rows[l].size()*sizeof(float));
    }

    std::vector<int64_t> ordinal(seqs.size()); // of the next token of each sequence
    for (size_t s = 0; s < seqs.size(); ++s) {
        ordinal[s] = seqs[s].n_seen;
    }
    for (const int32_t t : tokens) {
        --ordinal[ubatch.seq_id[t][0]]; // they are the last ones
    }

    for (size_t i = 0; i < tokens.size(); ++i) {
        const int32_t t = tokens[i];
        const llama_seq_id s = ubatch.seq_id[t][0];
        auto & query = seqs[s].queries.push(ubatch.pos[t], (int32_t) ordinal[s]++, n_query);
        for (size_t l = 0; l < layers.size(); ++l) {
            const int64_t n = rows[l].size()/tokens.size();
            std::copy_n(rows[l].begin() + i*n, n, query.q.begin() + layers[l].query_first);
        }
    }
}
