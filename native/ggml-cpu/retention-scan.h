// retention-scan.h - products of archived keys with queries of 8 bits, to find out which cells a token recalls
//
// A query is rounded to 8 bits with one scale for all of it; a key's 4 or 8 bits are taken as they are. So products are of
// integers, in blocks of 32, and finding costs a small part of what products of floats cost. What is found is attended to exactly.

#pragma once

#include "ggml.h"

#include <cstdint>

namespace retention {

// queries of 8 bits, and room for the keys that are multiplied with them
struct scan_queries {
    static constexpr int64_t BLOCK     = 32; // numbers of a block, of either type of keys
    static constexpr int64_t MAX_LANES = 16; // most keys at once

    int64_t  n_rows;
    int64_t  n_embd;
    int8_t * q;      // [n_rows, n_embd]
    int32_t * less;  // [n_rows, n_embd/BLOCK] what the offset of unsigned keys adds to the product of a block, with the other sign
    float  * scale;  // [n_rows]
    uint8_t * keys;  // [n_embd/4, lanes, 4] numbers of as many keys as there are lanes, four of each together
    float  * scales; // [n_embd/BLOCK, lanes] scales of their blocks

    static size_t n_floats(int64_t n_rows, int64_t n_embd) {
        return n_rows*(n_embd/4 + n_embd/BLOCK + 1) + MAX_LANES*(n_embd/4 + n_embd/BLOCK);
    }

    scan_queries(float * base, int64_t n_rows, int64_t n_embd) :
        n_rows(n_rows), n_embd(n_embd),
        q     ((int8_t *) base),
        less  ((int32_t *) (base + n_rows*n_embd/4)),
        scale (base + n_rows*(n_embd/4 + n_embd/BLOCK)),
        keys  ((uint8_t *) (scale + n_rows)),
        scales(scale + n_rows + MAX_LANES*n_embd/4) {}

    // round rows x [n_rows, n_embd] for keys of a type
    void load(const float * x, ggml_type type);
};

// whether keys of a type are scanned so
inline bool can_scan(ggml_type type) { return type == GGML_TYPE_Q4_0 || type == GGML_TYPE_Q8_0; }

// s[r*stride + c] = q[r].k[c] of n cells that lie together; s has room for whole lanes: stride is a multiple of MAX_LANES.
// next: the keys that will be read after them, or null
void scan_keys(const scan_queries & q, ggml_type type, const char * keys, int64_t n_cells, float * s, int64_t stride, const char * next);

} // namespace retention
