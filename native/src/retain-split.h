// retain-split.h - where a batch is cut into ubatches
//
// llama.cpp's server puts tokens of several sequences into one batch, and cuts it where a ubatch is full. An eviction runs
// between two ubatches only, so it would wait for the end of the ubatch in which it becomes due. Here a ubatch ends where
// an eviction of one of its sequences is due. So each runs after as many tokens of its sequence as if the sequence were read
// alone, and what it keeps does not depend on what else is in the batch. As evictions are a buffer apart, and that is at
// least a ubatch, each makes one ubatch more at most.
//
// With another prefill than RETAIN_PREFILL_EVEN, as of a caller that cuts its batches itself, and with a buffer smaller than a
// ubatch, where evictions have no such place, the batch is cut where ubatches are full.

#pragma once

#include "llama-batch.h"

#include <cstdint>
#include <vector>

class retain_memory;

class retain_split {
public:
    // n_ubatch: most tokens of a ubatch
    retain_split(const retain_memory & mem, const llama_batch & batch, uint32_t n_ubatch);

    // How many tokens the next ubatch may have, at least one, when it takes the batch's tokens in order; when it takes them from
    // one sequence; and when it takes equally many from several sequences, with ascending numbers or of any.
    uint32_t n_simple() const;
    uint32_t n_of_sequence() const;
    uint32_t n_equal(bool ascending) const;

    // the next ubatch is this one
    void take(const llama_ubatch & ubatch);

private:
    int64_t left_of(uint32_t token) const; // tokens that its sequence may still have until an eviction is due

    const llama_batch & batch;

    const uint32_t n_ubatch;
    const int64_t  buffer;

    std::vector<bool>    used; // tokens
    std::vector<int64_t> left; // per sequence
};
