// retain-selection.cpp - the selection against a plain sort, on scores full of ties, NaN and infinities; with several threads
// as with one

#include "retain-select.h"
#include "testing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

struct cell {
    size_t  cell_list;
    int64_t i;
    int32_t pos;
    float   score;
    bool    raised;
};

// raised first, then higher score, newer, lower cell list, lower index
static bool before(const cell & a, const cell & b) {
    const auto key = [](const cell & c) {
        const float s = std::isnan(c.score) ? -std::numeric_limits<float>::infinity() : c.score;
        return std::make_tuple(!c.raised, std::isnan(c.score), -s, -c.pos, c.cell_list, c.i);
    };
    return key(a) < key(b);
}

namespace {

std::mt19937 rng(7);

int uniform(int lo, int hi) {
    return std::uniform_int_distribution<int>(lo, hi)(rng);
}

// scores that are often equal, or of all kinds
float random_score(bool has_ties) {
    const float x = has_ties ? -(float) uniform(0, 5) : std::normal_distribution<float>(0, 3)(rng);
    const int special = uniform(0, 60);
    return special == 0 ? NAN : special == 1 ? -INFINITY : special == 2 ? INFINITY : special == 3 ? -0.0f : x;
}

void test_against_sort(retain_threads & threads) {
    retain_select select;

    for (int round = 0; round < 3000; ++round) {
        std::vector<std::vector<cell>>    cell_lists(uniform(1, 6));
        std::vector<std::vector<int32_t>> pos(cell_lists.size());
        std::vector<std::vector<float>>   scores(cell_lists.size());
        std::vector<int64_t>              sizes;
        for (size_t s = 0; s < cell_lists.size(); ++s) {
            for (int p = 0; p < 20; ++p) {
                if (uniform(0, 2) > 0) {
                    pos[s].push_back(p);
                }
            }
            std::shuffle(pos[s].begin(), pos[s].end(), rng);
            for (size_t i = 0; i < pos[s].size(); ++i) {
                scores[s].push_back(random_score(round % 2));
                cell_lists[s].push_back({ s, (int64_t) i, pos[s][i], scores[s][i], false });
            }
            sizes.push_back(pos[s].size());
        }

        const int n_best = uniform(0, 3);
        const int n_sink = uniform(0, 2);
        const int n_last = uniform(0, 2);

        select.start(sizes);
        std::vector<cell> all;
        for (size_t s = 0; s < cell_lists.size(); ++s) {
            auto & cell_list = cell_lists[s];
            select.set_list(s, pos[s].data(), scores[s].data());
            select.raise_ordinals(s, n_sink, 20 - n_last);
            for (auto & c : cell_list) {
                c.raised = c.pos < n_sink || c.pos >= 20 - n_last;
                if (uniform(0, 8) == 0) {
                    c.raised = true;
                    select.raise(s, c.i);
                }
            }
            select.raise_best(s, n_best);

            // the raised first, whatever their order
            std::sort(cell_list.begin(), cell_list.end(), before);
            for (size_t i = 0; i < cell_list.size() && i < (size_t) n_best; ++i) {
                cell_list[i].raised = true;
            }
            all.insert(all.end(), cell_list.begin(), cell_list.end());
        }

        const int64_t n = uniform(0, all.size());
        select.run(0, select.n_cell_lists(), n, threads);

        std::sort(all.begin(), all.end(), before);
        for (int64_t i = 0; i < (int64_t) all.size(); ++i) {
            CHECK(select.kept(all[i].cell_list, all[i].i) == (i < n));
        }
    }
    printf("retain selection: 3000 rounds agree with a sort\n");
}

// enough cells for many pieces, with many ties
void test_threads() {
    constexpr int64_t N_LISTS = 30, N_CELLS = 5000, N_KEPT = 100001;

    std::vector<int32_t> ordinals(N_CELLS);
    std::iota(ordinals.begin(), ordinals.end(), 0);
    std::vector<float> scores(N_LISTS*N_CELLS);

    for (int round = 0; round < 4; ++round) {
        for (float & x : scores) {
            x = random_score(round % 2);
        }
        std::vector<uint8_t> kept[2];
        for (int i = 0; i < 2; ++i) {
            retain_threads threads(i == 0 ? 1 : 3);
            retain_select  select;
            select.start(std::vector<int64_t>(N_LISTS, N_CELLS));
            threads.run(N_LISTS, threads.n_parts(scores.size()), [&](int64_t, int64_t begin, int64_t end) {
                for (int64_t l = begin; l < end; ++l) {
                    select.set_list(l, ordinals.data(), scores.data() + l*N_CELLS);
                    select.raise_ordinals(l, 4, round < 2 ? N_CELLS - 10 : 0); // in the end more than are kept
                }
            });
            select.run(0, N_LISTS, N_KEPT, threads);
            for (int64_t j = 0; j < N_LISTS*N_CELLS; ++j) {
                kept[i].push_back(select.kept(j/N_CELLS, j%N_CELLS));
            }
        }
        CHECK(kept[0] == kept[1] && std::count(kept[0].begin(), kept[0].end(), 1) == N_KEPT);
    }
    printf("retain selection: three threads keep what one keeps\n");
}

} // namespace

int main() {
    retain_threads one(1);
    test_against_sort(one);
    test_threads();
    return 0;
}
