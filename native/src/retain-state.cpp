// retain-state.cpp - save and restore of one sequence or of all
//
//     header    magic, version, fingerprint of the cache's shape, bytes of the payload, checksum of the payload
//     payload   number of sequences, then for each
//                   id, budget, last position, tokens seen, the first position that it can be cut back to, whether it was
//                   released from a hold, pins
//                   the queries of the last tokens, if the policy needs them: their number, then position, ordinal, floats
//                   per cell list: number of cells, positions, ordinals, log betas, then K row and V row of each cell
//                   whether there is an archive; its types, and the same per cell list of it
//
// A state is read and checked as a whole before anything of the memory changes.

#include "retain-checksum.h"
#include "retain-error.h"
#include "retain-memory.h"

#include "llama-impl.h"
#include "llama-io.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr uint32_t MAGIC   = 0x74726c72; // "rlrt"
constexpr uint32_t VERSION = 4;

struct writer {
    std::vector<uint8_t> data;

    void raw(const void * src, size_t n) {
        const uint8_t * p = (const uint8_t *) src;
        data.insert(data.end(), p, p + n);
    }

    template <typename T>
    void put(T x) {
        raw(&x, sizeof(x));
    }
};

class reader {
public:
    explicit reader(const std::vector<uint8_t> & data) : data(data) {}

    // n values of an array
    template <typename T>
    std::vector<T> list(int64_t n) {
        std::vector<T> res(n);
        const uint8_t * src = raw(n*sizeof(T));
        if (n > 0) {
            memcpy(res.data(), src, n*sizeof(T));
        }
        return res;
    }

    const uint8_t * raw(size_t n) {
        if (n > data.size() - at) {
            throw retain_error("the state is truncated");
        }
        at += n;
        return data.data() + at - n;
    }

    template <typename T>
    T get() {
        T x;
        memcpy(&x, raw(sizeof(x)), sizeof(x));
        return x;
    }

    // n that is followed by n items of at least size bytes each
    int64_t count(size_t size) {
        const int64_t n = get<int64_t>();
        if (n < 0 || (uint64_t) n > (data.size() - at)/size) {
            throw retain_error("the state is damaged: a count is out of range");
        }
        return n;
    }

    bool at_end() const { return at == data.size(); }

private:
    const std::vector<uint8_t> & data;
    size_t at = 0;
};

struct header {
    uint32_t magic;
    uint32_t version;
    uint64_t shape;
    uint64_t n_bytes;
    uint64_t checksum;
};

// what one sequence of a state says, before it is taken over
struct loaded_seq {
    retain_seq seq;                    // cell lists without pages
    std::vector<const uint8_t *> rows; // per cell list: its cells' K and V rows
    std::vector<const uint8_t *> archived_rows;
};

// two caches of one shape can exchange states
uint64_t shape_of(const retain_memory & mem) {
    writer w;

    const auto & model = mem.get_model();
    const auto & pool  = mem.pool_of(mem.get_layers()[0]);
    w.raw(model.arch_name().data(), model.arch_name().size());
    w.put((int32_t) pool.get_k()->type);
    w.put((int32_t) pool.get_v()->type);
    w.put(mem.get_n_rot_k());
    w.put(mem.get_n_rot_v());
    w.put((int32_t) model.hparams.n_embd);
    w.put((int32_t) model.vocab.n_tokens());
    for (const auto & layer : mem.get_layers()) {
        w.put(layer.il);
        w.put(layer.n_head);
        w.put(layer.n_head_kv);
        w.put(layer.n_embd_k);
        w.put(layer.n_embd_v);
    }
    w.put((uint8_t) (mem.get_gates() != nullptr));
    w.put((uint8_t) mem.has_static_gates());
    return retain_checksum(w.data);
}

