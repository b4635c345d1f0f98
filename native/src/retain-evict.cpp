// retain-evict.cpp - letting the cells with the lowest scores go, and what retain.h offers around it

#include "retain-memory.h"
#include "retain-error.h"

#include "ggml.h"
#include "llama-impl.h"

#include <algorithm>

static double seconds_since(int64_t t_start_us) {
    return (ggml_time_us() - t_start_us)*1e-6;
}

int64_t retain_memory::n_cell_lists_of(size_t pool) const {
    int64_t n = 0;
    for (const auto & layer : layers) {
        if (layer.pool == (int32_t) pool) {
            n += layer.n_head_kv;
        }
    }
    return n;
}

int64_t retain_memory::n_cells_of(const retain_seq & seq, size_t pool) const {
    int64_t n = 0;
    for_each_cell_list(seq, pool, [&](const retain_layer &, int32_t, const retain_cell_list & cell_list) {
        n += cell_list.size();
    });
    return n;
}

int64_t retain_memory::n_cells(const retain_seq & seq) const {
    int64_t n = 0;
    for (const auto & cell_list : seq.cell_lists) {
        n += cell_list.size();
    }
    return n;
}

int64_t retain_memory::n_cells_per_list(const retain_seq & seq) const {
    int64_t res = 0;
    for (size_t p = 0; p < pools.size(); ++p) {
        const int64_t n = n_cell_lists_of(p);
        res = std::max(res, (n_cells_of(seq, p) + n - 1)/n);
    }
    return res;
}

// cells over the budget that make an eviction due
int64_t retain_memory::n_over(const retain_seq & seq, size_t pool) const {
    return std::max<int64_t>(1, seq.released ? 0 : config.buffer*n_cell_lists_of(pool));
}

bool retain_memory::is_due(const retain_seq & seq) const {
    for (size_t p = 0; p < pools.size(); ++p) {
        const int64_t n    = n_cells_of(seq, p);
        const int64_t keep = config.residents(seq.budget)*n_cell_lists_of(p);
        if (n >= keep + n_over(seq, p)) {
            return true;
        }
    }
    return false;
}

int64_t retain_memory::n_cells_all() const {
    int64_t n = 0;
    for (const auto & seq : seqs) {
        n += n_cells(seq);
    }
    return n;
}

void retain_memory::evict(retain_seq & seq) {
    const int64_t n_before = n_cells(seq);

    for (size_t p = 0; p < pools.size(); ++p) {
        if (n_cells_of(seq, p) > config.residents(seq.budget)*n_cell_lists_of(p)) {
            evict_pool(seq, p);
        }
    }

    if (n_cells(seq) < n_before) {
        n_evicted += n_before - n_cells(seq);
        ++n_evictions;
        seq.evicted_at = seq.next_pos();
    }
}

void retain_memory::evict_pool(retain_seq & seq, size_t pool) {
    const int64_t t_start = ggml_time_us();

    score_pool(seq, pool);
    select_pool(seq, pool);
    t_select_s += seconds_since(t_start);

    archive_cells(seq, pool);

    const int64_t t_archived = ggml_time_us();
    drop_cells(seq, pool);
    t_move_s += seconds_since(t_archived);
}

void retain_memory::select_pool(const retain_seq & seq, size_t pool) {
    if (config.scope == RETAIN_SCOPE_GLOBAL) {
        select.run(0, select.n_cell_lists(), config.residents(seq.budget)*n_cell_lists_of(pool), threads);
        return;
    }

    size_t at = 0;
    for (const auto & layer : layers) {
        if (layer.pool != (int32_t) pool) {
            continue;
        }
        const size_t n_heads = config.scope == RETAIN_SCOPE_LAYER ? layer.n_head_kv : 1;
        for (const size_t end = at + layer.n_head_kv; at < end; at += n_heads) {
            select.run(at, at + n_heads, (int64_t) n_heads*config.residents(seq.budget), threads);
        }
    }
}

