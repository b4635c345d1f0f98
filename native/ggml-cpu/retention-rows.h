// retention-rows.h - rows of cells by their type: how each is widened to floats, VF at a time
//
// A reader has STEP, the vectors of one load; load() of the STEP*VF values from i on; and scalar(), of value i.

#pragma once

#include "retention-simd.h"

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

#include <cstdint>

namespace retention {

template <typename T>
struct rows_of {
    static constexpr int STEP = 1;

    static inline void load(const char * row, int64_t i, vf32 * x) {
        x[0] = vf_load((const T *) row + i);
    }

    static inline float scalar(const char * row, int64_t i) {
        return vf_scalar((const T *) row + i);
    }
};

struct rows_q8_0 {
    static constexpr int STEP = QK8_0/VF;

    static inline void load(const char * row, int64_t i, vf32 * x) {
        const block_q8_0 & b = ((const block_q8_0 *) row)[i/QK8_0];
        const vf32         d = vf_set1(GGML_CPU_FP16_TO_FP32(b.d));
        for (int j = 0; j < STEP; ++j) {
            x[j] = vf_mul(d, vf_load(b.qs + j*VF));
        }
    }

    static inline float scalar(const char * row, int64_t i) {
        const block_q8_0 & b = ((const block_q8_0 *) row)[i/QK8_0];
        return GGML_CPU_FP16_TO_FP32(b.d)*b.qs[i%QK8_0];
    }
};

struct rows_q4_0 {
    static constexpr int STEP = QK4_0/VF;

    static inline void load(const char * row, int64_t i, vf32 * x) {
        const block_q4_0 & b = ((const block_q4_0 *) row)[i/QK4_0];
        const vf32         d = vf_set1(GGML_CPU_FP16_TO_FP32(b.d));

        vf_load_q4_0(b.qs, x);
        for (int j = 0; j < STEP; ++j) {
            x[j] = vf_mul(d, x[j]);
        }
    }

    static inline float scalar(const char * row, int64_t i) {
        const block_q4_0 & b = ((const block_q4_0 *) row)[i/QK4_0];
        const int          j = i%QK4_0;
        const int          q = j < QK4_0/2 ? b.qs[j] & 15 : b.qs[j - QK4_0/2] >> 4;
        return GGML_CPU_FP16_TO_FP32(b.d)*(q - 8);
    }
};

// call fn(reader) for cells of the type; false: there is no reader, the rows must be unpacked by ggml's to_float
template <typename F>
bool with_rows(ggml_type type, F fn) {
    switch (type) {
        case GGML_TYPE_F32:  fn(rows_of<float>()); return true;
        case GGML_TYPE_F16:  fn(rows_of<ggml_fp16_t>()); return true;
        case GGML_TYPE_BF16: fn(rows_of<ggml_bf16_t>()); return true;
        case GGML_TYPE_Q8_0: fn(rows_q8_0()); return true;
        case GGML_TYPE_Q4_0: fn(rows_q4_0()); return true;
        default:             return false;
    }
}

} // namespace retention
