// retain-memory.cpp - making the memory: layers, pools, sequences

#include "retain-memory.h"
#include "retain-error.h"

#include "ggml-retention.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>

static int64_t max_cells_per_list(const retain_config & config, const llama_cparams & cparams) {
    // a budget that covers the context evicts nothing, and a held prompt must fit as a whole
    if (config.prefill_full || config.budget >= (int64_t) cparams.n_ctx_seq) {
        return std::max<int64_t>(config.budget < (int64_t) cparams.n_ctx_seq ? config.budget + cparams.n_ubatch : 0, cparams.n_ctx_seq);
    }
    return (int64_t) config.residents(config.budget) + std::max<int64_t>(config.buffer, cparams.n_ubatch);
}

// a budget that covers the context evicts nothing, so that nothing is there to be recalled
static retain_config with_recall(retain_config config, const llama_cparams & cparams) {
    if (config.budget >= (int64_t) cparams.n_ctx_seq) {
        config.recall        = 0.0f;
        config.archive_bytes = 0;
    }
    return config;
}

// the side of the rotation that stock attention gives quantised rows (llama_kv_cache::build_input_k_rot, _v_rot)
static int64_t rotation_side(ggml_type type, int64_t n_embd_head, bool largest) {
    const char * disable = getenv("LLAMA_ATTN_ROT_DISABLE");
    if ((disable && atoi(disable)) || !ggml_is_quantized(type) || n_embd_head % 64 != 0) {
        return 0;
    }
    int64_t side = 64;
    if (!largest) {
        return side;
    }
    while (n_embd_head % (2*side) == 0) {
        side *= 2;
    }
    return side;
}

// whether a device can attend to pages of these types; without, its layers' cells stay in host memory
static bool supports_pages(
        ggml_backend_dev_t dev, ggml_type type_k, int64_t n_embd_k, ggml_type type_v, int64_t n_embd_v, int32_t page_size) {
    const ggml_context_ptr ctx(ggml_init({ 16*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true }));

    ggml_tensor * q          = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, n_embd_k, 1, 1);
    ggml_tensor * v_new      = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, n_embd_v, 1, 1);
    ggml_tensor * k          = ggml_new_tensor_2d(ctx.get(), type_k, n_embd_k, 1);
    ggml_tensor * v          = ggml_new_tensor_2d(ctx.get(), type_v, n_embd_v, 1);
    ggml_tensor * pages      = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, 1);
    ggml_tensor * cell_lists = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 2, 1);
    ggml_tensor * tokens     = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 3, 1);

    ggml_retention_attn_params params = {};
    params.n_head_kv = 1;
    params.page_size = page_size;

    return ggml_backend_dev_supports_op(dev, ggml_retention_attn(ctx.get(), q, k, v, q, v_new, pages, cell_lists, tokens, nullptr, &params));
}

retain_memory::retain_memory(
        const llama_model         & model,
        const llama_memory_params & params,
        const llama_cparams       & cparams,
        const layer_filter_cb     & filter,
        const retain_config       & config) :
    model(model),
    config(with_recall(config, cparams)),
    n_ubatch(cparams.n_ubatch),
    n_ctx_seq(cparams.n_ctx_seq),
    n_max_per_list(max_cells_per_list(this->config, cparams)),
    threads(cparams.n_threads) {
    if (!config.gates.empty()) {
        gates = std::make_unique<retain_gates>(model, config.gates);
    }
    if (this->config.policy.empty()) {
        this->config.policy = gates ? "gate" : "window";
    }
    set_policy(this->config.policy.c_str());

    init_layers(filter);
    init_pools(params, cparams);
    init_archive(params, cparams);

    for (uint32_t s = 0; s < cparams.n_seq_max; ++s) {
        seqs.push_back(make_seq(s));
    }
    check_protected(seqs[0], {}, this->config.budget);

    LLAMA_LOG_INFO("%s: budget %d (buffer %d), %d cell lists, policy %s, pages of %d cells, K %s, V %s, %.2f MiB\n", __func__,
            config.budget, config.buffer, n_cell_lists, policy->name, config.page_size,
            ggml_type_name(params.type_k), ggml_type_name(params.type_v),
            pools[0]->bytes()/1024.0/1024.0);
}

