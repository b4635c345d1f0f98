// retain-score.cpp - scores for the cells of a sequence: the policy's or the hook's, and which cells are above them

#include "retain-memory.h"

#include "llama-model.h"

#include <algorithm>

void retain_memory::score_pool(retain_seq & seq, size_t pool) {
    const auto heads = heads_of(pool);

    std::vector<int64_t> sizes;
    for (const auto & [layer, h] : heads) {
        sizes.push_back(seq.cell_lists[layer->list_first + h].size());
    }
    select.start(sizes);
    scores.resize(select.n_cells());

    // call fn(number of the list, layer, head) for each cell list, in several threads
    const auto for_each = [&](int64_t n_parts, const auto & fn) {
        threads.run(heads.size(), n_parts, [&](int64_t, int64_t begin, int64_t end) {
            for (int64_t l = begin; l < end; ++l) {
                fn(l, *heads[l].first, heads[l].second);
            }
        });
    };
    const int64_t n_parts = threads.n_parts(select.n_cells());

    if (policy->score) {
        // a device need not be safe to read from several threads
        const bool reads_device = policy->needs_keys && !ggml_backend_buft_is_host(pools[pool]->get_buft());
        for_each(reads_device ? 1 : n_parts, [&](int64_t l, const retain_layer & layer, int32_t h) {
            score_list(seq, layer, h, seq.cell_lists[layer.list_first + h], *pools[pool], scores.data() + select.first_cell(l));
        });
    } else {
        std::fill(scores.begin(), scores.end(), 0.0f); // the hook says the rest
    }
    if (callback) {
        score_by_hook(seq, pool);
    }

    const int64_t n_recent = n_recent_of(seq);
    for_each(n_parts, [&](int64_t l, const retain_layer & layer, int32_t h) {
        const auto & cell_list = seq.cell_lists[layer.list_first + h];
        select.set_list(l, cell_list.ordinal.data(), scores.data() + select.first_cell(l));
        if (config.n_sink > 0 || n_recent > 0) {
            select.raise_ordinals(l, config.n_sink, seq.n_seen - n_recent);
        }
        for (int64_t i = 0; !seq.pins.empty() && i < cell_list.size(); ++i) {
            if (seq.is_pinned(cell_list.pos[i])) {
                select.raise(l, i);
            }
        }
        if (config.min_per_head > 0) {
            select.raise_best(l, config.min_per_head);
        }
    });
}

// the newest tokens that are kept: as many as were asked for, or as the maker of the gates wants kept, but of those no
// more than half of what sinks and pins leave, so that scores decide too
int64_t retain_memory::n_recent_of(const retain_seq & seq) const {
    if (!policy->needs_gates) {
        return config.n_recent;
    }
    const int64_t n_most = std::max<int64_t>(0, config.residents(seq.budget) - config.n_sink - seq.n_tokens_in(seq.pins))/2;
    return std::max<int64_t>(config.n_recent, std::min<int64_t>(gates->get_window(), n_most));
}

void retain_memory::score_list(
        const retain_seq & seq, const retain_layer & layer, int32_t h, const retain_cell_list & cell_list, const retain_pool & pool,
        float * dst) const {
    std::vector<float>   keys, queries, sinks;
    std::vector<int32_t> query_ordinal;

    retain_policy_input in = {};
    in.il        = layer.il;
    in.head      = h;
    in.n_seen    = seq.n_seen;
    in.lookahead = config.lookahead;
    in.seed      = config.seed;
    in.n_cells   = cell_list.size();
    in.ordinal   = cell_list.ordinal.data();
    in.log_beta  = cell_list.log_beta.data();
    in.is_static = has_static_gates();

    if (policy->needs_keys) {
        cell_list.read_keys(pool, keys);
        const bool rotated = archive && &pool == &archive->get_pool() && archive->is_rotated();
        for (int64_t i = 0; rotated && i < in.n_cells; ++i) {
            ggml_retention_rotate(keys.data() + i*layer.n_embd_k, layer.n_embd_k); // back
        }
        in.n_embd_k = layer.n_embd_k;
        in.keys     = keys.data();
    }
    if (policy->needs_queries) {
        query_ordinal    = seq.queries.window_ordinals();
        in.n_queries     = seq.queries.n_window();
        in.n_group       = layer.n_head/layer.n_head_kv;
        in.query_ordinal = query_ordinal.data();

        const int64_t n = in.n_group*layer.n_embd_k;
        queries    = seq.queries.window_slice(layer.query_first + h*n, n);
        in.queries = queries.data();

        const auto & hparams = model.hparams;
        in.softcap = hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f;
        if (const ggml_tensor * all = model.layers[layer.il].attn_sinks) {
            sinks.resize(in.n_group);
            ggml_backend_tensor_get(all, sinks.data(), h*in.n_group*sizeof(float), in.n_group*sizeof(float));
            in.sinks = sinks.data();
        }
    }

    policy->score(in, dst);
}

void retain_memory::score_by_hook(const retain_seq & seq, size_t pool) {
    const int64_t n_seen = seq.n_seen;

    std::vector<int32_t> il, head, pos, age;
    std::vector<float>   log_beta;

    for_each_cell_list(seq, pool, [&](const retain_layer & layer, int32_t h, const retain_cell_list & cell_list) {
        il.insert(il.end(), cell_list.size(), layer.il);
        head.insert(head.end(), cell_list.size(), h);
        pos.insert(pos.end(), cell_list.pos.begin(), cell_list.pos.end());
        for (const int32_t before : cell_list.ordinal) {
            age.push_back((int32_t) (n_seen + 1 - before));
        }
        log_beta.insert(log_beta.end(), cell_list.log_beta.begin(), cell_list.log_beta.end());
    });

    std::vector<float> own(scores);
    in_hook = true;
    const bool replaced = callback(callback_data, seq.id, n_seen, pos.size(), il.data(), head.data(), pos.data(), log_beta.data(), age.data(), own.data());
    in_hook = false;
    if (replaced) {
        scores.swap(own);
    }
}
