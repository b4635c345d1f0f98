// retain-seq.cpp - what llama.h does to sequences: clear, remove, copy, keep, shift

#include "retain-memory.h"
#include "retain-error.h"

#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <limits>
#include <tuple>

// llama.h writes an open end as a negative number
static void normalize_range(llama_pos & p0, llama_pos & p1) {
    p0 = std::max(p0, 0);
    if (p1 < 0) {
        p1 = std::numeric_limits<llama_pos>::max();
    }
}

static void refuse(const std::string & message) {
    retain_error_set(message);
    LLAMA_LOG_ERROR("retain: %s\n", message.c_str());
}

void retain_memory::clear_seq(retain_seq & seq) {
    for_each_cell_list(seq, [&](const retain_layer & layer, int32_t, retain_cell_list & cell_list) {
        cell_list.truncate(*pools[layer.pool], 0);
    });
    for (auto & cell_list : seq.archived) {
        cell_list.truncate(archive->get_pool(), 0);
    }

    retain_seq fresh = make_seq(seq.id);
    fresh.budget = seq.budget;
    fresh.hold   = seq.hold;
    seq = std::move(fresh);
}

void retain_memory::run_copies() {
    for (auto & pool : pools) {
        pool->run_copies(threads);
    }
    if (archive) {
        archive->get_pool().run_copies(threads);
    }
}

void retain_memory::clear(bool data) {
    GGML_UNUSED(data); // a cell is read only after it was written again

    if (is_busy()) {
        return;
    }
    settle();
    for (auto & seq : seqs) {
        clear_seq(seq);
    }
}

bool retain_memory::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (is_busy()) {
        return false;
    }
    settle();
    normalize_range(p0, p1);

    std::vector<retain_seq *> chosen; // a sequence that is not there holds nothing
    for (size_t s = 0; s < seqs.size(); ++s) {
        if (seq_id < 0 || seq_id == (llama_seq_id) s) {
            chosen.push_back(&seqs[s]);
        }
    }
    for (auto * seq : chosen) {
        drop_open(*seq);
    }
    for (const auto * seq : chosen) {
        if (!can_remove(*seq, p0, p1)) {
            return false;
        }
    }
    for (auto * seq : chosen) {
        remove_range(*seq, p0, p1);
    }
    return true;
}

void retain_memory::drop_open(retain_seq & seq) {
    if (seq.n_open == 0) {
        return;
    }
    for_each_cell_list(seq, [&](const retain_layer & layer, int32_t, retain_cell_list & cell_list) {
        cell_list.truncate(*pools[layer.pool], cell_list.size() - seq.n_open);
    });
    seq.pos_max = seq.pos_before;
    seq.n_seen  = seq.n_before;
    seq.n_open  = 0;
}

bool retain_memory::can_remove(const retain_seq & seq, llama_pos p0, llama_pos p1) const {
    const bool rolls_back = p0 > 0 && p0 <= seq.pos_max && p1 > seq.pos_max;
    if (!rolls_back || p0 >= rollback_limit(seq)) {
        return true;
    }
    retain_error_set(retain_format("sequence %d cannot be cut back to %d tokens: what was evicted since then does not come back; "
                "cut it back to %d or more, or remove all of it and read it again", seq.id, p0, rollback_limit(seq)));
    return false;
}

void retain_memory::remove_range(retain_seq & seq, llama_pos p0, llama_pos p1) {
    if (p0 == 0 && p1 > seq.pos_max) {
        clear_seq(seq);
        return;
    }
    if (p0 > seq.pos_max || p0 >= p1) {
        return;
    }

    if (p1 > seq.pos_max) {
        std::tie(seq.pos_max, seq.n_seen) = seq.end_before(p0);
        seq.queries.cut(p0);
    } else {
        seq.queries.remove(p0, p1);
        seq.evicted_at = seq.next_pos();
    }

    for_each_cell_list(seq, [&](const retain_layer & layer, int32_t, retain_cell_list & cell_list) {
        cell_list.retain_if(*pools[layer.pool], [&](int64_t i) { return cell_list.pos[i] < p0 || cell_list.pos[i] >= p1; });
    });
    keep_archived(seq, [&](size_t l, int64_t i) { return seq.archived[l].pos[i] < p0 || seq.archived[l].pos[i] >= p1; });
    run_copies();
}

