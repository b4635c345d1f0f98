// retain-mixed-state.cpp - save and restore of a mixed memory
//
//     header   magic, version, the parts and their bytes, checksum of all that follows
//     parts    the retention memory's own state, upstream's of the windows, upstream's of the recurrent layers
//
// The parts are written together whatever flags ask for: a sequence can go on from all of them only. They are read into
// memory and checked before any is changed, since upstream's parts change as they are read.

#include "retain-checksum.h"
#include "retain-error.h"
#include "retain-mixed.h"

#include "ggml-backend.h"
#include "llama-io.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr uint32_t MAGIC   = 0x6d746c72; // "rltm"
constexpr uint32_t VERSION = 1;

struct header {
    uint32_t magic;
    uint32_t version;
    uint64_t n_attn; // bytes
    uint64_t n_window;
    uint64_t n_recr;
    uint64_t checksum;
};

class memory_writer : public llama_io_write_i {
public:
    void write(const void * src, size_t size) override {
        const auto * p = (const uint8_t *) src;
        data.insert(data.end(), p, p + size);
    }

    void write_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        data.resize(data.size() + size);
        ggml_backend_tensor_get(tensor, data.data() + data.size() - size, offset, size);
    }

    size_t n_bytes() override { return data.size(); }

    std::vector<uint8_t> data;
};

class memory_reader : public llama_io_read_i {
public:
    memory_reader(const uint8_t * data, size_t size) : data(data), size(size) {}

    void read(void * dst, size_t n) override {
        if (n > 0) {
            memcpy(dst, take(n), n);
        }
    }

    void read_tensor(ggml_tensor * tensor, size_t offset, size_t n) override {
        ggml_backend_tensor_set(tensor, take(n), offset, n);
    }

    size_t n_bytes() override { return at; }
    size_t n_left()  override { return size - at; }

private:
    const uint8_t * take(size_t n) {
        if (n > size - at) {
            throw retain_error("the state is truncated");
        }
        at += n;
        return data + at - n;
    }

    const uint8_t * data;
    size_t size;
    size_t at = 0;
};

} // namespace

void retain_mixed::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    memory_writer w;
    header head = { MAGIC, VERSION, 0, 0, 0, 0 };

    attn.state_write(w, seq_id, flags); // checks that there is a state to be had
    head.n_attn = w.n_bytes();
    if (window) {
        window->state_write(w, seq_id, 0);
        head.n_window = w.n_bytes() - head.n_attn;
    }
    if (recr) {
        recr->state_write(w, seq_id, 0);
        head.n_recr = w.n_bytes() - head.n_attn - head.n_window;
    }
    head.checksum = retain_checksum(w.data);

    io.write(&head, sizeof(head));
    io.write(w.data.data(), w.data.size());
}

void retain_mixed::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    retain_error_clear();

    if (attn.is_busy()) {
        throw retain_error(retain_error_get());
    }

    header head;
    io.read(&head, sizeof(head));
    if (head.magic != MAGIC || head.version != VERSION) {
        throw retain_error("not a state of a retention cache beside windows or recurrent layers, or of another version");
    }
    if ((head.n_window > 0) != (window != nullptr) || (head.n_recr > 0) != (recr != nullptr)) {
        throw retain_error("the state is of another model");
    }

    // no part can have more bytes than there are, so that their sum does not overflow
    constexpr uint64_t MOST = UINT64_MAX/4;
    const uint64_t n_all = head.n_attn + head.n_window + head.n_recr;
    if (head.n_attn > MOST || head.n_window > MOST || head.n_recr > MOST || (io.n_left() != SIZE_MAX && io.n_left() != n_all)) {
        throw retain_error("the state is damaged: it has not the size that its header says");
    }
    const auto data = retain_read_bytes(io, n_all);
    if (retain_checksum(data) != head.checksum) {
        throw retain_error("the state is damaged: its checksum does not match");
    }

    memory_reader r_attn  (data.data(), head.n_attn);
    memory_reader r_window(data.data() + head.n_attn, head.n_window);
    memory_reader r_recr  (data.data() + head.n_attn + head.n_window, head.n_recr);

    attn.state_read(r_attn, seq_id, flags); // changes nothing if it throws
    std::fill(n_last.begin(), n_last.end(), 0);
    try {
        if (window) {
            window->state_read(r_window, seq_id, 0);
        }
        if (recr) {
            recr->state_read(r_recr, seq_id, 0);
        }
    } catch (const std::exception & err) {
        seq_rm(seq_id, -1, -1);
        throw retain_error(retain_format("the state does not fit this context (%s); what it held was removed", err.what()));
    }
}
