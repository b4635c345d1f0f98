// retain-memory.cpp - making the memory, and taking a batch through it

#include "retain-memory.h"
#include "retain-error.h"

#include "llama-batch.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>

static int64_t max_cells_per_stream(const retain_config & config, const llama_cparams & cparams) {
    // a budget that covers the context evicts nothing, and a held prompt must fit as a whole
    if (config.prefill_full || config.budget >= (int64_t) cparams.n_ctx_seq) {
        return std::max<int64_t>(config.budget < (int64_t) cparams.n_ctx_seq ? config.budget + cparams.n_ubatch : 0, cparams.n_ctx_seq);
    }
    return (int64_t) config.budget + std::max<int64_t>(config.buffer, cparams.n_ubatch);
}

// the side of the rotation that stock attention gives quantised rows (llama_kv_cache::build_input_k_rot, _v_rot)
static int64_t rotation_side(ggml_type type, int64_t n_embd_head, bool largest) {
    const char * disable = getenv("LLAMA_ATTN_ROT_DISABLE");
    if ((disable && atoi(disable)) || !ggml_is_quantized(type) || n_embd_head % 64 != 0) {
        return 0;
    }
    int64_t side = 64;
    while (largest && n_embd_head % (2*side) == 0) {
        side *= 2;
    }
    return side;
}

retain_memory::retain_memory(
        const llama_model         & model,
        const llama_memory_params & params,
        const llama_cparams       & cparams,
        const layer_filter_cb     & filter,
        const retain_config       & config) :
    model(model),
    config(config),
    n_ubatch(cparams.n_ubatch),
    n_ctx_seq(cparams.n_ctx_seq),
    n_max_stream(max_cells_per_stream(config, cparams)) {
    if (!config.gates.empty()) {
        gates = std::make_unique<retain_gates>(model, config.gates);
    }
    if (this->config.policy.empty()) {
        this->config.policy = gates ? "gate" : "window";
    }
    set_policy(this->config.policy.c_str());

    init_layers(filter);
    init_pools(params, cparams);

    for (uint32_t s = 0; s < cparams.n_seq_max; ++s) {
        seqs.push_back(make_seq());
    }
    check_protected(seqs[0]);

    LLAMA_LOG_INFO("%s: budget %d (buffer %d), %d streams, policy %s, pages of %d cells, K %s, V %s, %.2f MiB\n", __func__,
            config.budget, config.buffer, n_streams, policy->name, config.page_size,
            ggml_type_name(params.type_k), ggml_type_name(params.type_v),
            memory_breakdown().begin()->second/1024.0/1024.0);
}

void retain_memory::init_layers(const layer_filter_cb & filter) {
    const auto & hparams = model.hparams;

    for (uint32_t il = 0; il < hparams.n_layer_all; ++il) {
        if (!hparams.has_kv(il) || (filter && !filter(il))) {
            continue;
        }

        retain_layer layer = {};
        layer.il           = il;
        layer.n_head_kv    = hparams.n_head_kv(il);
        layer.n_embd_k     = hparams.n_embd_head_k(il);
        layer.n_embd_v     = hparams.n_embd_head_v(il);
        layer.stream_first = n_streams;
        layers.push_back(layer);

        n_streams += layer.n_head_kv;

        if (layer.n_embd_k != layers[0].n_embd_k || layer.n_embd_v != layers[0].n_embd_v) {
            throw retain_error("this model's head size differs from layer to layer, which the pool cannot hold");
        }
    }
    if (n_streams == 0) {
        throw retain_error("this model has no KV cache to bound");
    }
}

