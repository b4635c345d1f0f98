// retain-seq.cpp - what llama.h does to sequences: clear, remove, copy, keep, shift

#include "retain-memory.h"
#include "retain-error.h"

#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <limits>

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
    for (auto & layer : layers) {
        for (int32_t h = 0; h < layer.n_head_kv; ++h) {
            seq.streams[layer.stream_first + h].truncate(*pools[layer.pool], 0);
        }
    }

    retain_seq fresh = make_seq();
    fresh.budget = seq.budget;
    fresh.hold   = seq.hold;
    seq = std::move(fresh);
}

void retain_memory::clear(bool data) {
    GGML_UNUSED(data); // a cell is read only after it was written again

    for (auto & seq : seqs) {
        clear_seq(seq);
    }
}

bool retain_memory::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    normalize_range(p0, p1);

    if (seq_id < 0) {
        for (auto & seq : seqs) {
            remove_range(seq, p0, p1);
        }
        return true;
    }
    if (has_seq(seq_id)) {
        remove_range(seqs[seq_id], p0, p1);
    }
    return true;
}

void retain_memory::remove_range(retain_seq & seq, llama_pos p0, llama_pos p1) {
    if (p0 == 0 && p1 > seq.pos_max) {
        clear_seq(seq);
        return;
    }
    if (p0 > seq.pos_max || p0 >= p1) {
        return;
    }

    for (auto & layer : layers) {
        for (int32_t h = 0; h < layer.n_head_kv; ++h) {
            auto & stream = seq.streams[layer.stream_first + h];
            stream.retain_if(*pools[layer.pool], [&](int64_t i) { return stream.pos[i] < p0 || stream.pos[i] >= p1; });
        }
    }
    seq.queries.remove(p0, p1);

    if (p1 > seq.pos_max) {
        // a roll-back: what was evicted since p0 tokens does not come back
        seq.pos_max    = p0 - 1;
        seq.evicted_at = std::min<int64_t>(seq.evicted_at, p0);
    } else {
        seq.evicted_at = seq.n_seen();
    }
}

void retain_memory::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
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

    clear_seq(dst);

    std::vector<uint8_t> cell(pools[0]->bytes_cell());
    for (const auto & layer : layers) {
        auto & pool = *pools[layer.pool];
        for (int32_t h = 0; h < layer.n_head_kv; ++h) {
            const auto & from = src.streams[layer.stream_first + h];
            auto       & to   = dst.streams[layer.stream_first + h];

            for (int64_t i = 0; i < from.size(); ++i) {
                if (from.pos[i] < p0 || from.pos[i] >= p1) {
                    continue;
                }
                to.append(pool, 1, &from.pos[i]);
                to.log_beta.back() = from.log_beta[i];
                if (!from.shift.empty()) {
                    to.shift.push_back(from.shift[i]);
                }
                pool.read (from.place(pool, i), cell.data());
                pool.write(to.place(pool, to.size() - 1), cell.data());
            }
        }
    }

    dst.pos_max    = std::min(src.pos_max, p1 - 1);
    dst.evicted_at = std::min<int64_t>(src.evicted_at, dst.n_seen());
    dst.pins       = src.pins;
    dst.queries    = src.queries;
    dst.queries.remove(0, p0);
    dst.queries.remove(p1, std::numeric_limits<llama_pos>::max());
    if (p0 > 0) {
        dst.evicted_at = dst.n_seen();
    }
    if (n_cells(dst) > (int64_t) dst.budget*n_streams && dst.budget < src.budget && (policy->score || callback)) {
        evict(dst);
    }
}

void retain_memory::seq_keep(llama_seq_id seq_id) {
    for (size_t s = 0; s < seqs.size(); ++s) {
        if ((llama_seq_id) s != seq_id) {
            clear_seq(seqs[s]);
        }
    }
}

llama_pos retain_memory::seq_pos_min(llama_seq_id seq_id) const {
    if (!has_seq(seq_id)) {
        return -1;
    }

    llama_pos res = std::numeric_limits<llama_pos>::max();
    for (const auto & stream : seqs[seq_id].streams) {
        for (const int32_t p : stream.pos) {
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
        res[pool->buft] += pool->bytes() + ggml_nbytes(pool->log_beta);
    }
    return res;
}

// position shift

bool retain_memory::has_holes(const retain_seq & seq) const {
    for (const auto & stream : seq.streams) {
        if (stream.pos.empty()) {
            if (seq.pos_max >= 0) {
                return true;
            }
            continue;
        }
        const llama_pos p_min = *std::min_element(stream.pos.begin(), stream.pos.end());
        if (stream.size() != seq.pos_max - p_min + 1) {
            return true;
        }
    }
    return false;
}

bool retain_memory::get_can_shift() const {
    if (model.hparams.n_pos_per_embd() > 1 || model.arch == LLM_ARCH_STEP35) {
        return false; // as in stock llama.cpp
    }
    return std::none_of(seqs.begin(), seqs.end(), [&](const retain_seq & seq) { return has_holes(seq); });
}

void retain_memory::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    normalize_range(p0, p1);

    if (!has_seq(seq_id)) {
        refuse(retain_format("cannot shift sequence %d: the context has %zu", seq_id, seqs.size()));
        return;
    }
    auto & seq = seqs[seq_id];

    if (!get_can_shift() && has_holes(seq)) {
        refuse("positions cannot be shifted once cells were evicted or removed from the middle: a gap has no meaning in between");
        return;
    }
    if (p0 > seq.pos_max || p0 >= p1 || shift == 0) {
        return;
    }

    llama_pos pos_max = -1;
    for (const auto & layer : layers) {
        for (int32_t h = 0; h < layer.n_head_kv; ++h) {
            auto & stream = seq.streams[layer.stream_first + h];

            stream.shift.resize(stream.size(), 0);
            for (int64_t i = 0; i < stream.size(); ++i) {
                if (stream.pos[i] >= p0 && stream.pos[i] < p1) {
                    stream.pos[i]   += shift;
                    stream.shift[i] += shift;
                }
            }
            stream.retain_if(*pools[layer.pool], [&](int64_t i) { return stream.pos[i] >= 0; });
            for (const int32_t p : stream.pos) {
                pos_max = std::max(pos_max, p);
            }
        }
    }
    seq.pos_max    = pos_max;
    seq.evicted_at = seq.n_seen();
    seq.queries.clear(); // they would have to turn with the keys; those of the next tokens take their place
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
        for (const auto & stream : seq.streams) {
            if (!stream.shift.empty()) {
                return true;
            }
        }
    }
    return false;
}