// Holes are filled in several threads, each with cell lists of its own. Pages are given back in the order of the lists, so which
// pages are free does not depend on the threads.
void retain_memory::drop_cells(retain_seq & seq, size_t pool) {
    const auto    heads   = heads_of(pool);
    const int64_t n_parts = threads.n_parts(select.n_cells());

    const auto list_of = [&](int64_t l) -> retain_cell_list & { return seq.cell_lists[heads[l].first->list_first + heads[l].second]; };

    std::vector<int64_t>                          n_left(heads.size());
    std::vector<std::vector<ggml_retention_copy>> copies(n_parts);
    threads.run(heads.size(), n_parts, [&](int64_t part, int64_t begin, int64_t end) {
        for (int64_t l = begin; l < end; ++l) {
            n_left[l] = list_of(l).fill_holes(*pools[pool], [&](int64_t i) { return select.kept(l, i); }, copies[part]);
        }
    });
    for (size_t l = 0; l < heads.size(); ++l) {
        list_of(l).truncate(*pools[pool], n_left[l]);
    }
    for (const auto & some : copies) {
        n_moved += some.size();
        pools[pool]->queue_copies(some);
    }
    pools[pool]->run_copies(threads);
}

// what retain.h offers around evictions

void retain_memory::check_protected(const retain_seq & seq, const retain_ranges & pins, int32_t budget) const {
    const int64_t n = config.n_sink + config.n_recent + seq.n_tokens_in(pins);
    if (n > config.residents(budget)) {
        const std::string less = config.recalled(budget) > 0 ? retain_format(" less the %d for recalled cells", config.recalled(budget)) : "";
        throw retain_error(retain_format("%lld tokens are kept by sinks, recent window and pins, more than the budget of %d%s",
                    (long long) n, budget, less.c_str()));
    }
    if (config.min_per_head > config.residents(budget)) {
        throw retain_error(retain_format("min_per_head is %d, more than the budget of %d", config.min_per_head, budget));
    }
}

void retain_memory::pin(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (p0 < 0 || p1 <= p0) {
        throw retain_error(retain_format("cannot pin [%d, %d): the range must be ascending and not negative", p0, p1));
    }

    auto & seq = seqs[seq_id];

    retain_ranges pins = seq.pins;
    pins.emplace_back(p0, p1);
    check_protected(seq, pins, seq.budget);

    seq.pins.swap(pins);
}

void retain_memory::unpin(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    auto & pins = seqs[seq_id].pins;
    pins.erase(std::remove_if(pins.begin(), pins.end(), [&](const auto & pin) {
        return pin.second > p0 && (p1 < 0 || pin.first < p1);
    }), pins.end());
}

void retain_memory::set_budget(llama_seq_id seq_id, int32_t budget) {
    if (budget < 1 || budget > config.budget) {
        throw retain_error(retain_format("the budget must be 1 to %d, the budget that the context was made with", config.budget));
    }

    settle();
    auto & seq = seqs[seq_id];
    check_protected(seq, seq.pins, budget);

    if (!seq.hold && n_cells_per_list(seq) > config.residents(budget)) {
        if (!evicts()) {
            throw retain_error("policy none never evicts, and more cells are held than the new budget allows");
        }
        seq.budget = budget;
        evict(seq);
    }
    seq.budget = budget;
}

void retain_memory::set_hold(llama_seq_id seq_id, bool hold) {
    if (hold && !config.prefill_full) {
        throw retain_error("evictions can be held back only by a context made for full prefill");
    }

    auto & seq = seqs[seq_id];
    seq.released = !hold && (seq.hold || seq.released);
    seq.hold     = hold;
}