void write_cells(writer & w, const retain_cell_list & cell_list, const retain_pool & pool) {
    w.put(cell_list.size());
    w.raw(cell_list.pos.data(),      cell_list.size()*sizeof(int32_t));
    w.raw(cell_list.ordinal.data(),  cell_list.size()*sizeof(int32_t));
    w.raw(cell_list.log_beta.data(), cell_list.size()*sizeof(float));

    const size_t at = w.data.size();
    w.data.resize(at + cell_list.size()*pool.bytes_cell());
    pool.read(cell_list.pages, cell_list.size(), w.data.data() + at);
}

// the cells of a list, without pages, and where their rows are
const uint8_t * read_cells(reader & r, const retain_memory & mem, const retain_seq & seq, retain_cell_list & cell_list, size_t bytes_cell) {
    const int64_t n = r.count(2*sizeof(int32_t) + sizeof(float) + bytes_cell);
    cell_list.pos      = r.list<int32_t>(n);
    cell_list.ordinal  = r.list<int32_t>(n);
    cell_list.log_beta = r.list<float>(n);

    for (int64_t i = 0; i < n; ++i) {
        const bool in_range = cell_list.pos[i] >= 0 && cell_list.pos[i] <= seq.pos_max &&
            cell_list.ordinal[i] >= 0 && cell_list.ordinal[i] < seq.n_seen;
        if (!in_range || (cell_list.log_beta[i] > 0.0f && !mem.has_static_gates())) { // a log beta may be NaN
            throw retain_error("the state is damaged: a cell is out of range");
        }
    }
    return r.raw(n*bytes_cell);
}

void read_archive(reader & r, const retain_memory & mem, loaded_seq & res) {
    const int32_t type_k = r.get<int32_t>();
    const int32_t type_v = r.get<int32_t>();

    const auto * archive = mem.get_archive();
    if (!archive) {
        throw retain_error("the state has an archive of evicted cells, and this context has none; make it with recall and an archive");
    }
    if (type_k != archive->get_type_k() || type_v != archive->get_type_v()) {
        throw retain_error(retain_format("the state's archive has cells of another type than this context's, %s", ggml_type_name(archive->get_type_k())));
    }
    for (auto & cell_list : res.seq.archived) {
        res.archived_rows.push_back(read_cells(r, mem, res.seq, cell_list, archive->get_pool().bytes_cell()));
    }
    if (mem.n_archived(res.seq) > archive->n_max()) {
        throw retain_error("the state's archive is larger than this context's; make that larger");
    }
}

void write_seq(writer & w, const retain_memory & mem, llama_seq_id id) {
    const auto & seq = mem.get_seq(id);

    w.put((int32_t) id);
    w.put(seq.budget);
    w.put((int32_t) seq.pos_max);
    w.put(seq.n_seen);
    w.put((int32_t) mem.rollback_limit(seq)); // whatever the policy of the context that reads it
    w.put((uint8_t) seq.released);
    w.put((int64_t) seq.pins.size());
    for (const auto & [p0, p1] : seq.pins) {
        w.put((int32_t) p0);
        w.put((int32_t) p1);
    }

    w.put(seq.queries.size());
    for (int64_t i = 0; i < seq.queries.size(); ++i) {
        w.put((int32_t) seq.queries[i].pos);
        w.put(seq.queries[i].ordinal);
        w.raw(seq.queries[i].q.data(), mem.get_n_query()*sizeof(float));
    }

    mem.for_each_cell_list(seq, [&](const retain_layer & layer, int32_t, const retain_cell_list & cell_list) {
        write_cells(w, cell_list, mem.pool_of(layer));
    });

    const bool has_archive = mem.n_archived(seq) > 0;
    w.put((uint8_t) has_archive);
    if (has_archive) {
        w.put((int32_t) mem.get_archive()->get_type_k());
        w.put((int32_t) mem.get_archive()->get_type_v());
        for (const auto & cell_list : seq.archived) {
            write_cells(w, cell_list, mem.get_archive()->get_pool());
        }
    }
}

