// retain-selection.cpp - the selection against a plain sort, on scores full of ties, NaN and infinities

#include "retain-select.h"
#include "testing.h"

#include <algorithm>
#include <cmath>
#include <limits>
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

int main() {
    std::mt19937 rng(7);
    const auto uniform = [&](int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(rng); };

    retain_select select;

    for (int round = 0; round < 3000; ++round) {
        std::vector<std::vector<cell>> cell_lists(uniform(1, 6));
        const int n_best = uniform(0, 3);

        select.clear();
        std::vector<cell> all;
        for (size_t s = 0; s < cell_lists.size(); ++s) {
            auto & cell_list = cell_lists[s];
            std::vector<int32_t> pos;
            std::vector<float>   scores;
            for (int p = 0; p < 20; ++p) {
                if (uniform(0, 2) > 0) {
                    pos.push_back(p);
                }
            }
            std::shuffle(pos.begin(), pos.end(), rng);
            for (size_t i = 0; i < pos.size(); ++i) {
                float x = round % 2 ? -(float) uniform(0, 5) : std::normal_distribution<float>(0, 3)(rng);
                const int special = uniform(0, 60);
                x = special == 0 ? NAN : special == 1 ? -INFINITY : special == 2 ? INFINITY : special == 3 ? -0.0f : x;
                scores.push_back(x);
                cell_list.push_back({ s, (int64_t) i, pos[i], x, false });
            }

            select.add_list(pos.size(), pos.data(), scores.data());
            for (auto & c : cell_list) {
                if (uniform(0, 8) == 0) {
                    c.raised = true;
                    select.raise(c.i);
                }
            }
            select.raise_best(n_best);

            std::sort(cell_list.begin(), cell_list.end(), before);
            for (size_t i = 0; i < cell_list.size() && i < (size_t) n_best; ++i) {
                cell_list[i].raised = true;
            }
            all.insert(all.end(), cell_list.begin(), cell_list.end());
        }

        const int64_t n = uniform(0, all.size());
        select.run(0, select.n_cell_lists(), n);

        std::sort(all.begin(), all.end(), before);
        for (int64_t i = 0; i < (int64_t) all.size(); ++i) {
            CHECK(select.kept(all[i].cell_list, all[i].i) == (i < n));
        }
    }

    printf("retain selection: 3000 rounds agree with a sort\n");
    return 0;
}
