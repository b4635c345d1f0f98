// retain-mixed-seq.cpp - what llama.h does to sequences, in all parts of a mixed memory
//
// Each part is asked before any is changed: a sequence whose parts end at different tokens would be of no use.

#include "retain-error.h"
#include "retain-mixed.h"

#include "llama-impl.h"
#include "llama-kv-cells.h"

#include <algorithm>
#include <limits>

static constexpr llama_pos POS_END = std::numeric_limits<llama_pos>::max();

// llama.h writes an open end as a negative number
static void normalize_range(llama_pos & p0, llama_pos & p1) {
    p0 = std::max(p0, 0);
    if (p1 < 0) {
        p1 = POS_END;
    }
}

static void refuse(const std::string & message) {
    retain_error_set(message);
    LLAMA_LOG_ERROR("retain: %s\n", message.c_str());
}

void retain_mixed::clear(bool data) {
    if (attn.is_busy()) {
        return;
    }
    attn.clear(data);
    if (window) {
        window->clear(data);
    }
    if (recr) {
        recr->clear(data);
    }
}

// how far back

llama_pos retain_mixed::window_limit(llama_seq_id seq_id) const {
    if (!window || window->seq_pos_min(seq_id) <= 0) {
        return 0;
    }
    // cells are taken over in no particular order, so the oldest one tells nothing about those after it
    const auto & cells   = window->get_cells(seq_id);
    const auto   pos_max = window->seq_pos_max(seq_id);

    std::vector<bool> held(pos_max + 1 - window->seq_pos_min(seq_id), false);
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (cells.seq_has(i, seq_id)) {
            held[pos_max - cells.pos_get(i)] = true;
        }
    }
    const llama_pos begin = pos_max + 1 - (std::find(held.begin(), held.end(), false) - held.begin());

    // token p sees the n_swa - 1 positions before it
    return std::min<int64_t>(begin + (int64_t) n_swa - 1, pos_max + 1);
}

llama_pos retain_mixed::recr_limit(llama_seq_id seq_id) const {
    if (!recr) {
        return 0;
    }
    // a state that was rolled back cannot be again before it is computed with
    const llama_pos n_seen = recr->seq_pos_max(seq_id) + 1;
    const llama_pos n_back = recr->rs_idx[seq_id] == 0 ? std::min<llama_pos>(recr->n_rs_seq, n_last[seq_id]) : 0;
    return n_seen - std::max(n_back, 0);
}

llama_pos retain_mixed::rollback_limit(llama_seq_id seq_id) const {
    return std::max({ attn.rollback_limit(attn.get_seq(seq_id)), window_limit(seq_id), recr_limit(seq_id) });
}

llama_pos retain_mixed::seq_pos_min(llama_seq_id seq_id) const {
    if (!attn.has_seq(seq_id)) {
        return -1;
    }
    llama_pos res = attn.seq_pos_min(seq_id);
    if (window) {
        // llama.cpp's clients take it for the oldest position of a window, and cut back to p if it is at most p - n_swa
        const llama_pos limit = rollback_limit(seq_id);
        res = limit > 0 ? std::max<llama_pos>(limit - n_swa, 1) : res;
    }
    return recr ? std::max(res, recr->seq_pos_min(seq_id)) : res;
}

llama_pos retain_mixed::seq_pos_max(llama_seq_id seq_id) const {
    return attn.seq_pos_max(seq_id);
}

bool retain_mixed::can_remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    const auto & seq = attn.get_seq(seq_id);

    const bool rolls_back = p0 > 0 && p0 <= seq.pos_max && p1 > seq.pos_max;
    if (rolls_back && p0 < recr_limit(seq_id)) {
        retain_error_set(retain_format("sequence %d cannot be cut back to %d tokens: the state of its recurrent layers has no way back; "
                    "remove all of it and read it again", seq_id, p0));
        return false;
    }
    if (rolls_back && p0 < window_limit(seq_id)) {
        retain_error_set(retain_format("sequence %d cannot be cut back to %d tokens: its sliding windows have moved on; "
                    "cut it back to %d or more, or remove all of it and read it again", seq_id, p0, rollback_limit(seq_id)));
        return false;
    }
    return attn.can_remove(seq, p0, p1);
}