void retain_memory::init_layers(const layer_filter_cb & filter) {
    const auto & hparams = model.hparams;

    for (uint32_t il = 0; il < hparams.n_layer_all; ++il) {
        if (!hparams.has_kv(il) || (filter && !filter(il))) {
            continue;
        }

        if (gates && !gates->has_layer(il)) {
            throw retain_error(retain_format("%s: no gate for layer %u, which keeps a cache; use policy window without gates",
                        config.gates.c_str(), il));
        }

        retain_layer layer = {};
        layer.il           = il;
        layer.n_head       = hparams.n_head(il);
        layer.n_head_kv    = hparams.n_head_kv(il);
        layer.n_embd_k     = hparams.n_embd_head_k(il);
        layer.n_embd_v     = hparams.n_embd_head_v(il);
        layer.list_first   = n_cell_lists;
        layer.query_first  = n_query;
        layers.push_back(layer);

        n_cell_lists += layer.n_head_kv;
        n_query      += (int64_t) layer.n_head*layer.n_embd_k;

        if (layer.n_embd_k != layers[0].n_embd_k || layer.n_embd_v != layers[0].n_embd_v) {
            throw retain_error("this model's head size differs from layer to layer, which the pool cannot hold");
        }
    }
    if (n_cell_lists == 0) {
        throw retain_error("this model has no KV cache to bound");
    }
}

void retain_memory::init_pools(const llama_memory_params & params, const llama_cparams & cparams) {
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

    std::vector<ggml_backend_buffer_type_t> bufts;
    std::vector<int64_t>                    n_heads; // of the layers of a pool

    for (auto & layer : layers) {
        ggml_backend_buffer_type_t buft = ggml_backend_cpu_buffer_type();
        ggml_backend_dev_t         dev  = model.dev_layer(layer.il);
        const bool can_copy = ggml_backend_buft_is_host(ggml_backend_dev_buffer_type(dev)) ||
            retain_pool::copy_function(ggml_backend_dev_buffer_type(dev));
        if (cparams.offload_kqv && can_copy && supports_pages(dev, params.type_k, n_embd_k, params.type_v, n_embd_v, config.page_size)) {
            buft = ggml_backend_dev_buffer_type(dev);
        }

        layer.pool = std::find(bufts.begin(), bufts.end(), buft) - bufts.begin();
        if (layer.pool == (int32_t) bufts.size()) {
            bufts.push_back(buft);
            n_heads.push_back(0);
        }
        layer.head_first = n_heads[layer.pool];
        n_heads[layer.pool] += layer.n_head_kv;
    }

    // llama.cpp reserves its graphs for n_ubatch rounded up to a multiple of the sequences
    const int64_t n_tokens_max = n_ubatch + cparams.n_seq_max;

    for (size_t i = 0; i < bufts.size(); ++i) {
        const int64_t n_cells = n_heads[i]*n_max_per_list;
        const int64_t n_pages = cparams.n_seq_max*(n_cells/config.page_size + n_heads[i]); // each cell list has one partial page

        pools.push_back(std::make_unique<retain_pool>(bufts[i],
                    params.type_k, n_embd_k, params.type_v, n_embd_v,
                    config.page_size, n_pages, n_heads[i]*n_tokens_max, model.hparams.no_alloc));
    }

    for (const auto & pool : pools) {
        ggml_backend_dev_t dev = ggml_backend_buft_get_device(pool->get_buft()); // of the CPU's memory it may be null
        devices += std::string(devices.empty() ? "" : ", ") + (dev ? ggml_backend_dev_name(dev) : "CPU");
    }

    n_rot_k = rotation_side(params.type_k, n_embd_k, true);
    n_rot_v = rotation_side(params.type_v, n_embd_v, false);
}

void retain_memory::init_archive(const llama_memory_params & params, const llama_cparams & cparams) {
    if (config.archive_bytes == 0) {
        return;
    }
    for (const auto & pool : pools) {
        if (!ggml_backend_buft_is_host(pool->get_buft())) {
            throw retain_error(retain_format("recall reads its archive on the CPU, and cells of this model are on %s; "
                        "turn recall off, or keep the cells in host memory (offload_kqv off)", devices.c_str()));
        }
    }
    archive = std::make_unique<retain_archive>(config,
            params.type_k, layers[0].n_embd_k, params.type_v, layers[0].n_embd_v, n_cell_lists, n_max_per_list, cparams.n_seq_max);
}

int64_t retain_memory::n_pages() const {
    int64_t n = archive ? archive->n_pages() : 0;
    for (const auto & pool : pools) {
        n += pool->get_n_pages();
    }
    return n;
}

retain_seq retain_memory::make_seq(llama_seq_id seq_id) const {
    retain_seq seq;
    seq.id = seq_id;
    seq.cell_lists.resize(n_cell_lists);
    seq.archived.resize(archive ? n_cell_lists : 0);
    seq.budget = config.budget;
    return seq;
}

std::vector<std::pair<const retain_layer *, int32_t>> retain_memory::heads_of(size_t pool) const {
    std::vector<std::pair<const retain_layer *, int32_t>> res;
    for (const auto & layer : layers) {
        for (int32_t h = 0; layer.pool == (int32_t) pool && h < layer.n_head_kv; ++h) {
            res.emplace_back(&layer, h);
        }
    }
    return res;
}

const retain_layer * retain_memory::find_layer(int32_t il) const {
    for (const auto & layer : layers) {
        if (layer.il == il) {
            return &layer;
        }
    }
    return nullptr;
}