loaded_seq read_seq(reader & r, const retain_memory & mem) {
    loaded_seq res;

    res.seq            = mem.make_seq(r.get<int32_t>());
    res.seq.budget     = r.get<int32_t>();
    res.seq.pos_max    = r.get<int32_t>();
    res.seq.n_seen     = r.get<int64_t>();
    res.seq.evicted_at = r.get<int32_t>();
    res.seq.released   = r.get<uint8_t>() != 0;
    if (res.seq.budget < 1 || res.seq.pos_max < -1 || res.seq.pos_max > RETAIN_POS_MAX ||
            res.seq.n_seen < 0 || res.seq.n_seen > (int64_t) RETAIN_POS_MAX + 1 || (res.seq.n_seen == 0) != (res.seq.pos_max < 0) ||
            res.seq.evicted_at < 0 || res.seq.evicted_at > res.seq.next_pos()) {
        throw retain_error("the state is damaged: a sequence is inconsistent");
    }

    const int64_t n_pins = r.count(2*sizeof(int32_t));
    for (int64_t i = 0; i < n_pins; ++i) {
        const int32_t p0 = r.get<int32_t>();
        const int32_t p1 = r.get<int32_t>();
        if (p0 < 0 || p1 <= p0) {
            throw retain_error("the state is damaged: a pin is out of range");
        }
        res.seq.pins.emplace_back(p0, p1);
    }

    const size_t  n_bytes   = mem.get_n_query()*sizeof(float);
    const int64_t n_queries = r.count(2*sizeof(int32_t) + n_bytes);
    for (int64_t i = 0; i < n_queries; ++i) {
        const int32_t pos     = r.get<int32_t>();
        const int32_t ordinal = r.get<int32_t>();
        const bool    follows = i == 0 || (pos >= res.seq.queries[i - 1].pos && ordinal > res.seq.queries[i - 1].ordinal);
        if (n_queries > retain_queries::N_MAX || pos < 0 || pos > res.seq.pos_max ||
                ordinal < 0 || ordinal >= res.seq.n_seen || !follows) {
            throw retain_error("the state is damaged: a query is out of range");
        }
        memcpy(res.seq.queries.push(pos, ordinal, mem.get_n_query()).q.data(), r.raw(n_bytes), n_bytes);
    }

    mem.for_each_cell_list(res.seq, [&](const retain_layer & layer, int32_t, retain_cell_list & cell_list) {
        res.rows.push_back(read_cells(r, mem, res.seq, cell_list, mem.pool_of(layer).bytes_cell()));
    });
    if (r.get<uint8_t>() != 0) {
        read_archive(r, mem, res);
    }
    return res;
}

} // namespace

void retain_memory::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    GGML_UNUSED(flags); // all of a sequence is needed to go on with it

    retain_error_clear();
    settle();

    if (has_shift()) {
        throw retain_error("a state with a position shift under way cannot be saved; decode a token first");
    }
    if (seq_id >= 0 && !has_seq(seq_id)) {
        throw retain_error(retain_format("sequence %d is out of range; the context has %zu", seq_id, seqs.size()));
    }
    for (size_t s = 0; s < seqs.size(); ++s) {
        if (seqs[s].n_open > 0 && (seq_id < 0 || seq_id == (llama_seq_id) s)) {
            throw retain_error(retain_format("tokens of sequence %zu are being computed; save its state when they are done", s));
        }
    }

    writer w;
    if (seq_id >= 0) {
        w.put((int64_t) 1);
        write_seq(w, *this, seq_id);
    } else {
        w.put((int64_t) seqs.size());
        for (size_t s = 0; s < seqs.size(); ++s) {
            write_seq(w, *this, s);
        }
    }

    const header head = { MAGIC, VERSION, shape_of(*this), w.data.size(), retain_checksum(w.data) };
    io.write(&head, sizeof(head));
    io.write(w.data.data(), w.data.size());
}

