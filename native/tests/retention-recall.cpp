// retention-recall.cpp - recall in the attention op: what is chosen, what comes out, and how often each cell was recalled

#include "retention-op-cases.h"

#include <algorithm>

namespace {

struct recall_case {
    ggml_type type_pool    = GGML_TYPE_F32;
    ggml_type type_archive = GGML_TYPE_Q4_0;
    int64_t   n_embd       = 64;
    int64_t   n_head_kv    = 2;
    int64_t   n_group      = 2;
    int64_t   n_seq        = 1;
    int64_t   n_tokens     = 1;
    int64_t   n_old        = 40;
    int64_t   n_archived   = 700; // the lists' lengths vary around it; the first is empty
    int64_t   n_recall     = 24;  // the second sequence recalls half as many
    int32_t   page_size    = 32;
    float     softcap      = 0.0f;
    bool      rotated      = true;

    std::string describe() const {
        return std::string(ggml_type_name(type_pool)) + "/" + ggml_type_name(type_archive) + " head " + std::to_string(n_embd) + " kv " +
            std::to_string(n_head_kv) + " group " + std::to_string(n_group) + " seq " + std::to_string(n_seq) + " tokens " +
            std::to_string(n_tokens) + " archived " + std::to_string(n_archived) + " recall " + std::to_string(n_recall);
    }
};

struct list_of_cells {
    reference::cell_list held;
    std::vector<float>   k, v; // archived
    std::vector<float>   turned_k;
    std::vector<int32_t> rows; // of the archived cells
    int64_t              n_archived;
};

// the softcapped logits of rows of keys
std::vector<double> logits_of(const float * q, const std::vector<float> & k, int64_t n_embd, int64_t n, double softcap) {
    std::vector<double> res(n);
    for (int64_t c = 0; c < n; ++c) {
        for (int64_t i = 0; i < n_embd; ++i) {
            res[c] += (double) q[i]*k[c*n_embd + i];
        }
        res[c] /= std::sqrt((double) n_embd);
        res[c]  = softcap != 0.0 ? softcap*std::tanh(res[c]/softcap) : res[c];
    }
    return res;
}

// a query as cells are looked for with it
std::vector<float> rounded_query(const float * q, const recall_case & c) {
    std::vector<float> res(q, q + c.n_embd);
    if (c.rotated) {
        ggml_retention_rotate(res.data(), c.n_embd);
    }
    if (c.type_archive != GGML_TYPE_Q4_0 && c.type_archive != GGML_TYPE_Q8_0) {
        return res;
    }
    float most = 0.0f;
    for (const float x : res) {
        most = std::max(most, std::fabs(x));
    }
    for (float & x : res) {
        x = std::round(x*(127.0f/most))*(most/127.0f);
    }
    return res;
}

double log_sum_exp(const std::vector<double> & x) {
    const double m = *std::max_element(x.begin(), x.end());
    double sum = 0.0;
    for (const double y : x) {
        sum += std::exp(y - m);
    }
    return m + std::log(sum);
}

void test_recall(ggml_backend_t backend, const recall_case & c) {
    const int64_t n_head  = c.n_head_kv*c.n_group;
    const int64_t n_lists = c.n_seq*c.n_head_kv;
    const int64_t n       = c.n_embd;

    std::vector<int32_t> tokens;
    std::vector<int64_t> n_new(c.n_seq, 0);
    for (int64_t t = 0; t < c.n_tokens; ++t) {
        const int32_t s = t%c.n_seq;
        tokens.insert(tokens.end(), { s, (int32_t) n_new[s] + 1, (int32_t) n_new[s] });
        ++n_new[s];
    }

    // pages of the pool are in order, the archive's are shuffled
    std::vector<list_of_cells> lists(n_lists);
    std::vector<int32_t> pages, table(2*(2*n_lists + c.n_seq), 0);
    std::vector<uint8_t> pool;

    const size_t  row_pool = ggml_row_size(c.type_pool, n);
    const size_t  row      = ggml_row_size(c.type_archive, n);
    const int64_t per_list = (c.n_archived + n_lists*3)/c.page_size + 1;
    const int64_t n_rows   = n_lists*per_list*c.page_size;

    std::vector<int32_t> numbers(n_lists*per_list);
    std::iota(numbers.begin(), numbers.end(), 0);
    std::shuffle(numbers.begin(), numbers.end(), rng);

    std::vector<uint8_t> archive(ggml_retention_archive_size(c.type_archive, n, c.type_archive, n, n_rows), 0xff); // NaN where nothing is
    memset(archive.data() + 2*n_rows*row, 0, n_rows*sizeof(uint32_t));

    for (int64_t i = 0; i < n_lists; ++i) {
        auto & list = lists[i];
        const int64_t n_cells = c.n_old + i + n_new[i/c.n_head_kv];
        list.held.n_old = c.n_old + i;
        list.held.k     = random_normal(rng, n_cells*n);
        list.held.v     = random_normal(rng, n_cells*n);
        table[2*i + 0]  = pages.size();
        table[2*i + 1]  = list.held.n_old;

        const auto packed_k = pack(c.type_pool, n, list.held.k), packed_v = pack(c.type_pool, n, list.held.v);
        for (int64_t first = 0; first < n_cells; first += c.page_size) {
            pages.push_back(pool.size()/(2*c.page_size*row_pool));
            pool.resize(pool.size() + 2*c.page_size*row_pool, 0xff);
            uint8_t * page = pool.data() + pool.size() - 2*c.page_size*row_pool;
            const size_t n_bytes = std::min<int64_t>(c.page_size, n_cells - first)*row_pool;
            memcpy(page,                        packed_k.data() + first*row_pool, n_bytes);
            memcpy(page + c.page_size*row_pool, packed_v.data() + first*row_pool, n_bytes);
        }
    }
    for (int64_t i = 0; i < n_lists; ++i) {
        auto & list = lists[i];
        list.n_archived = i == 0 ? 0 : c.n_archived + 3*i;
        list.k = random_normal(rng, list.n_archived*n);
        list.v = random_normal(rng, list.n_archived*n);
        table[2*(n_lists + i) + 0] = pages.size();
        table[2*(n_lists + i) + 1] = list.n_archived;

        // turned before they are rounded, and back for the reference
        const auto turn = [&](std::vector<float> & x) {
            for (int64_t j = 0; c.rotated && j < list.n_archived; ++j) {
                ggml_retention_rotate(x.data() + j*n, n);
            }
        };
        turn(list.k);
        turn(list.v);
        const auto packed_k = pack(c.type_archive, n, list.k), packed_v = pack(c.type_archive, n, list.v);
        list.turned_k = list.k;
        turn(list.k);
        turn(list.v);
        for (int64_t j = 0; j < list.n_archived; ++j) {
            const int32_t page = numbers[i*per_list + j/c.page_size];
            if (j%c.page_size == 0) {
                pages.push_back(page);
            }
            list.rows.push_back(page*c.page_size + j%c.page_size);
            memcpy(archive.data() + list.rows[j]*row,                packed_k.data() + j*row, row);
            memcpy(archive.data() + n_rows*row + list.rows[j]*row,   packed_v.data() + j*row, row);
        }
    }
    const auto recall_of = [&](int64_t s) { return s == 1 ? c.n_recall/2 : c.n_recall; };
    for (int64_t s = 0; s < c.n_seq; ++s) {
        table[2*(2*n_lists + s)] = recall_of(s);
    }

    // the reference
    const auto q = random_normal(rng, n*n_head*c.n_tokens, 2.0f);
    std::vector<float>    want;
    std::vector<uint32_t> counts(n_rows, 0);
    std::vector<bool>     close(n_rows, false); // whether rounding may decide over the cell
    for (int64_t t = 0; t < c.n_tokens; ++t) {
        for (int64_t kv = 0; kv < c.n_head_kv; ++kv) {
            const auto &  list = lists[tokens[3*t]*c.n_head_kv + kv];
            const int64_t held = list.held.n_old + tokens[3*t + 1];

            std::vector<double> score(list.n_archived, -INFINITY);
            for (int64_t g = 0; g < c.n_group; ++g) {
                const float * row_q = q.data() + (t*n_head + kv*c.n_group + g)*n;
                const double  ref   = log_sum_exp(logits_of(row_q, list.held.k, n, held, c.softcap));
                const auto    logit = logits_of(rounded_query(row_q, c).data(), c.rotated ? list.turned_k : list.k, n, list.n_archived, c.softcap);
                for (int64_t i = 0; i < list.n_archived; ++i) {
                    score[i] = std::max(score[i], logit[i] - ref);
                }
            }
            std::vector<int64_t> order(list.n_archived);
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return score[a] > score[b]; });
            const int64_t n_chosen = std::min<int64_t>(recall_of(tokens[3*t]), order.size());
            const double  last     = n_chosen > 0 ? score[order[n_chosen - 1]] : 0.0;
            for (int64_t i = 0; i < list.n_archived; ++i) {
                close[list.rows[i]] = close[list.rows[i]] || std::fabs(score[i] - last) < 1e-4;
            }

            reference::cell_list all;
            all.k.assign(list.held.k.begin(), list.held.k.begin() + held*n);
            all.v.assign(list.held.v.begin(), list.held.v.begin() + held*n);
            for (int64_t i = 0; i < n_chosen; ++i) {
                const int64_t cell = order[i];
                all.k.insert(all.k.end(), list.k.begin() + cell*n, list.k.begin() + (cell + 1)*n);
                all.v.insert(all.v.end(), list.v.begin() + cell*n, list.v.begin() + (cell + 1)*n);
                counts[list.rows[cell]] += 1;
            }
            for (int64_t g = 0; g < c.n_group; ++g) {
                const auto out = reference::attend(q.data() + (t*n_head + kv*c.n_group + g)*n, n, n, all, held + n_chosen,
                        1.0/std::sqrt((double) n), c.softcap, nullptr);
                want.insert(want.end(), out.begin(), out.end());
            }
        }
    }

    // the op
    const auto ctx = make_context();
    ggml_tensor * tq = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, n, n_head, c.n_tokens);
    ggml_tensor * tk = ggml_new_tensor_2d(ctx.get(), c.type_pool, n, pool.size()/row_pool);
    ggml_tensor * tp = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, pages.size());
    ggml_tensor * tl = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 2, table.size()/2);
    ggml_tensor * tt = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 3, c.n_tokens);
    ggml_tensor * ta = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I8, archive.size());

    ggml_retention_attn_params params = {};
    params.scale       = 1.0f/std::sqrt((float) n);
    params.softcap     = c.softcap;
    params.n_head_kv   = c.n_head_kv;
    params.page_size   = c.page_size;
    params.k_stride    = 2*c.page_size;
    params.v_stride    = 2*c.page_size;
    params.v_first     = c.page_size;
    params.list_stride = c.n_head_kv;

    ggml_tensor * op = ggml_retention_attn(ctx.get(), tq, tk, tk, nullptr, nullptr, tp, tl, tt, nullptr, &params);
    ggml_retention_attn_add_archive(op, ta, c.n_recall, c.page_size, c.type_archive, c.type_archive, c.rotated, n_lists);

    const ggml_backend_buffer_ptr buf(ggml_backend_alloc_ctx_tensors(ctx.get(), backend));
    ggml_backend_tensor_set(tq, q.data(),      0, ggml_nbytes(tq));
    ggml_backend_tensor_set(tk, pool.data(),   0, ggml_nbytes(tk));
    ggml_backend_tensor_set(tp, pages.data(),  0, ggml_nbytes(tp));
    ggml_backend_tensor_set(tl, table.data(),  0, ggml_nbytes(tl));
    ggml_backend_tensor_set(tt, tokens.data(), 0, ggml_nbytes(tt));

    std::vector<float> first;
    for (const int n_threads : { 1, 3 }) {
        ggml_backend_tensor_set(ta, archive.data(), 0, archive.size());
        ggml_backend_cpu_set_n_threads(backend, n_threads);
        run_on_backend(backend, ctx.get(), op);

        std::vector<float>    got(want.size());
        std::vector<uint32_t> got_counts(n_rows);
        ggml_backend_tensor_get(op, got.data(), 0, ggml_nbytes(op));
        ggml_backend_tensor_get(ta, got_counts.data(), 2*n_rows*row, n_rows*sizeof(uint32_t));

        const double error = nmse(got, want);
        if (!(error < bound(c.type_pool))) {
            fprintf(stderr, "NMSE %g, bound %g: %s\n", error, bound(c.type_pool), c.describe().c_str());
            exit(1);
        }
        for (int64_t i = 0; i < n_rows; ++i) {
            CHECK(got_counts[i] == counts[i] || close[i]);
        }
        CHECK(std::accumulate(got_counts.begin(), got_counts.end(), 0ll) == std::accumulate(counts.begin(), counts.end(), 0ll));
        if (n_threads > 1 && got != first) {
            fprintf(stderr, "the result depends on the number of threads: %s\n", c.describe().c_str());
            exit(1);
        }
        first = got;
    }
}

} // namespace

