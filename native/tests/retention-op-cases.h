// retention-op-cases.h - the retention ops against the plain reference, over shapes and types, whatever runs them

#pragma once

#include "retention-reference.h"
#include "testing.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cstring>
#include <functional>
#include <numeric>
#include <string>

inline std::mt19937 rng(1);

// rows as the cells hold them, and the values that those stand for
inline std::vector<uint8_t> pack(ggml_type type, int64_t n, std::vector<float> & x) {
    std::vector<uint8_t> res(ggml_row_size(type, n)*(x.size()/n));
    if (type == GGML_TYPE_F32) {
        memcpy(res.data(), x.data(), res.size());
        return res;
    }
    ggml_get_type_traits_cpu(type)->from_float(x.data(), res.data(), x.size());
    ggml_get_type_traits(type)->to_float(res.data(), x.data(), x.size());
    return res;
}

inline ggml_context_ptr make_context() {
    return ggml_context_ptr(ggml_init({ 64*ggml_tensor_overhead() + 2*ggml_graph_overhead(), nullptr, /*.no_alloc =*/ true }));
}

// what runs an op
struct op_runner {
    ggml_backend_t backend; // that holds the tensors

    std::function<bool(const ggml_tensor * op)> supports;

    // run an op of the context; way is 0 or 1, for two ways that must give the same result; or, where both would take too long,
    // each for every other case
    bool one_way;
    std::function<void(ggml_context * ctx, ggml_tensor * op, int way)> run;

    // products of numbers of K that a case may take; 0: any number
    int64_t max_work;

    // null where the pool copies cells itself
    ggml_retention_copy_cells_t copy_cells;

    bool has_whole_gates; // of few tokens at least
};

inline void run_on_backend(ggml_backend_t backend, ggml_context * ctx, ggml_tensor * op) {
    ggml_cgraph * gf = ggml_new_graph(ctx);
    ggml_build_forward_expand(gf, op);
    CHECK(ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS);
}

inline std::vector<float> compute(const op_runner & runner, ggml_context * ctx, ggml_tensor * op, int way) {
    const std::vector<float> poison(ggml_nelements(op), NAN);
    ggml_backend_tensor_set(op, poison.data(), 0, ggml_nbytes(op));
    runner.run(ctx, op, way);

    std::vector<float> res(ggml_nelements(op));
    ggml_backend_tensor_get(op, res.data(), 0, ggml_nbytes(op));
    return res;
}

// retention score

inline void test_score(const op_runner & runner, ggml_type type, int64_t n_ff, int64_t n_head, int64_t n_tokens,
        ggml_retention_gate_output output) {
    auto a = random_normal(rng, n_ff*n_tokens);
    auto w = random_normal(rng, n_ff*n_head, 0.2f);
    auto b = random_normal(rng, n_head, 8.0f); // both ends of the logsigmoid
    const auto packed = pack(type, n_ff, w);
    const auto want   = reference::score(n_ff, n_head, n_tokens, a.data(), w.data(), b.data(), output);

    const auto ctx = make_context();
    ggml_tensor * ta = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_ff, n_tokens);
    ggml_tensor * tw = ggml_new_tensor_2d(ctx.get(), type, n_ff, n_head);
    ggml_tensor * tb = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n_head);
    ggml_tensor * to = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_head, n_tokens);
    ggml_tensor * op = ggml_retention_gate(ctx.get(), to, ta, tw, tb, output);

    const ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), runner.backend));
    ggml_backend_tensor_set(ta, a.data(), 0, ggml_nbytes(ta));
    ggml_backend_tensor_set(tw, packed.data(), 0, ggml_nbytes(tw));
    ggml_backend_tensor_set(tb, b.data(), 0, ggml_nbytes(tb));

    CHECK(runner.supports(op));
    for (const int way : { 0, 1 }) {
        const auto got = compute(runner, ctx.get(), op, way);
        CHECK(nmse(got, want) < 1e-10);
        for (const float x : got) {
            CHECK(x <= 0.0f || output == GGML_RETENTION_GATE_SCORE);
        }
    }
}

// retention attention