void retain_memory::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    if (is_busy()) {
        return;
    }
    settle();
    normalize_range(p0, p1);

    if (seq_id_src == seq_id_dst) {
        return;
    }
    if (!has_seq(seq_id_src) || !has_seq(seq_id_dst)) {
        refuse(retain_format("cannot copy sequence %d to %d: the context has %zu", seq_id_src, seq_id_dst, seqs.size()));
        return;
    }

    const auto & src = seqs[seq_id_src];
    auto       & dst = seqs[seq_id_dst];

    if (p0 >= p1 || (p0 > 0 && p0 > src.pos_max)) {
        return;
    }
    if (p1 <= src.pos_max && p1 < rollback_limit(src)) {
        refuse(retain_format("cannot copy the first %d tokens of sequence %d: what was evicted since then does not come back; "
                    "copy %d or more", p1, seq_id_src, rollback_limit(src)));
        return;
    }
    if (!evicts() && n_cells_per_list(src) > config.residents(dst.budget) && dst.budget < src.budget) {
        refuse(retain_format("sequence %d does not fit the budget of %d of sequence %d, and policy none never evicts",
                    seq_id_src, dst.budget, seq_id_dst));
        return;
    }

    retain_ranges pins;
    for (const auto & [begin, end] : src.pins) {
        if (std::max(begin, p0) < std::min(end, p1)) {
            pins.emplace_back(std::max(begin, p0), std::min(end, p1));
        }
    }
    try {
        check_protected({}, pins, dst.budget); // positions: pins that tokens crowded into later are taken over
    } catch (const retain_error & err) {
        refuse(retain_format("cannot copy sequence %d to %d: %s", seq_id_src, seq_id_dst, err.what()));
        return;
    }

    clear_seq(dst);

    const auto copy = [&](const retain_cell_list & from, retain_cell_list & to, retain_pool & pool) {
        for (int64_t i = 0; i < from.size(); ++i) {
            if (from.pos[i] < p0 || from.pos[i] >= p1) {
                continue;
            }
            to.append(pool, 1, &from.pos[i], &from.ordinal[i]);
            to.log_beta.back() = from.log_beta[i];
            if (!from.shift.empty()) {
                to.shift.push_back(from.shift[i]);
            }
            pool.queue_copy(from.place(pool, i), to.place(pool, to.size() - 1));
        }
    };
    for_each_cell_list(src, [&](const retain_layer & layer, int32_t h, const retain_cell_list & from) {
        copy(from, dst.cell_lists[layer.list_first + h], *pools[layer.pool]);
    });
    for (size_t i = 0; i < src.archived.size(); ++i) {
        copy(src.archived[i], dst.archived[i], archive->get_pool());
        archive->reset_counts(dst.archived[i], 0);
    }
    run_copies();

    std::tie(dst.pos_max, dst.n_seen) = src.end_before(p1);
    dst.evicted_at = p0 > 0 ? dst.next_pos() : src.evicted_at;
    dst.released   = src.released;
    dst.pins       = pins;
    dst.queries    = src.queries;
    dst.queries.remove(0, p0);
    dst.queries.cut(dst.pos_max + 1);
    if (n_cells_per_list(dst) > config.residents(dst.budget) && dst.budget < src.budget && !dst.hold) {
        evict(dst);
    }
}

void retain_memory::seq_keep(llama_seq_id seq_id) {
    if (is_busy()) {
        return;
    }
    settle();
    for (size_t s = 0; s < seqs.size(); ++s) {
        if ((llama_seq_id) s != seq_id) {
            clear_seq(seqs[s]);
        }
    }
}

// The first position from which on all are there. Before it a prefix cannot be cut back to exactly, so that a client
// which reuses prefixes down to this position is right.
llama_pos retain_memory::seq_pos_min(llama_seq_id seq_id) const {
    if (!has_seq(seq_id)) {
        return -1;
    }
    const auto & seq = seqs[seq_id];
    return rollback_limit(seq) > 0 ? rollback_limit(seq) - 1 : first_position(seq);
}

llama_pos retain_memory::first_position(const retain_seq & seq) const {
    llama_pos res = std::numeric_limits<llama_pos>::max();
    for (const auto & cell_list : seq.cell_lists) {
        for (const int32_t p : cell_list.pos) {
            res = std::min(res, p);
        }
    }
    return res == std::numeric_limits<llama_pos>::max() ? -1 : res;
}

llama_pos retain_memory::seq_pos_max(llama_seq_id seq_id) const {
    // the last position seen, even if its cells are gone: the next token comes after it
    return has_seq(seq_id) ? seqs[seq_id].pos_max : -1;
}

std::map<ggml_backend_buffer_type_t, size_t> retain_memory::memory_breakdown() const {
    std::map<ggml_backend_buffer_type_t, size_t> res;
    for (const auto & pool : pools) {
        res[pool->get_buft()] += pool->bytes() + ggml_nbytes(pool->get_log_beta());
    }
    if (archive) {
        res[ggml_backend_cpu_buffer_type()] += ggml_nbytes(archive->get_data());
    }
    return res;
}

