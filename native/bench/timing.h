// timing.h - what the micro-benchmarks share: graphs that are timed, reading memory, options
//
// A process times its rivals in turn, `repeat` times each, and keeps the shortest of each, so that other load weighs on
// all of them alike. With one thread processor time is taken for time, which other load does not stretch.

#pragma once

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <initializer_list>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace bench {

// random rows, the same few over and over: speed does not depend on them
inline void fill_rows(ggml_tensor * t, std::mt19937 & rng) {
    constexpr int64_t N_ROWS = 512;

    std::normal_distribution<float> dist;
    std::vector<float> x(N_ROWS*t->ne[0]);
    std::generate(x.begin(), x.end(), [&] { return dist(rng); });

    std::vector<uint8_t> packed(ggml_row_size(t->type, t->ne[0])*N_ROWS);
    if (t->type == GGML_TYPE_F32) {
        memcpy(packed.data(), x.data(), packed.size());
    } else {
        ggml_get_type_traits_cpu(t->type)->from_float(x.data(), packed.data(), x.size());
    }
    for (size_t at = 0; at < ggml_nbytes(t); at += packed.size()) {
        ggml_backend_tensor_set(t, packed.data(), at, std::min(packed.size(), ggml_nbytes(t) - at));
    }
}

// seconds; of one thread only those that it ran
inline double now(int n_threads) {
    return n_threads == 1 ? (double) std::clock()/CLOCKS_PER_SEC : ggml_time_us()*1e-6;
}

// keep the shortest time of fn
template <typename F>
void keep_best(double & best, int n_threads, F fn) {
    const double start = now(n_threads);
    fn();
    best = std::min(best, now(n_threads) - start);
}

struct graph {
    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buf;
    ggml_cgraph           * gf   = nullptr;
    double                  best = INFINITY; // seconds

    explicit graph(size_t n_tensors) :
        ctx(ggml_init({ n_tensors*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_tensors, false), nullptr, /*.no_alloc =*/ true })) {
        gf = ggml_new_graph_custom(ctx.get(), n_tensors, false);
    }

    void allocate(ggml_backend_t backend) {
        buf.reset(ggml_backend_alloc_ctx_tensors(ctx.get(), backend));
    }

    void time(ggml_backend_t backend, int n_threads) {
        keep_best(best, n_threads, [&] {
            if (ggml_backend_graph_compute(backend, gf) != GGML_STATUS_SUCCESS) {
                fprintf(stderr, "the graph failed\n");
                exit(1);
            }
        });
    }
};

// read a tensor's share of this thread, front to back
inline void read_rows(ggml_tensor * dst, const ggml_tensor *, const ggml_tensor * x, int ith, int nth, void *) {
    constexpr int LANES = 64;

    const size_t     n     = ggml_nbytes(x)/sizeof(uint32_t)/nth/LANES*LANES;
    const uint32_t * data  = (const uint32_t *) x->data + ith*n;

    uint32_t sum[LANES] = {};
    for (size_t i = 0; i < n; i += LANES) {
        for (int j = 0; j < LANES; ++j) {
            sum[j] += data[i + j];
        }
    }
    ((float *) dst->data)[ith] = (float) std::accumulate(sum, sum + LANES, 0u); // so that the loop is not dropped
}

// read a tensor of rows from front to back, in n_parts steps
struct read_graph : graph {
    read_graph(ggml_tensor * rows, int64_t n_parts, ggml_backend_t backend) : graph(2*n_parts + 8) {
        ggml_tensor * out = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, 256);
        const int64_t n = rows->ne[1]/n_parts;
        for (int64_t i = 0; i < n_parts; ++i) {
            ggml_tensor * part = ggml_view_2d(ctx.get(), rows, rows->ne[0], n, rows->nb[1], i*n*rows->nb[1]);
            ggml_build_forward_expand(gf, ggml_map_custom2(ctx.get(), out, part, read_rows, GGML_N_TASKS_MAX, nullptr));
        }
        allocate(backend);
    }
};

// options: names with their values, which arguments may replace; lists are comma-separated

inline std::vector<std::string> split(const std::string & list) {
    std::vector<std::string> res;
    for (size_t at = 0; at <= list.size(); ) {
        const size_t end = std::min(list.find(',', at), list.size());
        res.push_back(list.substr(at, end - at));
        at = end + 1;
    }
    return res;
}

inline ggml_type type_of(const std::string & name) {
    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        if (name == ggml_type_name(type)) {
            return type;
        }
    }
    fprintf(stderr, "unknown type: %s\n", name.c_str());
    exit(1);
}

inline int64_t number_of(const std::string & text) {
    const int64_t n = atoll(text.c_str());
    if (n < 1) {
        fprintf(stderr, "not a positive number: %s\n", text.c_str());
        exit(1);
    }
    return n;
}

inline void read_options(int argc, char ** argv, std::initializer_list<std::pair<const char *, std::string *>> options) {
    for (int i = 1; i < argc; i += 2) {
        const auto option = std::find_if(options.begin(), options.end(), [&](const auto & o) { return !strcmp(o.first, argv[i]); });
        if (option == options.end() || i + 1 == argc) {
            fprintf(stderr, "options, each with a value:");
            for (const auto & o : options) {
                fprintf(stderr, " %s %s", o.first, o.second->c_str());
            }
            fprintf(stderr, "\n");
            exit(1);
        }
        *option->second = argv[i + 1];
    }
}

} // namespace bench