struct attn_case {
    ggml_type type_k    = GGML_TYPE_F32;
    ggml_type type_v    = GGML_TYPE_F32;
    int64_t   n_embd_k  = 64;
    int64_t   n_embd_v  = 64;
    int64_t   n_head_kv = 2;
    int64_t   n_group   = 2;
    int64_t   n_seq     = 1;
    int64_t   n_tokens  = 1;
    int64_t   n_old     = 100; // the cell lists' lengths vary around it
    int32_t   page_size = 16;
    float     softcap   = 0.0f;
    bool      sinks     = false;
    bool      causal    = true;
    bool      stores    = true; // the op writes the new cells; else they are in the pool already

    std::string describe() const {
        char buf[256];
        snprintf(buf, sizeof(buf), "K %s V %s head %d/%d kv %d group %d seq %d tokens %d old %d page %d softcap %g sinks %d causal %d stores %d",
                ggml_type_name(type_k), ggml_type_name(type_v), (int) n_embd_k, (int) n_embd_v, (int) n_head_kv, (int) n_group,
                (int) n_seq, (int) n_tokens, (int) n_old, page_size, softcap, sinks, causal, stores);
        return buf;
    }
};

// Bounds on the NMSE, for cells rounded the same way on both sides. f32, f16 and bf16 cells are widened exactly, so
// only sums differ. With quantised K, q is rounded to q8_0 too, as in ggml's own kernels: 1/127 of the largest of 32.
inline double bound(ggml_type type_k) {
    return ggml_is_quantized(type_k) ? 2e-4 : 1e-7;
}

