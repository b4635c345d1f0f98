#include "retain-mixed.h"
#include "retain-error.h"
#include "retain-split.h"

#include "llama-batch.h"
#include "llama-cparams.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <limits>

// upstream pads the cells of a window to this many
static constexpr uint32_t WINDOW_PAD = 256;

// cells of the window, as stock llama.cpp has them without swa_full; a context that evicts outgrows n_ctx
static uint32_t window_size(const llama_hparams & hparams, const llama_cparams & cparams, const retain_config & config) {
    const uint64_t n_seqs = cparams.kv_unified ? cparams.n_seq_max : 1;
    uint64_t       n      = hparams.n_swa*n_seqs + cparams.n_ubatch;
    if (config.budget >= (int64_t) cparams.n_ctx_seq) {
        n = std::min<uint64_t>(n, cparams.n_ctx_seq);
    }
    return GGML_PAD(n, WINDOW_PAD);
}

static void report(const std::string & message) {
    retain_error_set(message);
    LLAMA_LOG_ERROR("retain: %s\n", message.c_str());
}

retain_mixed::retain_mixed(
        const llama_model         & model,
        const llama_memory_params & params,
        const llama_cparams       & cparams,
        const retain_mixed_layers & layers,
        const retain_config       & config) :
    unified(cparams.kv_unified),
    n_swa(layers.window ? model.hparams.n_swa : 0),
    attn(model, params, cparams, layers.attn, config) {
    const auto & hparams = model.hparams;

    if (layers.window) {
        window = std::make_unique<llama_kv_cache>(
                model, hparams, params.type_k, params.type_v, /*v_trans =*/ !cparams.flash_attn,
                cparams.offload_kqv, unified, window_size(hparams, cparams, config), cparams.n_seq_max, /*n_pad =*/ 1,
                hparams.n_swa, hparams.swa_type, /*mem_other =*/ nullptr, layers.window, layers.reuse, /*share =*/ nullptr);
    }
    if (layers.recr) {
        recr = std::make_unique<llama_memory_recurrent>(
                model, GGML_TYPE_F32, GGML_TYPE_F32, cparams.offload_kqv,
                /*mem_size =*/ cparams.n_seq_max, cparams.n_seq_max, cparams.n_rs_seq, layers.recr);
    }

    n_last.resize(cparams.n_seq_max, 0);
    for (uint32_t il = 0; il < hparams.n_layer_all; ++il) {
        const int32_t other = layers.reuse ? layers.reuse(il) : -1;
        source.push_back(other >= 0 ? other : il);
    }
}

// a batch

std::vector<llama_ubatch> retain_mixed::split(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) const {
    balloc.split_reset();

    std::vector<llama_ubatch> res;
    retain_split places(attn, balloc.get_batch(), n_ubatch);
    while (true) {
        llama_ubatch ubatch;
        if (!recr && unified) {
            ubatch = balloc.split_simple(places.n_simple());
        } else if (recr && embd_all) {
            ubatch = balloc.split_seq(places.n_of_sequence());
        } else {
            // tokens that can be taken back must be in one ubatch, also where an eviction is due
            const uint32_t n_tail = recr && recr->n_rs_seq > 0 ? recr->n_rs_seq + 1 : 0;
            ubatch = balloc.split_equal(n_tail ? n_ubatch : places.n_equal(!unified), !unified, n_tail);
        }
        if (ubatch.n_tokens == 0) {
            break;
        }
        places.take(ubatch);
        res.push_back(std::move(ubatch));
    }
    if (balloc.get_n_used() < balloc.get_n_tokens()) {
        res.clear();
    }
    return res;
}

llama_memory_context_ptr retain_mixed::make_context(
        std::unique_ptr<retain_context> c_attn, llama_memory_context_ptr c_window, llama_memory_context_ptr c_recr) const {
    retain_mixed_parts parts(*this, std::move(c_attn), std::move(c_window), std::move(c_recr));

    if (recr) {
        return std::make_unique<retain_hybrid_context>(std::move(parts));
    }
    return std::make_unique<retain_iswa_context>(std::move(parts));
}