bool retain_mixed::remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    // a ubatch whose graph failed may have changed the states already
    const bool lost = recr && attn.get_seq(seq_id).n_open > 0;
    if (lost) {
        refuse(retain_format("sequence %d was interrupted, and the state of its recurrent layers has no way back: "
                    "all of it was removed; read it again", seq_id));
        p0 = 0;
        p1 = POS_END;
    }
    const llama_pos end = p1 == POS_END ? -1 : p1;

    bool res = !recr || recr->seq_rm(seq_id, p0, end);
    res = res && attn.seq_rm(seq_id, p0, end);
    res = res && (!window || window->seq_rm(seq_id, p0, end));
    return res && !lost;
}

bool retain_mixed::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (attn.is_busy()) {
        return false;
    }
    normalize_range(p0, p1);

    std::vector<llama_seq_id> chosen; // a sequence that is not there holds nothing
    for (llama_seq_id s = 0; s < (llama_seq_id) attn.n_seqs(); ++s) {
        if (seq_id < 0 || seq_id == s) {
            chosen.push_back(s);
        }
    }
    for (const llama_seq_id s : chosen) {
        if (attn.get_seq(s).n_open == 0 && !can_remove(s, p0, p1)) {
            return false;
        }
    }
    bool res = true;
    for (const llama_seq_id s : chosen) {
        res = remove(s, p0, p1) && res;
    }
    return res;
}

void retain_mixed::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    if (attn.is_busy() || seq_id_src == seq_id_dst) {
        return;
    }
    normalize_range(p0, p1);

    retain_error_clear();
    const bool whole = p0 == 0 && p1 > attn.seq_pos_max(seq_id_src);
    if (attn.has_seq(seq_id_src) && attn.has_seq(seq_id_dst) && !whole) {
        refuse(retain_format("sequence %d can only be copied as a whole: its %s cannot be divided", seq_id_src,
                    recr ? "recurrent state" : "sliding windows"));
        return;
    }

    attn.seq_cp(seq_id_src, seq_id_dst, 0, -1);
    if (!retain_error_get().empty()) {
        return;
    }
    if (window) {
        window->seq_rm(seq_id_dst, -1, -1);
        window->seq_cp(seq_id_src, seq_id_dst, -1, -1);
    }
    if (recr) {
        recr->seq_cp(seq_id_src, seq_id_dst, -1, -1);
        recr->set_rs_idx(seq_id_dst, recr->rs_idx[seq_id_src]);
        n_last[seq_id_dst] = n_last[seq_id_src];
    }
}

void retain_mixed::seq_keep(llama_seq_id seq_id) {
    if (attn.is_busy()) {
        return;
    }
    for (llama_seq_id s = 0; s < (llama_seq_id) attn.n_seqs(); ++s) {
        if (s != seq_id) {
            remove(s, 0, POS_END);
        }
    }
}

// position shift

bool retain_mixed::get_can_shift() const {
    return !window && attn.get_can_shift(); // as in stock llama.cpp: what left the windows does not come back
}

void retain_mixed::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    if (attn.is_busy()) {
        return;
    }
    if (window) {
        refuse("positions cannot be shifted: what left the sliding windows does not come back");
        return;
    }
    retain_error_clear();
    attn.seq_add(seq_id, p0, p1, shift);
    if (retain_error_get().empty()) {
        recr->seq_add(seq_id, p0, p1, shift);
    }
}

void retain_mixed::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    attn.seq_div(seq_id, p0, p1, d); // refuses
}

// sizes

std::map<ggml_backend_buffer_type_t, size_t> retain_mixed::memory_breakdown() const {
    auto res = attn.memory_breakdown();
    for (const llama_memory_i * part : std::initializer_list<const llama_memory_i *> { window.get(), recr.get() }) {
        if (part) {
            for (const auto & [buft, size] : part->memory_breakdown()) {
                res[buft] += size;
            }
        }
    }
    return res;
}

size_t retain_mixed::bytes_fixed() const {
    size_t res = 0;
    for (const llama_memory_i * part : std::initializer_list<const llama_memory_i *> { window.get(), recr.get() }) {
        if (part) {
            for (const auto & [buft, size] : part->memory_breakdown()) {
                res += size;
            }
        }
    }
    return res;
}