// whether the runner supports the case
inline bool test_attn(const op_runner & runner, const attn_case & c) {
    const int64_t work = c.n_tokens*c.n_head_kv*c.n_group*(c.n_old + c.n_tokens)*c.n_embd_k;
    if (runner.max_work > 0 && work > runner.max_work) {
        return false;
    }

    const int64_t n_head    = c.n_head_kv*c.n_group;
    const int64_t n_cell_lists = c.n_seq*c.n_head_kv;
    const float   scale     = 1.0f/std::sqrt((float) c.n_embd_k);

    // tokens: sequences take turns in runs of up to three
    std::vector<int32_t> tokens(3*c.n_tokens);
    std::vector<int64_t> n_new(c.n_seq, 0);
    for (int64_t t = 0; t < c.n_tokens; ++t) {
        const int64_t s = (t/3) % c.n_seq;
        tokens[3*t + 2] = n_new[s];
        tokens[3*t + 1] = ++n_new[s];
        tokens[3*t + 0] = s;
    }
    if (!c.causal) {
        for (int64_t t = 0; t < c.n_tokens; ++t) {
            tokens[3*t + 1] = n_new[tokens[3*t]];
        }
    }

    // cell lists: an empty one first, then lengths around n_old, so that last pages are empty, partial and full
    std::vector<reference::cell_list> cell_lists(n_cell_lists);
    std::vector<int32_t> table(2*n_cell_lists);
    std::vector<std::vector<uint8_t>> packed_k(n_cell_lists), packed_v(n_cell_lists);
    std::vector<float> k_new(c.n_embd_k*c.n_head_kv*c.n_tokens), v_new(c.n_embd_v*c.n_head_kv*c.n_tokens);
    int64_t n_pages = 0;
    for (int64_t i = 0; i < n_cell_lists; ++i) {
        auto & s = cell_lists[i];
        s.n_old = i == 0 && n_cell_lists > 1 ? 0 : c.n_old + (i*7)%13;

        const int64_t n = s.n_old + n_new[i/c.n_head_kv];
        s.k = random_normal(rng, n*c.n_embd_k);
        s.v = random_normal(rng, n*c.n_embd_v);
        for (int64_t t = 0; t < c.n_tokens; ++t) {
            if (tokens[3*t] == i/c.n_head_kv) {
                const int64_t cell = s.n_old + tokens[3*t + 2];
                const int64_t row  = t*c.n_head_kv + i%c.n_head_kv;
                std::copy_n(&s.k[cell*c.n_embd_k], c.n_embd_k, &k_new[row*c.n_embd_k]);
                std::copy_n(&s.v[cell*c.n_embd_v], c.n_embd_v, &v_new[row*c.n_embd_v]);
            }
        }
        packed_k[i] = pack(c.type_k, c.n_embd_k, s.k);
        packed_v[i] = pack(c.type_v, c.n_embd_v, s.v);

        table[2*i + 0] = n_pages;
        table[2*i + 1] = s.n_old;
        n_pages += (n + c.page_size - 1)/c.page_size;
    }

    // pages in random order, with a gap between the K and V blocks when the rows' sizes ask for it
    const size_t row_k    = ggml_row_size(c.type_k, c.n_embd_k);
    const size_t row_v    = ggml_row_size(c.type_v, c.n_embd_v);
    const size_t v_offset = (c.page_size*row_k + row_v - 1)/row_v*row_v;
    const size_t unit     = std::lcm(row_k, row_v);
    const size_t n_page   = (v_offset + c.page_size*row_v + unit - 1)/unit*unit;

    std::vector<int32_t> pages(n_pages);
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), rng);

    std::vector<uint8_t> pool(n_pages*n_page, 0xff); // unwritten cells are NaN: nobody may read them
    for (int64_t i = 0; i < n_cell_lists; ++i) {
        const int64_t n = c.stores ? cell_lists[i].n_old : packed_k[i].size()/row_k;
        for (int64_t j = 0; j < n; ++j) {
            uint8_t * page = pool.data() + pages[table[2*i] + j/c.page_size]*n_page;
            memcpy(page + (j % c.page_size)*row_k,            packed_k[i].data() + j*row_k, row_k);
            memcpy(page + (j % c.page_size)*row_v + v_offset, packed_v[i].data() + j*row_v, row_v);
        }
    }

    const auto q     = random_normal(rng, c.n_embd_k*n_head*c.n_tokens, 2.0f);
    const auto sinks = random_normal(rng, n_head);

    std::vector<float> want;
    for (int64_t t = 0; t < c.n_tokens; ++t) {
        for (int64_t h = 0; h < n_head; ++h) {
            const auto & s = cell_lists[tokens[3*t]*c.n_head_kv + h/c.n_group];
            const auto row = reference::attend(q.data() + (t*n_head + h)*c.n_embd_k, c.n_embd_k, c.n_embd_v, s,
                    s.n_old + tokens[3*t + 1], scale, c.softcap, c.sinks ? &sinks[h] : nullptr);
            want.insert(want.end(), row.begin(), row.end());
        }
    }

    const auto ctx = make_context();
    ggml_tensor * tq  = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, c.n_embd_k, n_head, c.n_tokens);
    ggml_tensor * tp  = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n_pages);
    ggml_tensor * ts  = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 2, n_cell_lists);
    ggml_tensor * tt  = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 3, c.n_tokens);
    ggml_tensor * tsk = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n_head);
    ggml_tensor * tkn = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, c.n_embd_k, c.n_head_kv, c.n_tokens);
    ggml_tensor * tvn = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, c.n_embd_v, c.n_head_kv, c.n_tokens);
    // with room for what a backend pads V by
    ggml_tensor * tk  = ggml_new_tensor_2d(ctx.get(), c.type_k, c.n_embd_k, (pool.size() + 4096)/row_k);
    const ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), runner.backend));

    // V is a second view of K's bytes
    const auto ctx_v = make_context();
    ggml_tensor * tv = ggml_new_tensor_2d(ctx_v.get(), c.type_v, c.n_embd_v, pool.size()/row_v);
    ggml_backend_tensor_alloc(tk->buffer, tv, tk->data);

    ggml_retention_attn_params params = {};
    params.scale         = scale;
    params.softcap       = c.softcap;
    params.n_head_kv     = c.n_head_kv;
    params.page_size     = c.page_size;
    params.k_stride      = n_page/row_k;
    params.v_stride      = n_page/row_v;
    params.v_first       = v_offset/row_v;
    params.list_stride = c.n_head_kv;
    params.few_tokens  = c.n_tokens < 10;

    const auto ctx_op = make_context();
    ggml_tensor * op = ggml_retention_attn(ctx_op.get(), tq, tk, tv, c.stores ? tkn : nullptr, c.stores ? tvn : nullptr,
            tp, ts, tt, c.sinks ? tsk : nullptr, &params);
    if (!runner.supports(op)) {
        return false;
    }
    const ggml_backend_buffer_ptr buf_op(ggml_backend_alloc_ctx_tensors(ctx_op.get(), runner.backend));

    ggml_backend_tensor_set(tq,  q.data(),      0, ggml_nbytes(tq));
    ggml_backend_tensor_set(tp,  pages.data(),  0, ggml_nbytes(tp));
    ggml_backend_tensor_set(ts,  table.data(),  0, ggml_nbytes(ts));
    ggml_backend_tensor_set(tt,  tokens.data(), 0, ggml_nbytes(tt));
    ggml_backend_tensor_set(tsk, sinks.data(),  0, ggml_nbytes(tsk));
    ggml_backend_tensor_set(tkn, k_new.data(),  0, ggml_nbytes(tkn));
    ggml_backend_tensor_set(tvn, v_new.data(),  0, ggml_nbytes(tvn));

    static int n_calls = 0;
    std::vector<float> results[2];
    for (const int way : { 0, 1 }) {
        if (runner.one_way && way != n_calls%2) {
            continue;
        }
        ggml_backend_tensor_set(tk, pool.data(), 0, pool.size());
        results[way] = compute(runner, ctx_op.get(), op, way);
    }
    const auto & one = results[runner.one_way ? n_calls%2 : 0];
    const auto & two = runner.one_way ? one : results[1];
    ++n_calls;

    const double error = nmse(one, want);
    if (!(error < bound(c.type_k))) {
        fprintf(stderr, "NMSE %g, bound %g: %s\n", error, bound(c.type_k), c.describe().c_str());
        exit(1);
    }
    if (one != two) {
        fprintf(stderr, "the result depends on how the op is run: %s\n", c.describe().c_str());
        exit(1);
    }
    return true;
}

