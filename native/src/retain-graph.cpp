#include "retain-graph.h"
#include "retain-mixed.h"

#include "ggml-retention.h"
#include "llama-batch.h"
#include "llama-cparams.h"
#include "llama-model.h"

#include <bitset>
#include <cmath>
#include <cstring>

static ggml_tensor * new_input(ggml_context * ctx, ggml_type type, int64_t ne0, int64_t ne1, const char * name) {
    ggml_tensor * res = ggml_new_tensor_2d(ctx, type, ne0, ne1);
    ggml_set_input(res);
    ggml_set_name(res, name);
    return res;
}

std::vector<float> retain_hadamard(int64_t n) {
    std::vector<float> res(n*n);

    const float x = 1.0f/sqrtf((float) n);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            res[i*n + j] = std::bitset<64>(i & j).count() % 2 ? -x : x;
        }
    }
    return res;
}

retain_graph_input::retain_graph_input(const llama_hparams & hparams, const llama_cparams & cparams, const retain_context * mctx) :
    llm_graph_input_attn_kv(hparams, cparams, mctx), retain(mctx) {
}

void retain_graph_input::build(ggml_context * ctx, const llama_ubatch & ubatch) {
    const auto & m = mem();

    n_tokens   = ubatch.n_tokens;
    few_tokens = has_few_tokens(ubatch);

    places = new_input(ctx, GGML_TYPE_I32, 3*n_tokens + 2*n_table() + m.n_pages(), 1, "retain_places");
    views  = view_places(ctx, places);

    if (m.get_n_rot_k() > 0) {
        self_k_rot = new_input(ctx, GGML_TYPE_F32, m.get_n_rot_k(), m.get_n_rot_k(), "attn_inp_k_rot");
        rot_k = retain_hadamard(m.get_n_rot_k());
    }
    if (m.get_n_rot_v() > 0) {
        self_v_rot = new_input(ctx, GGML_TYPE_F32, m.get_n_rot_v(), m.get_n_rot_v(), "attn_inp_v_rot");
        rot_v = retain_hadamard(m.get_n_rot_v());
    }

    const uint32_t n_layer = m.get_model().hparams.n_layer_all;
    gated.resize(n_layer, false);
    norms.resize(n_layer, nullptr);
    if (m.keeps_queries()) {
        query_tokens = new_input(ctx, GGML_TYPE_I32, m.n_query_rows(n_tokens), 1, "retain_query_tokens");
        query_rows.resize(n_layer, nullptr);
    }
}

// the cell lists, and with an archive its lists and a row for each sequence
int64_t retain_graph_input::n_table() const {
    const int64_t n_lists = mem().n_seqs()*mem().get_n_cell_lists();
    return mem().get_archive() ? 2*n_lists + mem().n_seqs() : n_lists;
}

// A gate as one op, whose products on a GPU take in its biases and functions. With few tokens the kernels wait for one another longer
// than they compute; then those of all layers of a pool are computed together. Null where neither is.
ggml_tensor * retain_graph_input::build_chained_gate(
        const llm_graph_context & llm, const retain_layer & layer, ggml_tensor * h, ggml_tensor * dst) {
    ggml_backend_buffer_type_t buft = mem().pool_of(layer).get_buft();
    if (!retain_pool::copy_function(buft)) {
        return nullptr;
    }

    const bool is_alone = llm.n_tokens > MAX_CHAINED_TOKENS; // to keep the inputs of all gates would take much memory
    if (is_alone) {
        // ggml takes where tensors lie from the last graph with as many nodes. Of a prompt's graph it must not: there the memory of
        // h is used again. So that graph gets a node more, which computes nothing.
        h = ggml_view_2d(llm.ctx0, h, h->ne[0], h->ne[1], h->nb[1], 0);
    }
    bool is_last = true;
    for (const auto & other : mem().get_layers()) {
        is_last = is_last && !(other.il > layer.il && other.pool == layer.pool && mem().get_gates()->has_layer(other.il));
    }
    gate_chains.resize(mem().get_layers().size(), nullptr);
    ggml_tensor *& previous = gate_chains[layer.pool];
    ggml_tensor * cur = mem().get_gates()->build_chained(llm.ctx0, layer.il, h, dst, previous, is_alone || is_last);
    if (!cur || !ggml_backend_dev_supports_op(ggml_backend_buft_get_device(buft), cur)) {
        return nullptr;
    }
    if (!is_alone) {
        ggml_set_output(h->view_src ? h->view_src : h); // so that its memory is not used again before the last gate
        previous = cur;
    }
    return cur;
}