void retain_memory::init_pools(const llama_memory_params & params, const llama_cparams & cparams) {
    std::vector<ggml_backend_buffer_type_t> bufts;
    std::vector<int64_t>                    n_heads; // of the layers of a pool

    for (auto & layer : layers) {
        ggml_backend_buffer_type_t buft = ggml_backend_cpu_buffer_type();
        if (cparams.offload_kqv) {
            buft = ggml_backend_dev_buffer_type(model.dev_layer(layer.il));
        }

        layer.pool = std::find(bufts.begin(), bufts.end(), buft) - bufts.begin();
        if (layer.pool == (int32_t) bufts.size()) {
            bufts.push_back(buft);
            n_heads.push_back(0);
        }
        layer.head_first = n_heads[layer.pool];
        n_heads[layer.pool] += layer.n_head_kv;
    }

    const int64_t n_embd_k = layers[0].n_embd_k;
    const int64_t n_embd_v = layers[0].n_embd_v;

    for (const auto & [type, n_embd, name] : { std::tuple(params.type_k, n_embd_k, "K"), std::tuple(params.type_v, n_embd_v, "V") }) {
        if (n_embd % ggml_blck_size(type) != 0) {
            throw retain_error(retain_format("%s cells of type %s need a head size that is a multiple of %d, this model has %d",
                        name, ggml_type_name(type), (int) ggml_blck_size(type), (int) n_embd));
        }
        if (type != GGML_TYPE_F32 && !ggml_get_type_traits_cpu(type)->from_float) {
            throw retain_error(retain_format("%s cells cannot be of type %s; use f16, bf16, f32, q8_0 or q4_0", name, ggml_type_name(type)));
        }
    }

    // llama.cpp reserves its graphs for n_ubatch rounded up to a multiple of the sequences
    const int64_t n_tokens_max = n_ubatch + cparams.n_seq_max;

    for (size_t i = 0; i < bufts.size(); ++i) {
        const int64_t n_cells = n_heads[i]*n_max_stream;
        const int64_t n_pages = cparams.n_seq_max*(n_cells/config.page_size + n_heads[i]); // each stream has one partial page

        pools.push_back(std::make_unique<retain_pool>(bufts[i],
                    params.type_k, n_embd_k, params.type_v, n_embd_v,
                    config.page_size, n_pages, n_heads[i]*n_tokens_max, model.hparams.no_alloc));
    }

    n_rot_k = rotation_side(params.type_k, n_embd_k, true);
    n_rot_v = rotation_side(params.type_v, n_embd_v, false);
}

retain_seq retain_memory::make_seq() const {
    retain_seq seq;
    seq.streams.resize(n_streams);
    seq.budget = config.budget;
    return seq;
}

const retain_layer * retain_memory::find_layer(int32_t il) const {
    for (const auto & layer : layers) {
        if (layer.il == il) {
            return &layer;
        }
    }
    return nullptr;
}

// llama_memory_i: batches

llama_memory_context_ptr retain_memory::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) {
    GGML_UNUSED(embd_all);

    const auto fail = [](const std::string & message) {
        retain_error_set(message);
        LLAMA_LOG_ERROR("retain: %s\n", message.c_str());
        return std::make_unique<retain_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
    };

    balloc.split_reset();

    std::vector<llama_ubatch> ubatches;
    std::vector<int64_t>      n_new(seqs.size(), 0);
    while (true) {
        llama_ubatch ubatch = balloc.split_simple(n_ubatch);
        if (ubatch.n_tokens == 0) {
            break;
        }
        for (uint32_t t = 0; t < ubatch.n_tokens; ++t) {
            if (ubatch.n_seq_id[t] != 1) {
                return fail("a token of several sequences cannot be stored; decode it for one and copy the sequence");
            }
            if (!has_seq(ubatch.seq_id[t][0])) {
                return fail(retain_format("sequence %d is out of range; the context has %zu", ubatch.seq_id[t][0], seqs.size()));
            }
            ++n_new[ubatch.seq_id[t][0]];
        }
        ubatches.push_back(std::move(ubatch));
    }

    for (size_t s = 0; s < seqs.size(); ++s) {
        if (n_new[s] > 0 && !can_append(seqs[s], n_new[s])) {
            return fail(retain_error_get());
        }
    }

    return std::make_unique<retain_context>(this, std::move(ubatches));
}

llama_memory_context_ptr retain_memory::init_full() {
    return std::make_unique<retain_context>(this);
}

llama_memory_context_ptr retain_memory::init_update(llama_context * lctx, bool optimize) {
    GGML_UNUSED(optimize);

    if (!has_shift()) {
        return std::make_unique<retain_context>(LLAMA_MEMORY_STATUS_NO_UPDATE);
    }
    return std::make_unique<retain_context>(this, lctx);
}

bool retain_memory::can_append(const retain_seq & seq, int64_t n_tokens) const {
    const int64_t held = n_cells(seq)/n_streams + (n_cells(seq) % n_streams != 0); // per stream, on average

    if (!policy->score && !callback && held + n_tokens > seq.budget) {
        retain_error_set(retain_format("%lld tokens do not fit the budget of %d and policy none never evicts; raise the budget or choose another policy",
                    (long long) (held + n_tokens), seq.budget));
        return false;
    }
    // an eviction between ubatches makes room, unless there is none to come
    const bool evicts = !seq.hold && seq.budget + (int64_t) n_ubatch <= n_max_stream;
    if (!evicts && held + n_tokens > n_max_stream) {
        retain_error_set(retain_format("the context of %u tokens is full; make it longer, or the budget smaller so that cells can be evicted", n_ctx_seq));
        return false;
    }
    return true;
}