llama_memory_context_ptr retain_mixed::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) {
    const auto refuse = [&](const std::string & message) {
        report(message);
        return make_context(std::make_unique<retain_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE), nullptr, nullptr);
    };

    if (attn.is_busy()) {
        return refuse(retain_error_get());
    }
    retain_error_clear();

    const auto ubatches = split(balloc, n_ubatch, embd_all);
    if (ubatches.empty()) {
        return refuse("the batch cannot be divided into ubatches; decode its sequences one by one");
    }
    if (!attn.can_append(ubatches)) {
        return refuse(retain_error_get());
    }

    llama_memory_context_ptr c_window;
    llama_memory_context_ptr c_recr;
    if (recr) {
        if (!recr->prepare(ubatches)) {
            return refuse("the recurrent states have no room for the sequences of the batch");
        }
        c_recr = std::make_unique<llama_memory_recurrent_context>(recr.get(), ubatches);
    }
    if (window) {
        auto places = window->prepare(ubatches);
        if (places.empty()) {
            return refuse("the sliding windows have no room for the batch; decode fewer tokens at once");
        }
        c_window = std::make_unique<llama_kv_cache_context>(window.get(), std::move(places), ubatches);
    }
    for (const auto & ubatch : ubatches) {
        const auto tokens = attn.tokens_by_seq(ubatch);
        for (size_t s = 0; s < tokens.size(); ++s) {
            n_last[s] = tokens[s].empty() ? n_last[s] : tokens[s].size();
        }
    }
    return make_context(std::make_unique<retain_context>(&attn, ubatches), std::move(c_window), std::move(c_recr));
}

llama_memory_context_ptr retain_mixed::init_full() {
    return make_context(std::make_unique<retain_context>(&attn),
            window ? window->init_full() : nullptr, recr ? recr->init_full() : nullptr);
}

llama_memory_context_ptr retain_mixed::init_update(llama_context * lctx, bool optimize) {
    std::unique_ptr<retain_context> c_attn(static_cast<retain_context *>(attn.init_update(lctx, optimize).release()));

    return make_context(std::move(c_attn),
            window ? window->init_update(lctx, optimize) : nullptr, recr ? recr->init_update(lctx, optimize) : nullptr);
}

retain_mixed_parts::retain_mixed_parts(
        const retain_mixed            & mem,
        std::unique_ptr<retain_context> attn,
        llama_memory_context_ptr        window,
        llama_memory_context_ptr        recr) :
    mem(mem), attn(std::move(attn)), window(std::move(window)), recr(std::move(recr)),
    view(std::make_unique<window_view>(get_window())) {
}

const llama_kv_cache_context * retain_mixed_parts::get_window() const {
    return static_cast<const llama_kv_cache_context *>(window.get());
}

const llama_memory_recurrent_context * retain_mixed_parts::get_recr() const {
    return static_cast<const llama_memory_recurrent_context *>(recr.get());
}

std::vector<llama_memory_context_i *> retain_mixed_parts::all() const {
    std::vector<llama_memory_context_i *> res = { attn.get() };
    for (auto * part : { window.get(), recr.get() }) {
        if (part) {
            res.push_back(part);
        }
    }
    return res;
}

llama_memory_status retain_mixed_parts::status() const {
    llama_memory_status res = LLAMA_MEMORY_STATUS_NO_UPDATE;
    for (const auto * part : all()) {
        res = llama_memory_status_combine(res, part->get_status());
    }
    return res;
}

bool retain_mixed_parts::next_all() {
    bool res = true;
    for (auto * part : all()) {
        res = part->next() && res;
    }
    return res;
}

bool retain_mixed_parts::apply_all() {
    bool res = true;
    for (auto * part : all()) {
        if (part->get_status() == LLAMA_MEMORY_STATUS_SUCCESS) { // the others have nothing to update
            res = part->apply() && res;
        }
    }
    return res;
}

retain_memory * retain_find_memory(llama_memory_i * mem) {
    if (auto * mixed = dynamic_cast<retain_mixed *>(mem)) {
        return &mixed->get_attn();
    }
    return dynamic_cast<retain_memory *>(mem);
}

const retain_context * retain_find_context(const llama_memory_context_i * mctx) {
    if (const auto * parts = dynamic_cast<const retain_mixed_parts *>(mctx)) {
        return &parts->get_attn();
    }
    return dynamic_cast<const retain_context *>(mctx);
}