void retain_graph_input::build_gate(const llm_graph_context & llm, const retain_layer & layer, ggml_tensor * h) {
    // the layers' log betas follow each other, so that one transfer brings them all to the host
    ggml_tensor * all = mem().pool_of(layer).get_log_beta();
    ggml_tensor * dst = ggml_view_2d(llm.ctx0, all, layer.n_head_kv, llm.n_tokens, layer.n_head_kv*sizeof(float),
            layer.head_first*llm.n_tokens*sizeof(float));

    ggml_tensor * cur = build_chained_gate(llm, layer, h, dst);
    if (!cur) {
        cur = mem().get_gates()->build(llm.ctx0, layer.il, h, dst);
    }
    llm.cb(cur, "retention_log_beta", layer.il);

    ggml_build_forward_expand(llm.gf, cur);
    gated[layer.il] = true;
}

bool retain_graph_input::build_gate_of_norm(const llm_graph_context & llm, const retain_layer & layer) {
    ggml_tensor * norm = norms[layer.il];
    if (norm) {
        build_gate(llm, layer, norm);
    }
    return norm != nullptr;
}

void retain_graph_input::build_queries(const llm_graph_context & llm, const retain_layer & layer, ggml_tensor * q, float kq_scale) {
    if (!query_tokens) {
        return;
    }

    ggml_tensor * cur = ggml_is_contiguous(q) ? q : ggml_cont(llm.ctx0, q);
    cur = ggml_reshape_2d(llm.ctx0, cur, cur->ne[0]*cur->ne[1], cur->ne[2]);
    cur = ggml_get_rows(llm.ctx0, cur, query_tokens);
    cur = ggml_scale(llm.ctx0, cur, kq_scale);
    llm.cb(cur, "retention_queries", layer.il);

    ggml_set_output(cur); // it is read after the graph has run
    ggml_build_forward_expand(llm.gf, cur);
    query_rows[layer.il] = cur;
}

// Have a tensor computed where the pool is: the scheduler would rather copy a pool than move an op away from its neighbours.
static void compute_beside(ggml_backend_sched_t sched, ggml_tensor * cur, ggml_backend_buffer_type_t buft) {
    ggml_backend_sched_set_tensor_backend(sched, cur, retain_pool::backend_of(sched, buft));
}

retain_graph_input::place_views retain_graph_input::view_places(ggml_context * ctx, ggml_tensor * of) const {
    place_views res;
    res.tokens     = ggml_view_2d(ctx, of, 3, n_tokens,  3*sizeof(int32_t), 0);
    res.cell_lists = ggml_view_2d(ctx, of, 2, n_table(), 2*sizeof(int32_t), 3*n_tokens*sizeof(int32_t));
    res.pages      = ggml_view_1d(ctx, of, mem().n_pages(), (3*n_tokens + 2*n_table())*sizeof(int32_t));
    return res;
}

const retain_graph_input::place_views & retain_graph_input::places_for(const llm_graph_context & llm, const retain_layer & layer) {
    ggml_backend_buffer_type_t buft = mem().pool_of(layer).get_buft();
    if (ggml_backend_buft_is_host(buft)) {
        return views;
    }
    pool_views.resize(mem().get_layers().size());
    place_views & res = pool_views[layer.pool];
    if (!res.tokens) {
        // views of the input would be copied to the device each for itself, those of a copy there are there already
        ggml_tensor * there = ggml_cont(llm.ctx0, places);
        compute_beside(llm.sched, there, buft);
        res = view_places(llm.ctx0, there);
    }
    return res;
}

// K or V of new tokens as [n_embd, n_head_kv, n_tokens]: some models pass all heads as one row
static ggml_tensor * by_heads(ggml_context * ctx, ggml_tensor * x, int64_t n_embd, int64_t n_head_kv) {
    if (!x || (x->ne[0] == n_embd && x->ne[1] == n_head_kv)) {
        return x;
    }
    x = ggml_is_contiguous(x) ? x : ggml_cont(ctx, x);
    return ggml_reshape_3d(ctx, x, n_embd, n_head_kv, ggml_nelements(x)/(n_embd*n_head_kv));
}

