// retain-batch.cpp - taking a batch through the memory: evictions, room and places for each ubatch, log betas

#include "retain-memory.h"
#include "retain-error.h"
#include "retain-split.h"

#include "llama-batch.h"
#include "llama-impl.h"

#include <algorithm>
#include <numeric>
#include <utility>

llama_memory_context_ptr retain_memory::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) {
    GGML_UNUSED(embd_all);

    const auto fail = [](const std::string & message) {
        retain_error_set(message);
        LLAMA_LOG_ERROR("retain: %s\n", message.c_str());
        return std::make_unique<retain_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
    };

    if (is_busy()) {
        return fail(retain_error_get());
    }
    retain_error_clear();
    balloc.split_reset();

    std::vector<llama_ubatch> ubatches;
    retain_split split(*this, balloc.get_batch(), n_ubatch);
    while (true) {
        llama_ubatch ubatch = balloc.split_simple(split.n_simple());
        if (ubatch.n_tokens == 0) {
            break;
        }
        split.take(ubatch);
        ubatches.push_back(std::move(ubatch));
    }
    if (!can_append(ubatches)) {
        return fail(retain_error_get());
    }
    return std::make_unique<retain_context>(this, std::move(ubatches));
}

bool retain_memory::can_append(const std::vector<llama_ubatch> & ubatches) const {
    const auto fail = [](const std::string & message) {
        retain_error_set(message);
        return false;
    };
    if (!shift_error.empty()) {
        return fail(std::exchange(shift_error, ""));
    }

    std::vector<int64_t> n_new(seqs.size(), 0);
    std::vector<int64_t> n_seen(seqs.size(), 0);
    for (const auto & ubatch : ubatches) {
        for (uint32_t t = 0; t < ubatch.n_tokens; ++t) {
            if (ubatch.n_seq_id[t] != 1) {
                return fail("a token of several sequences cannot be stored; decode it for one and copy the sequence");
            }
            const llama_seq_id s = ubatch.seq_id[t][0];
            if (!has_seq(s)) {
                return fail(retain_format("sequence %d is out of range; the context has %zu", s, seqs.size()));
            }
            if (ubatch.pos[t] < 0 || ubatch.pos[t] > RETAIN_POS_MAX) {
                return fail(retain_format("position %d is out of range, must be 0 to %d", ubatch.pos[t], RETAIN_POS_MAX));
            }
            if (++n_new[s] == 1) {
                n_seen[s] = first_ordinal(seqs[s], ubatch.pos[t]);
            }
            if (++n_seen[s] > (int64_t) RETAIN_POS_MAX + 1) {
                return fail(retain_format("sequence %d cannot have more than %d tokens; clear it", s, RETAIN_POS_MAX));
            }
        }
    }

    for (size_t s = 0; s < seqs.size(); ++s) {
        if (n_new[s] > 0 && !can_append(seqs[s], n_new[s])) {
            return false;
        }
    }
    return true;
}

// a sequence that begins at a later position counts as one that lost what came before it
int64_t retain_memory::first_ordinal(const retain_seq & seq, llama_pos pos) const {
    return seq.pos_max < 0 ? pos : seq.n_seen;
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
    const int64_t held = n_cells_per_list(seq);

    if (!evicts() && held + n_tokens > seq.budget) {
        retain_error_set(retain_format("%lld tokens do not fit the budget of %d and policy none never evicts; raise the budget or choose another policy",
                    (long long) (held + n_tokens), seq.budget));
        return false;
    }
    // an eviction between ubatches makes room, unless there is none to come
    const bool makes_room = !seq.hold && config.residents(seq.budget) + (int64_t) n_ubatch <= n_max_per_list;
    if (!makes_room && held + n_tokens > n_max_per_list) {
        retain_error_set(retain_format("the context of %u tokens is full; make it longer, or the budget smaller so that cells can be evicted", n_ctx_seq));
        return false;
    }
    return true;
}