void retain_memory::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    GGML_UNUSED(flags);

    retain_error_clear();

    if (is_busy()) {
        throw retain_error(retain_error_get());
    }
    settle();

    header head;
    io.read(&head, sizeof(head));
    if (head.magic != MAGIC) {
        throw retain_error("not a state of a retention cache");
    }
    if (head.version != VERSION) {
        throw retain_error(retain_format("the state has version %u, this program reads %u", head.version, VERSION));
    }
    if (head.shape != shape_of(*this)) {
        throw retain_error("the state is of another model, of other cell types, or with gates where there are none");
    }

    // a file ends with the state; a buffer may be longer
    if (io.n_left() != SIZE_MAX && io.n_left() != head.n_bytes) {
        throw retain_error(retain_format("the state is damaged: it has %zu bytes left where its header says %llu",
                    io.n_left(), (unsigned long long) head.n_bytes));
    }
    const auto data = retain_read_bytes(io, head.n_bytes);
    if (retain_checksum(data) != head.checksum) {
        throw retain_error("the state is damaged: its checksum does not match");
    }

    reader r(data);
    std::vector<loaded_seq> loaded;

    const int64_t n_seqs = r.count(1);
    if (seq_id >= 0 ? n_seqs != 1 : n_seqs > (int64_t) seqs.size()) {
        throw retain_error(retain_format("the state holds %lld sequences, which do not fit here", (long long) n_seqs));
    }
    for (int64_t i = 0; i < n_seqs; ++i) {
        loaded.push_back(read_seq(r, *this));
        auto & seq = loaded.back().seq;
        if (seq_id >= 0) {
            seq.id = seq_id;
        }
        const auto same = [&](const loaded_seq & other) { return other.seq.id == seq.id; };
        if (std::any_of(loaded.begin(), loaded.end() - 1, same)) {
            throw retain_error(retain_format("the state is damaged: it holds sequence %d twice", seq.id));
        }
        if (!has_seq(seq.id)) {
            throw retain_error(retain_format("sequence %d is out of range; the context has %zu", seq.id, seqs.size()));
        }
        if (seq.budget > config.budget) {
            throw retain_error(retain_format("the state has a budget of %d, this context one of %d; make it at least as large",
                        seq.budget, config.budget));
        }
        for (size_t p = 0; p < pools.size(); ++p) {
            if (n_cells_of(seq, p) > n_max_per_list*n_cell_lists_of(p)) {
                throw retain_error("the state holds more cells than this context has room for; make its budget or its ubatch larger");
            }
        }
        check_protected({}, seq.pins, seq.budget); // as where a sequence is copied
    }
    if (!r.at_end()) {
        throw retain_error("the state is damaged: bytes are left over");
    }

    // all is well: take it over
    if (seq_id < 0) {
        clear(false);
    }
    for (const auto & l : loaded) {
        auto & seq = seqs[l.seq.id];
        clear_seq(seq);

        seq.budget     = l.seq.budget;
        seq.pos_max    = l.seq.pos_max;
        seq.n_seen     = l.seq.n_seen;
        seq.evicted_at = l.seq.evicted_at;
        seq.released   = l.seq.released;
        seq.pins       = l.seq.pins;
        if (keeps_queries()) {
            seq.queries = l.seq.queries;
        }

        const auto take = [](retain_cell_list & cell_list, const retain_cell_list & from, const uint8_t * rows, retain_pool & pool) {
            cell_list.append(pool, from.size(), from.pos.data(), from.ordinal.data());
            cell_list.log_beta = from.log_beta;
            pool.write(cell_list.pages, cell_list.size(), rows);
        };
        for_each_cell_list(seq, [&](const retain_layer & layer, int32_t h, retain_cell_list & cell_list) {
            const size_t at = layer.list_first + h;
            take(cell_list, l.seq.cell_lists[at], l.rows[at], *pools[layer.pool]);
        });
        for (size_t at = 0; at < l.archived_rows.size(); ++at) {
            take(seq.archived[at], l.seq.archived[at], l.archived_rows[at], archive->get_pool());
            archive->reset_counts(seq.archived[at], 0);
        }
    }
}