// a chain of whole gates; whether the runner supports it
inline bool test_whole_gates(const op_runner & runner, ggml_type type, int64_t n_layers, int64_t n_tokens, int activation, bool has_mid) {
    // with many tokens neither is a multiple of what a block takes
    const int64_t n_embd = n_tokens > 8 ? 160 : 96, n_ff = n_tokens > 8 ? 96 : 64, n_head = 3;

    const auto dense = [&](const std::vector<float> & x, int64_t n_in, int64_t n_out, const std::vector<float> & w, const std::vector<float> & b) {
        std::vector<float> res(n_tokens*n_out);
        for (int64_t i = 0; i < n_tokens*n_out; ++i) {
            double u = b[i%n_out];
            for (int64_t j = 0; j < n_in; ++j) {
                u += (double) w[i%n_out*n_in + j]*x[i/n_out*n_in + j];
            }
            switch (activation) {
                case GGML_RETENTION_SILU:     u = u/(1.0 + std::exp(-u)); break;
                case GGML_RETENTION_GELU:     u = 0.5*u*(1.0 + std::tanh(0.7978845608*(u + 0.044715*u*u*u))); break;
                case GGML_RETENTION_GELU_ERF: u = 0.5*u*(1.0 + std::erf(u*0.7071067812)); break;
                default:                      u = std::max(u, 0.0); break;
            }
            res[i] = u;
        }
        return res;
    };

    const auto ctx = ggml_context_ptr(ggml_init({ 1024*ggml_tensor_overhead() + 2*ggml_graph_overhead(), nullptr, true }));
    std::vector<std::pair<ggml_tensor *, std::vector<uint8_t>>> data;
    const auto tensor = [&](ggml_type t, int64_t ne0, int64_t ne1, std::vector<float> & x) {
        data.emplace_back(ggml_new_tensor_2d(ctx.get(), t, ne0, ne1), pack(t, ne0, x));
        return data.back().first;
    };

    ggml_tensor * all = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_head*n_tokens, n_layers);
    ggml_tensor * gate = nullptr;
    std::vector<float> want;
    for (int64_t il = 0; il < n_layers; ++il) {
        auto h   = random_normal(rng, n_embd*n_tokens);
        auto in  = random_normal(rng, n_embd*n_ff, 0.1f), mid = random_normal(rng, n_ff*n_ff, 0.1f), out = random_normal(rng, n_ff*n_head, 0.3f);
        auto bi  = random_normal(rng, n_ff), bm = random_normal(rng, n_ff), bo = random_normal(rng, n_head, 4.0f);

        ggml_retention_gate_weights weights = {};
        ggml_tensor * th = tensor(GGML_TYPE_F32, n_embd, n_tokens, h);
        weights.in_w    = tensor(type, n_embd, n_ff, in);
        weights.in_b    = tensor(GGML_TYPE_F32, n_ff, 1, bi);
        weights.mid_w   = has_mid ? tensor(type, n_ff, n_ff, mid) : nullptr;
        weights.mid_b   = has_mid ? tensor(GGML_TYPE_F32, n_ff, 1, bm) : nullptr;
        weights.score_w = tensor(type, n_ff, n_head, out);
        weights.score_b = tensor(GGML_TYPE_F32, n_head, 1, bo);

        auto x = dense(h, n_embd, n_ff, in, bi);
        if (has_mid) {
            x = dense(x, n_ff, n_ff, mid, bm);
        }
        const auto score = reference::score(n_ff, n_head, n_tokens, x.data(), out.data(), bo.data(), GGML_RETENTION_GATE_LOG_BETA);
        want.insert(want.end(), score.begin(), score.end());

        ggml_tensor * dst = ggml_view_2d(ctx.get(), all, n_head, n_tokens, n_head*sizeof(float), il*all->nb[1]);
        const ggml_retention_gate_params params = { GGML_RETENTION_GATE_LOG_BETA, activation, il + 1 == n_layers };
        gate = ggml_retention_whole_gate(ctx.get(), dst, th, gate, &weights, &params);
    }
    if (n_tokens > 8 && !runner.supports(gate)) {
        return false; // the device has no fast products for it
    }
    CHECK(runner.supports(gate));
    const ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), runner.backend));
    for (const auto & [t, bytes] : data) {
        ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
    }

    for (const int way : { 0, 1 }) {
        std::vector<float> got(want.size(), NAN);
        ggml_backend_tensor_set(all, got.data(), 0, ggml_nbytes(all));
        runner.run(ctx.get(), gate, way);
        ggml_backend_tensor_get(all, got.data(), 0, ggml_nbytes(all));
        CHECK(nmse(got, want) < 1e-9);
    }
    return true;
}