std::vector<std::vector<int32_t>> retain_memory::tokens_by_seq(const llama_ubatch & ubatch) const {
    std::vector<std::vector<int32_t>> res(seqs.size());
    for (uint32_t t = 0; t < ubatch.n_tokens; ++t) {
        res[ubatch.seq_id[t][0]].push_back(t);
    }
    return res;
}

bool retain_memory::append_ubatch(const llama_ubatch & ubatch) {
    settle();

    std::vector<std::vector<int32_t>> positions(seqs.size());
    for (uint32_t t = 0; t < ubatch.n_tokens; ++t) {
        positions[ubatch.seq_id[t][0]].push_back(ubatch.pos[t]);
    }

    // what the last ubatch made due runs only now, so that its tokens could be taken back until now
    for (size_t s = 0; s < seqs.size(); ++s) {
        auto & seq = seqs[s];
        if (positions[s].empty()) {
            continue;
        }
        if ((!seq.hold && is_due(seq)) || n_cells_per_list(seq) + (int64_t) positions[s].size() > n_max_per_list) {
            evict(seq);
        }
        seq.released = false;
    }

    for (size_t s = 0; s < seqs.size(); ++s) {
        if (positions[s].empty()) {
            continue;
        }
        auto & seq = seqs[s];

        const int64_t n_new = positions[s].size();
        seq.n_open     = n_new;
        seq.pos_before = seq.pos_max;
        seq.n_before   = seq.n_seen;

        const int64_t first = first_ordinal(seq, positions[s][0]);
        std::vector<int32_t> ordinals(n_new);
        std::iota(ordinals.begin(), ordinals.end(), (int32_t) first);

        for_each_cell_list(seq, [&](const retain_layer & layer, int32_t, retain_cell_list & cell_list) {
            cell_list.append(*pools[layer.pool], n_new, positions[s].data(), ordinals.data());
        });
        seq.pos_max = std::max(seq.pos_max, *std::max_element(positions[s].begin(), positions[s].end()));
        seq.n_seen  = first + n_new;
    }

    n_cells_peak = std::max(n_cells_peak, n_cells_all());

    return true;
}

void retain_memory::finish_ubatch(const llama_ubatch & ubatch, ggml_backend_sched_t sched) {
    settle();
    for (size_t p = 0; p < pools.size(); ++p) {
        pools[p]->fetch_log_beta(retain_pool::backend_of(sched, pools[p]->get_buft()), gates ? n_cell_lists_of(p)*ubatch.n_tokens : 0);
    }
    if (gates) {
        unsettled   = tokens_by_seq(ubatch);
        n_unsettled = ubatch.n_tokens;
    }

    if (keeps_queries()) {
        ggml_backend_sched_synchronize(sched);
        take_queries(ubatch);
    }

    for (uint32_t i = 0; i < ubatch.n_seqs_unq; ++i) {
        seqs[ubatch.seq_id_unq[i]].n_open = 0;
    }
}

void retain_memory::settle() const {
    for (size_t p = 0; !unsettled.empty() && p < pools.size(); ++p) {
        const float * log_beta = pools[p]->fetched_log_beta(); // layer after layer [n_head_kv, n_tokens]
        for (size_t s = 0; s < seqs.size(); ++s) {
            if (unsettled[s].empty()) {
                continue;
            }
            for_each_cell_list(seqs[s], p, [&](const retain_layer & layer, int32_t h, const retain_cell_list & cell_list) {
                // the cells of the ubatch are the last ones
                float       * dst = cell_list.log_beta.data() + cell_list.size() - unsettled[s].size();
                const float * src = log_beta + layer.head_first*n_unsettled + h;
                for (const int32_t t : unsettled[s]) {
                    *dst++ = src[(int64_t) t*layer.n_head_kv];
                }
            });
        }
    }
    unsettled.clear();
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
        return mem->shift_keys(lctx);
    }
    return ubatches.empty() || mem->append_ubatch(ubatches[i_cur]);
}

const llama_ubatch & retain_context::get_ubatch() const {
    return ubatches[i_cur];
}

void retain_context::finish(ggml_backend_sched_t sched) const {
    mem->finish_ubatch(ubatches[i_cur], sched);
}
