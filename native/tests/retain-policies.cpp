// retain-policies.cpp - the policies that look at keys and queries, on made-up cell lists: soft-cap, sinks, any order of cells
//
// What they keep on models is compared with their formulas in tests/test_key_policies.py; no model that the pool can
// hold has a soft-cap or attention sinks.

#include "retain-policy.h"
#include "retention-reference.h"
#include "testing.h"

#include "ggml-cpu.h"

#include <algorithm>
#include <cstring>
#include <numeric>

// a cell list with gaps in no order, its keys, and the queries of the last tokens, of which some may have lost their cells
struct made_up {
    std::vector<int32_t> ordinal;
    std::vector<float>   log_beta;
    std::vector<float>   keys;
    std::vector<int32_t> query_ordinal;
    std::vector<float>   queries;
    std::vector<float>   sinks;
    retain_policy_input  in = {};

    made_up(std::mt19937 & rng, int64_t n_seen, int64_t n_embd, int64_t n_group, int64_t n_queries, float softcap, bool sink) {
        for (int64_t p = 0; p < n_seen; ++p) {
            if (rng() % 3 > 0) {
                ordinal.push_back(p);
            }
        }
        std::shuffle(ordinal.begin(), ordinal.end(), rng);
        for (int64_t p = n_seen - n_queries; p < n_seen; ++p) {
            query_ordinal.push_back(p);
        }
        log_beta.resize(ordinal.size(), 0.0f);
        keys    = random_normal(rng, ordinal.size()*n_embd);
        queries = random_normal(rng, n_queries*n_group*n_embd, 0.5f);
        sinks   = random_normal(rng, n_group, 3.0f);

        in.n_seen    = n_seen;
        in.lookahead = 1;
        in.n_cells   = ordinal.size();
        in.ordinal   = ordinal.data();
        in.log_beta  = log_beta.data();
        in.n_embd_k  = n_embd;
        in.keys      = keys.data();
        in.n_queries = n_queries;
        in.n_group   = n_group;
        in.query_ordinal = query_ordinal.data();
        in.queries   = queries.data();
        in.softcap   = softcap;
        in.sinks     = sink ? sinks.data() : nullptr;
    }

    std::vector<float> score(const char * policy) const {
        std::vector<float> res(in.n_cells);
        retain_policy_find(policy)->score(in, res.data());
        return res;
    }
};

// the window's cells, then the attention that the reference op gives cells in order of the tokens, pooled
static std::vector<float> snapkv_reference(const made_up & m) {
    std::vector<int64_t> order(m.ordinal.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return m.ordinal[a] < m.ordinal[b]; });

    const int64_t n = order.size();
    const int64_t d = m.in.n_embd_k;

    reference::cell_list cell_list;
    cell_list.n_old = n;
    cell_list.v.resize(n*n, 0.0f); // the identity: what comes out is the attention of each cell
    for (int64_t i = 0; i < n; ++i) {
        cell_list.k.insert(cell_list.k.end(), m.keys.begin() + order[i]*d, m.keys.begin() + (order[i] + 1)*d);
        cell_list.v[i*n + i] = 1.0f;
    }

    std::vector<double> mean(n, 0.0);
    for (int64_t w = 0; w < m.in.n_queries; ++w) {
        const int64_t seen = std::count_if(m.ordinal.begin(), m.ordinal.end(), [&](int32_t p) { return p <= m.query_ordinal[w]; });
        for (int64_t g = 0; g < m.in.n_group; ++g) {
            const float * q = m.queries.data() + (w*m.in.n_group + g)*d;
            const auto got = reference::attend(q, d, n, cell_list, seen, 1.0, m.in.softcap, m.in.sinks ? m.in.sinks + g : nullptr);
            for (int64_t i = 0; i < n; ++i) {
                mean[i] += got[i]/(m.in.n_queries*m.in.n_group);
            }
        }
    }

    // the window's cells are the last ones
    const int64_t n_others = std::count_if(m.ordinal.begin(), m.ordinal.end(), [&](int32_t p) { return p < m.query_ordinal[0]; });
    std::vector<float> res(n);
    for (int64_t i = 0; i < n; ++i) {
        double sum = 0.0;
        for (int64_t j = i - 2; j <= i + 2; ++j) {
            sum += j >= 0 && j < n_others ? mean[j] : 0.0;
        }
        res[order[i]] = i < n_others ? sum/5 : 2.0;
    }
    return res;
}

static void check_close(const std::vector<float> & got, const std::vector<float> & want) {
    for (size_t i = 0; i < want.size(); ++i) {
        CHECK(std::fabs(got[i] - want[i]) <= 1e-5*std::fabs(want[i]) + 1e-9);
    }
}

static void test_snapkv() {
    std::mt19937 rng(3);
    for (const int64_t n_queries : { 1, 7, 32 }) {
        for (const int64_t n_group : { 1, 4 }) {
            for (const float softcap : { 0.0f, 2.0f }) {
                for (const bool sink : { false, true }) {
                    const made_up m(rng, 120, 40, n_group, n_queries, softcap, sink);
                    check_close(m.score("snapkv"), snapkv_reference(m));
                }
            }
        }
    }

    // nothing asked: no cell is worth more than another
    const made_up m(rng, 60, 16, 2, 0, 0.0f, false);
    CHECK(m.score("snapkv") == std::vector<float>(m.ordinal.size(), 0.0f));
}

static void test_keys() {
    std::mt19937 rng(5);
    made_up m(rng, 90, 24, 1, 0, 0.0f, false);
    const int64_t n = m.in.n_cells;
    std::fill(m.keys.begin(), m.keys.begin() + 24, 0.0f); // a key without a direction

    std::vector<float>  knorm(n);
    std::vector<double> anchor(24, 0.0);
    for (int64_t i = 0; i < n; ++i) {
        const float * k = m.keys.data() + i*24;
        knorm[i] = -std::sqrt(std::inner_product(k, k + 24, k, 0.0));
        if (knorm[i] == 0.0f) {
            continue;
        }
        for (int64_t j = 0; j < 24; ++j) {
            anchor[j] -= k[j]/knorm[i]/n;
        }
    }
    check_close(m.score("knorm"), knorm);

    std::vector<float> keydiff(n);
    const double length = std::sqrt(std::inner_product(anchor.begin(), anchor.end(), anchor.begin(), 0.0));
    for (int64_t i = 0; i < n; ++i) {
        keydiff[i] = knorm[i] == 0.0f ? 0.0 : std::inner_product(anchor.begin(), anchor.end(), m.keys.begin() + i*24, 0.0)/knorm[i]/length;
    }
    check_close(m.score("keydiff"), keydiff);
}

static void test_registry() {
    for (const auto * const * it = retain_policies; *it; ++it) {
        CHECK(retain_policy_find((*it)->name) == *it);
        CHECK(strlen((*it)->description) > 0);
    }
    CHECK(retain_policy_find("best") == nullptr);

    // a cell list without cells is nothing special
    std::mt19937 rng(1);
    const made_up m(rng, 0, 16, 2, 0, 0.0f, false);
    for (const auto * const * it = retain_policies; *it; ++it) {
        CHECK(!(*it)->score || m.score((*it)->name).empty());
    }
}

int main() {
    ggml_cpu_init();

    test_snapkv();
    test_keys();
    test_registry();

    printf("policies: scores are those of the formulas\n");
    return 0;
}