// position shift

bool retain_memory::has_holes(const retain_seq & seq) const {
    for (const auto & cell_list : seq.cell_lists) {
        if (cell_list.size() == 0) {
            if (seq.n_seen > 0) {
                return true;
            }
            continue;
        }
        const int64_t first = *std::min_element(cell_list.ordinal.begin(), cell_list.ordinal.end());
        if (cell_list.size() != seq.n_seen - first) {
            return true;
        }
    }
    return false;
}

// one line that says why positions of this model cannot be shifted, or ""; as in stock llama.cpp
static std::string shift_refusal(const llama_model & model) {
    if (model.hparams.n_pos_per_embd() > 1) {
        return "positions of this model have several parts (M-RoPE) and cannot be shifted";
    }
    if (model.arch == LLM_ARCH_STEP35) {
        return "positions of this model cannot be shifted: its layers rotate keys differently";
    }
    return "";
}

// Clients ask once, before the first token: where evictions may come the answer is no, although shifts are exact until then.
bool retain_memory::get_can_shift() const {
    return shift_refusal(model).empty() && std::none_of(seqs.begin(), seqs.end(), [&](const retain_seq & seq) {
        return (evicts() && seq.budget < (int64_t) n_ctx_seq) || has_holes(seq) || seq.n_seen != seq.next_pos();
    });
}

void retain_memory::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    if (is_busy()) {
        return;
    }
    settle();
    normalize_range(p0, p1);

    if (!has_seq(seq_id)) {
        refuse(retain_format("cannot shift sequence %d: the context has %zu", seq_id, seqs.size()));
        return;
    }
    auto & seq = seqs[seq_id];

    if (const std::string reason = shift_refusal(model); !reason.empty()) {
        refuse(reason);
        return;
    }
    if (has_holes(seq)) {
        refuse("positions cannot be shifted once cells were evicted or removed from the middle: a gap has no meaning in between");
        return;
    }

    const int64_t begin = std::max(p0, first_position(seq));
    const int64_t end   = std::min(p1, seq.next_pos());
    if (begin >= end || shift == 0) {
        return;
    }
    if (seq.n_seen != seq.next_pos()) {
        refuse("positions cannot be shifted where several tokens share one");
        return;
    }
    if (end - 1 + shift > RETAIN_POS_MAX) {
        refuse(retain_format("a shift by %d would move position %lld beyond the last one, %d", shift, (long long) end - 1, RETAIN_POS_MAX));
        return;
    }
    const bool meets_older = begin > first_position(seq) && begin + shift < begin && end + shift > first_position(seq);
    const bool meets_newer = end < seq.next_pos() && end + shift > end && begin + shift < seq.next_pos();
    if (meets_older || meets_newer) {
        refuse(retain_format("a shift of [%lld, %lld) by %d would put two tokens at one position; remove the others first",
                    (long long) begin, (long long) end, shift));
        return;
    }

    llama_pos pos_max = -1;
    for_each_cell_list(seq, [&](const retain_layer & layer, int32_t, retain_cell_list & cell_list) {
        cell_list.shift.resize(cell_list.size(), 0);
        for (int64_t i = 0; i < cell_list.size(); ++i) {
            if (cell_list.pos[i] >= p0 && cell_list.pos[i] < p1) {
                cell_list.pos[i]     += shift;
                cell_list.ordinal[i] += shift;
                cell_list.shift[i]   += shift;
            }
        }
        cell_list.retain_if(*pools[layer.pool], [&](int64_t i) { return cell_list.pos[i] >= 0; });
        for (const int32_t p : cell_list.pos) {
            pos_max = std::max(pos_max, p);
        }
    });
    run_copies();
    seq.pos_max    = pos_max;
    seq.n_seen     = pos_max + 1;
    seq.evicted_at = seq.next_pos();
    seq.queries.forget(seq.next_pos()); // they would have to turn with the keys; those of the next tokens take their place
}

void retain_memory::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    GGML_UNUSED(seq_id);
    GGML_UNUSED(p0);
    GGML_UNUSED(p1);
    GGML_UNUSED(d);

    refuse("positions cannot be divided: scores depend on the age of a cell in tokens");
}

bool retain_memory::has_shift() const {
    for (const auto & seq : seqs) {
        for (const auto & cell_list : seq.cell_lists) {
            if (!cell_list.shift.empty()) {
                return true;
            }
        }
    }
    return false;
}