void retain_memory::set_policy(const char * name) {
    const retain_policy * found = retain_policy_find(name);
    if (!found) {
        std::string known;
        for (const auto * const * it = retain_policies; *it; ++it) {
            known += std::string(known.empty() ? "" : ", ") + (*it)->name;
        }
        throw retain_error(retain_format("unknown policy '%s' (known: %s)", name, known.c_str()));
    }
    if (found->needs_gates && !gates) {
        throw retain_error(retain_format("policy %s needs a gate sidecar; give one, or use policy window", name));
    }
    policy = found;
    if (!policy->needs_queries) {
        for (auto & seq : seqs) {
            seq.queries.forget(seq.next_pos()); // later ones would not follow them
        }
    }
}

void retain_memory::set_callback(retain_score_callback cb, void * user_data) {
    callback      = cb;
    callback_data = user_data;
}

llama_pos retain_memory::rollback_limit(const retain_seq & seq) const {
    return std::max(seq.evicted_at, keeps_queries() ? seq.queries.rollback_limit() : 0);
}

int64_t retain_memory::n_until_eviction(const retain_seq & seq) const {
    const bool due = !seq.hold && is_due(seq);

    int64_t n_left = n_max_per_list - std::min<int64_t>(n_cells_per_list(seq), due ? config.residents(seq.budget) : n_max_per_list);
    if (!evicts()) {
        n_left = seq.budget - n_cells_per_list(seq);
    } else if (!seq.hold) {
        // up to where the next eviction is due
        for (size_t p = 0; p < pools.size(); ++p) {
            const int64_t n      = n_cell_lists_of(p);
            const int64_t keep   = config.residents(seq.budget)*n;
            const int64_t n_held = due ? std::min(n_cells_of(seq, p), keep) : n_cells_of(seq, p);
            const int64_t n_free = keep + std::max<int64_t>(1, config.buffer*n) - n_held;
            n_left = std::min(n_left, (n_free + n - 1)/n);
        }
    }
    return std::max<int64_t>(0, n_left);
}

int64_t retain_memory::draft_limit(const retain_seq & seq) const {
    const int64_t n_left = n_until_eviction(seq);
    return keeps_queries() ? std::min(n_left, retain_queries::N_WINDOW) : n_left;
}

bool retain_memory::is_busy() const {
    if (in_hook) {
        retain_error_set("the eviction hook of this context is running: it may not change the context, only return scores");
        LLAMA_LOG_ERROR("retain: %s\n", retain_error_get().c_str());
    }
    return in_hook;
}

void retain_memory::get_stats(retain_stats & res) const {
    res = {};

    for (const auto & seq : seqs) {
        res.n_seen  += seq.n_seen;
        res.n_cells += n_cells(seq);
    }
    res.n_cells_peak = n_cells_peak;
    res.n_cells_max  = (int64_t) seqs.size()*n_cell_lists*n_max_per_list;
    res.n_evicted    = n_evicted;
    res.n_evictions  = n_evictions;
    res.n_moved      = n_moved;
    res.n_cell_lists = n_cell_lists;
    res.budget       = seqs[0].budget;
    res.page_size    = config.page_size;
    res.bytes_cell   = pools[0]->bytes_cell();
    res.bytes_full   = res.n_seen*n_cell_lists*res.bytes_cell;
    for (const auto & pool : pools) {
        res.n_pages      += pool->get_n_pages();
        res.n_pages_used += pool->n_pages_used();
        res.bytes_pool   += pool->bytes();
        res.bytes_used   += pool->n_pages_used()*pool->bytes_page();
    }
    res.t_select_s = t_select_s;
    res.t_move_s   = t_move_s;
    res.t_input_s  = t_input_s;

    res.recall    = config.recalled(seqs[0].budget);
    res.residents = config.residents(seqs[0].budget);
    if (archive) {
        for (const auto & seq : seqs) {
            res.n_archived += n_archived(seq);
        }
        res.n_archived_max = (int64_t) seqs.size()*archive->n_max();
        res.n_dropped      = n_dropped;
        res.bytes_archive  = archive->bytes();
        res.bytes_archived = archive->bytes_in_use();
        res.t_archive_s    = t_archive_s;
    }
}