ggml_tensor * retain_graph_input::build_attn(
        const llm_graph_context & llm,
        const retain_layer      & layer,
        ggml_tensor             * q,
        ggml_tensor             * k,
        ggml_tensor             * v,
        ggml_tensor             * sinks,
        float                     kq_scale) {
    const auto & pool = mem().pool_of(layer);

    k = by_heads(llm.ctx0, k, layer.n_embd_k, layer.n_head_kv);
    v = by_heads(llm.ctx0, v, layer.n_embd_v, layer.n_head_kv);

    ggml_retention_attn_params params = {};
    pool.set_layout(params);
    params.scale       = kq_scale;
    params.softcap     = llm.hparams.attn_soft_cap ? llm.hparams.f_attn_logit_softcapping : 0.0f;
    params.n_head_kv   = layer.n_head_kv;
    params.list_first  = layer.list_first;
    params.list_stride = mem().get_n_cell_lists();
    params.few_tokens  = few_tokens;

    const place_views & at = places_for(llm, layer);
    ggml_tensor * cur = ggml_retention_attn(llm.ctx0, q, pool.get_k(), pool.get_v(), k, v, at.pages, at.cell_lists, at.tokens, sinks, &params);
    if (const auto * archive = mem().get_archive()) {
        ggml_retention_attn_add_archive(cur, archive->get_data(), mem().n_recalled_max(), retain_archive::PAGE_SIZE,
                archive->get_type_k(), archive->get_type_v(), archive->is_rotated(), mem().n_seqs()*mem().get_n_cell_lists());
    }
    compute_beside(llm.sched, cur, pool.get_buft());
    cur = ggml_reshape_2d(llm.ctx0, cur, cur->ne[0]*cur->ne[1], cur->ne[2]);
    ggml_build_forward_expand(llm.gf, cur);

    return cur;
}

bool retain_graph_input::can_reuse(const llm_graph_params & params) {
    retain = retain_find_context(params.mctx);
    mctx   = retain;

    return retain && n_tokens == params.ubatch.n_tokens && few_tokens == has_few_tokens(params.ubatch) &&
        mem().keeps_queries() == (query_tokens != nullptr);
}

void retain_graph_input::set_input(const llama_ubatch * ubatch) {
    const int64_t t_start = ggml_time_us();

    set_tokens(*ubatch);
    set_cells(*ubatch);
    if (query_tokens) {
        set_queries(*ubatch);
    }

    if (self_k_rot) {
        memcpy(self_k_rot->data, rot_k.data(), ggml_nbytes(self_k_rot));
    }
    if (self_v_rot) {
        memcpy(self_v_rot->data, rot_v.data(), ggml_nbytes(self_v_rot));
    }

    mem().add_input_time((ggml_time_us() - t_start)*1e-6);
}

void retain_graph_input::set_tokens(const llama_ubatch & ubatch) {
    int32_t * dst = (int32_t *) places->data;

    std::vector<int32_t> n_new(mem().n_seqs(), 0);
    for (uint32_t t = 0; t < ubatch.n_tokens; ++t) {
        const llama_seq_id s = ubatch.seq_id[t][0];
        dst[3*t + 2] = n_new[s];
        dst[3*t + 1] = ++n_new[s];
        dst[3*t + 0] = s;
    }
    // some models see pictures non-causally in their sliding windows only
    if (!cparams.causal_attn && hparams.non_causal_type != LLAMA_NON_CAUSAL_TYPE_SWA_ONLY) {
        for (uint32_t t = 0; t < ubatch.n_tokens; ++t) {
            dst[3*t + 1] = n_new[dst[3*t]];
        }
    }
}

void retain_graph_input::set_cells(const llama_ubatch & ubatch) {
    const auto & m = mem();

    const auto new_tokens = m.tokens_by_seq(ubatch);

    int32_t * list = (int32_t *) places->data + 3*n_tokens;
    int32_t * page = list + 2*n_table();

    const int64_t n_lists = m.get_n_cell_lists();
    const int64_t n_all   = m.n_seqs()*n_lists;

    int64_t n_pages = 0;
    const auto put = [&](int64_t at, const retain_cell_list & src, int64_t n_old) {
        list[2*at + 0] = n_pages;
        list[2*at + 1] = n_old;

        std::copy(src.pages.begin(), src.pages.end(), page + n_pages);
        n_pages += src.pages.size();
    };
    for (uint32_t i = 0; i < ubatch.n_seqs_unq; ++i) {
        const llama_seq_id s   = ubatch.seq_id_unq[i];
        const auto       & seq = m.get_seq(s);
        for (int64_t l = 0; l < n_lists; ++l) {
            put(s*n_lists + l, seq.cell_lists[l], seq.cell_lists[l].size() - (int64_t) new_tokens[s].size());
        }
        for (int64_t l = 0; l < (int64_t) seq.archived.size(); ++l) {
            put(n_all + s*n_lists + l, seq.archived[l], seq.archived[l].size());
        }
        if (m.get_archive()) {
            list[2*(2*n_all + s) + 0] = m.n_recalled(seq);
            list[2*(2*n_all + s) + 1] = 0;
        }
    }
}

void retain_graph_input::set_queries(const llama_ubatch & ubatch) {
    auto rows = mem().query_tokens(ubatch);
    rows.resize(query_tokens->ne[0], 0); // of these nobody reads the queries

    memcpy(query_tokens->data, rows.data(), ggml_nbytes(query_tokens));
    mem().set_query_rows(query_rows);
}