int main() {
    const ggml_backend_ptr backend(ggml_backend_cpu_init());

    int n_cases = 0;
    const auto run = [&](const recall_case & c) {
        test_recall(backend.get(), c);
        ++n_cases;
    };

    for (const ggml_type type : { GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, GGML_TYPE_F16, GGML_TYPE_Q5_0 }) {
        for (const int64_t n_embd : { 32, 64, 96, 128, 256 }) {
            for (const int64_t n_tokens : { 1, 9, 70 }) {
                recall_case c;
                c.type_archive = type;
                c.n_embd       = n_embd;
                c.n_tokens     = n_tokens;
                c.rotated      = type != GGML_TYPE_F16;
                run(c);
            }
        }
    }
    // from none to more than there are, where lists are cut and where they are not
    for (const int64_t n_recall : { 1, 2, 100, 300, 5000 }) {
        for (const int64_t n_archived : { 0, 1, 31, 100, 6000 }) {
            for (const int64_t n_tokens : { 1, 17 }) {
                recall_case c;
                c.n_recall   = n_recall;
                c.n_archived = n_archived;
                c.n_tokens   = n_archived > 1000 ? 1 : n_tokens;
                run(c);
            }
        }
    }
    for (const int64_t n_group : { 1, 3, 5, 8, 16 }) {
        for (const int64_t n_seq : { 1, 3 }) {
            for (const float softcap : { 0.0f, 10.0f }) {
                recall_case c;
                c.n_group  = n_group;
                c.n_seq    = n_seq;
                c.n_tokens = 2*n_seq;
                c.softcap  = softcap;
                run(c);
            }
        }
    }
    // many pieces of work, each of which looks its cells up itself
    {
        recall_case c;
        c.n_head_kv = 8;
        c.n_tokens  = 300;
        run(c);
    }
    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_BF16 }) {
        recall_case c;
        c.type_pool = type;
        c.n_seq     = 2;
        c.n_tokens  = 6;
        run(c);
    }
    printf("recall: %d cases agree with the reference\n", n_cases);
    return 0;
}
