// selection.cpp - time the choice of the cells that stay, over budgets: linear in the cells
//
//   BENCH=$(python native/builder bench)
//   $BENCH/bench-selection                               224 cell lists, which are those of Qwen3-0.6B
//   $BENCH/bench-selection --budgets 512,2048,8192 --lists 224 --new 128 --repeat 20
//
//   $BENCH/bench-selection --lists 288 --new 512 --threads 1,2    those of Qwen3-4B after a ubatch, with one thread and with two
//
// Each cell list holds the budget's cells and those of `--new` tokens; the scores are random. Two cells of each list are sinks.
//
//   ms        of one choice among all cells
//   ns        a cell
//   sort      time of std::partial_sort of the same cells over ours
//   a token   microseconds, one choice being made for the new tokens

#include "retain-select.h"
#include "timing.h"

#include <tuple>

using namespace bench;

namespace {

void run(int64_t budget, int64_t n_cell_lists, int64_t n_new, int n_threads, int n_repeat) {
    const int64_t n_cells = budget + n_new;

    std::mt19937 rng(1);
    std::exponential_distribution<float> dist;
    std::vector<float>   scores(n_cell_lists*n_cells);
    std::vector<int32_t> pos(n_cells);
    for (float & x : scores) {
        x = -dist(rng);
    }
    std::iota(pos.begin(), pos.end(), 0);

    retain_threads threads(n_threads);
    retain_select  select;
    std::vector<std::tuple<float, int32_t, int32_t>> cells(scores.size()); // in the order in which they stay

    double best = INFINITY, best_sort = INFINITY;
    for (int i = 0; i < n_repeat; ++i) {
        keep_best(best, n_threads, [&] {
            select.start(std::vector<int64_t>(n_cell_lists, n_cells));
            threads.run(n_cell_lists, threads.n_parts(scores.size()), [&](int64_t, int64_t begin, int64_t end) {
                for (int64_t l = begin; l < end; ++l) {
                    select.set_list(l, pos.data(), scores.data() + l*n_cells);
                    select.raise_ordinals(l, 2, n_cells);
                }
            });
            select.run(0, n_cell_lists, budget*n_cell_lists, threads);
        });
        keep_best(best_sort, n_threads, [&] {
            for (int64_t j = 0; j < (int64_t) cells.size(); ++j) {
                cells[j] = { -scores[j], -pos[j % n_cells], j/n_cells };
            }
            std::partial_sort(cells.begin(), cells.begin() + budget*n_cell_lists, cells.end());
        });
    }

    printf("%7d %8d %5d %8d %10.3f %6.2f %7.1f %9.2f\n", (int) budget, (int) n_cell_lists, (int) n_new, n_threads, best*1e3, best*1e9/scores.size(),
            best_sort/best, best*1e6/n_new);
    fflush(stdout);
}

} // namespace

int main(int argc, char ** argv) {
    std::string budgets = "256,1024,2048,4096,8192", cell_lists = "224", added = "128", n_threads = "1", repeat = "10";
    read_options(argc, argv, { { "--budgets", &budgets }, { "--lists", &cell_lists }, { "--new", &added }, { "--threads", &n_threads },
        { "--repeat", &repeat } });

    ggml_time_init();
    printf(" budget   lists   new  threads         ms     ns    sort   a token\n");
    for (const auto & budget : split(budgets)) {
        for (const auto & n_cell_lists : split(cell_lists)) {
            for (const auto & n_new : split(added)) {
                for (const auto & n : split(n_threads)) {
                    run(number_of(budget), number_of(n_cell_lists), number_of(n_new), number_of(n), number_of(repeat));
                }
            }
        }
    }
    return 0;
}
