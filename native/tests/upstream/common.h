// common.h - in place of llama.cpp's: the little that its test of architectures uses

#pragma once

#include "llama-cpp.h"

class common_batch {
public:
    explicit common_batch(llama_context * ctx) : batch(llama_batch_ext_init(ctx)) {}

    common_batch(const common_batch &) = delete;
    common_batch & operator=(const common_batch &) = delete;

    ~common_batch() { llama_batch_ext_free(batch); }

    void clear() { llama_batch_ext_clear(batch); }

    void add(llama_token token, llama_pos pos, llama_seq_id seq_id, bool output) {
        const int32_t i = llama_batch_ext_add_token(batch, seq_id, token);
        llama_batch_ext_set_pos(batch, i, &pos);
        llama_batch_ext_set_output_logits(batch, i, output);
    }

    llama_batch_ext * get() { return batch; }

private:
    llama_batch_ext * batch;
};

inline void common_init() {}