// cells of a pool copied over others, as an eviction does
inline void test_copies(const op_runner & runner, ggml_type type, int64_t n_embd) {
    const auto ctx = make_context();
    ggml_tensor * k = ggml_new_tensor_2d(ctx.get(), type, n_embd, 400);
    const ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), runner.backend));

    std::vector<uint8_t> bytes(ggml_nbytes(k));
    for (auto & x : bytes) {
        x = rng();
    }
    ggml_backend_tensor_set(k, bytes.data(), 0, bytes.size());

    // K rows below 200, V rows from there on; each of the first 100 is written once, from the others
    std::vector<ggml_retention_copy> copies;
    for (int32_t i = 0; i < 77; ++i) {
        copies.push_back({ 100 + (i*37)%100, i, 300 + (i*11)%100, 200 + i });
    }
    for (const auto & copy : copies) {
        memcpy(bytes.data() + copy.k_dst*k->nb[1], bytes.data() + copy.k_src*k->nb[1], k->nb[1]);
        memcpy(bytes.data() + copy.v_dst*k->nb[1], bytes.data() + copy.v_src*k->nb[1], k->nb[1]);
    }
    runner.copy_cells(k, k, copies.data(), copies.size());

    std::vector<uint8_t> got(bytes.size());
    ggml_backend_tensor_get(k, got.data(), 0, got.size());
    CHECK(got == bytes);
}