bool retain_memory::append_ubatch(const llama_ubatch & ubatch) {
    std::vector<std::vector<int32_t>> positions(seqs.size());
    for (uint32_t t = 0; t < ubatch.n_tokens; ++t) {
        positions[ubatch.seq_id[t][0]].push_back(ubatch.pos[t]);
    }

    for (size_t s = 0; s < seqs.size(); ++s) {
        if (positions[s].empty()) {
            continue;
        }
        auto & seq = seqs[s];

        const int64_t n_new = positions[s].size();
        if (n_cells(seq) + n_new*n_streams > n_max_stream*n_streams) {
            if (seq.hold) {
                return false;
            }
            evict(seq);
        }

        for (auto & layer : layers) {
            for (int32_t h = 0; h < layer.n_head_kv; ++h) {
                seq.streams[layer.stream_first + h].append(*pools[layer.pool], n_new, positions[s].data());
            }
        }
        seq.pos_max = std::max(seq.pos_max, *std::max_element(positions[s].begin(), positions[s].end()));
    }

    n_cells_peak = std::max(n_cells_peak, n_cells_all());

    return true;
}

void retain_memory::finish_ubatch(const llama_ubatch & ubatch) {
    if (gates) {
        std::vector<float> log_beta;
        for (size_t p = 0; p < pools.size(); ++p) {
            log_beta.resize(n_streams_of(p)*ubatch.n_tokens);
            ggml_backend_tensor_get(pools[p]->log_beta, log_beta.data(), 0, log_beta.size()*sizeof(float));

            for (const auto & layer : layers) {
                if (layer.pool != (int32_t) p) {
                    continue;
                }
                const float * src = log_beta.data() + (size_t) layer.head_first*ubatch.n_tokens;

                // from the last token back, since the cells of the ubatch are the last of their streams
                std::vector<int64_t> n_after(seqs.size(), 0);
                for (int64_t t = (int64_t) ubatch.n_tokens - 1; t >= 0; --t) {
                    const llama_seq_id s = ubatch.seq_id[t][0];
                    ++n_after[s];
                    for (int32_t h = 0; h < layer.n_head_kv; ++h) {
                        auto & stream = seqs[s].streams[layer.stream_first + h];
                        stream.log_beta[stream.size() - n_after[s]] = src[t*layer.n_head_kv + h];
                    }
                }
            }
        }
    }

    for (uint32_t i = 0; i < ubatch.n_seqs_unq; ++i) {
        auto & seq = seqs[ubatch.seq_id_unq[i]];

        const int64_t n    = n_cells(seq);
        const int64_t keep = (int64_t) seq.budget*n_streams;
        if (!seq.hold && n >= keep + (int64_t) config.buffer*n_streams && n > keep) {
            evict(seq);
        }
    }
}

// retain_context

retain_context::retain_context(llama_memory_status status) :
    llama_kv_cache_context(status) {
}

retain_context::retain_context(retain_memory * mem) :
    llama_kv_cache_context(LLAMA_MEMORY_STATUS_SUCCESS), mem(mem) {
}

retain_context::retain_context(retain_memory * mem, llama_context * lctx) :
    llama_kv_cache_context(LLAMA_MEMORY_STATUS_SUCCESS), mem(mem), lctx(lctx) {
}

retain_context::retain_context(retain_memory * mem, std::vector<llama_ubatch> ubatches) :
    llama_kv_cache_context(LLAMA_MEMORY_STATUS_SUCCESS), mem(mem), ubatches(std::move(ubatches)) {
}

bool retain_context::next() {
    return ++i_cur < ubatches.size();
}

bool retain_context::apply() {
    if (lctx) {
        mem->shift_keys(lctx);
        return true;
    }
    return ubatches.empty() || mem->append_ubatch(ubatches[i_cur]);
}

const llama_ubatch & retain_context::get_ubatch() const {
    return ubatches[i_cur];
}

void retain_context::finish() {
    mem->finish_ubatch(ubatches[i_cur]);
}