// run all cases that the runner supports; returns how many
inline int test_retention_ops(const op_runner & runner) {
    int n_cases = 0;
    int n_run   = 0;

    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0 }) {
        for (const int64_t n_tokens : { 1, 3, 8, 37 }) {
            for (int activation = 0; activation < 4 && runner.has_whole_gates; ++activation) {
                const int64_t n_layers = activation == 0 && n_tokens <= 8 ? 70 : 2;
                n_run += test_whole_gates(runner, type, n_layers, n_tokens, activation, activation != 1);
            }
        }
    }
    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        for (const int64_t n_embd : { 64, 96 }) {
            if (runner.copy_cells) {
                test_copies(runner, type, n_embd);
                ++n_run;
            }
        }
    }

    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0 }) {
        for (const int64_t n_ff : { 64, 512 }) {
            for (const int64_t n_head : { 1, 3, 8 }) {
                for (const int64_t n_tokens : { 1, 2, 37, 512 }) {
                    const auto before = rng; // both of the same numbers
                    for (const auto output : { GGML_RETENTION_GATE_LOG_BETA, GGML_RETENTION_GATE_SCORE }) {
                        rng = before;
                        test_score(runner, type, n_ff, n_head, n_tokens, output);
                    }
                    ++n_cases;
                }
            }
        }
    }

    const auto run = [&](attn_case c) {
        c.stores = n_cases%3 != 0;
        n_run += test_attn(runner, c);
        ++n_cases;
    };

    const ggml_type types[] = { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };

    // head sizes and types; 8, 40, 80 and 112 are no multiples of a quantised block, 100 of no vector
    for (const ggml_type type : types) {
        for (const int64_t head : { 8, 32, 40, 64, 80, 96, 100, 112, 128, 160, 192, 256 }) {
            if (head % ggml_blck_size(type) != 0) {
                continue;
            }
            for (const int64_t n_tokens : { 1, 5, 70 }) {
                attn_case c;
                c.type_k   = c.type_v   = type;
                c.n_embd_k = c.n_embd_v = head;
                c.n_tokens = n_tokens;
                run(c);
            }
        }
    }
    // types without a reader of ours, which ggml unpacks
    for (const ggml_type type : { GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_IQ4_NL, GGML_TYPE_Q4_K }) {
        for (const int64_t n_tokens : { 1, 33 }) {
            attn_case c;
            c.type_k   = c.type_v   = type;
            c.n_embd_k = c.n_embd_v = std::max<int64_t>(64, ggml_blck_size(type));
            c.n_tokens = n_tokens;
            run(c);
        }
    }
    // K and V of different types and sizes
    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q4_0 }) {
        attn_case c;
        c.type_k   = GGML_TYPE_Q8_0;
        c.type_v   = type;
        c.n_embd_k = 96;
        c.n_tokens = 3;
        run(c);
        std::swap(c.type_k, c.type_v);
        run(c);
    }
    // group sizes and numbers of tokens, with a partial page, full pages and many pages
    for (const int64_t group : { 1, 2, 3, 4, 5, 6, 7, 8, 12, 16 }) {
        for (const int64_t n_tokens : { 1, 2, 3, 9, 33, 128, 512 }) {
            attn_case c;
            c.type_k   = c.type_v = GGML_TYPE_F16;
            c.n_group  = group;
            c.n_tokens = n_tokens;
            c.n_old    = n_tokens < 100 ? 400 : 40;
            run(c);
        }
    }
    for (const int32_t page_size : { 8, 64, 256 }) {
        for (const int64_t n_old : { 0, 1, 15, 16, 64, 700, 5000 }) {
            for (const int64_t n_tokens : { 1, 20 }) {
                attn_case c;
                c.page_size = page_size;
                c.n_old     = n_old;
                c.n_tokens  = n_tokens;
                run(c);
            }
        }
    }
    // one long cell list, which is cut into chunks for the threads, of types with readers of different steps
    for (const ggml_type type : types) {
        for (const int64_t n_tokens : { 1, 40 }) {
            attn_case c;
            c.type_k    = c.type_v = type;
            c.n_head_kv = 1;
            c.n_old     = 20000 + n_tokens; // the last chunk, page and step are odd
            c.n_tokens  = n_tokens;
            c.page_size = 128;
            run(c);
        }
    }
    // soft-cap, sinks, several sequences, non-causal
    for (const int64_t n_tokens : { 1, 4, 100 }) {
        for (int bits = 0; bits < 16; ++bits) {
            attn_case c;
            c.n_tokens = n_tokens;
            c.softcap  = bits & 1 ? 20.0f : 0.0f;
            c.sinks    = bits & 2;
            c.n_seq    = bits & 4 ? 3 : 1;
            c.causal   = !(bits & 8);
            run(c);
        }
    }

    return n_run;
}
