// retention-args.h - what the host passes to the Metal kernels; its names are those of ggml-retention.h

#pragma once

struct retention_gate_args {
    int32_t  n_ff;
    int32_t  n_head_kv;
    int32_t  is_score; // 1: the score itself; 0: its logsigmoid
    uint64_t nb_a1;
    uint64_t nb_w1;
    uint64_t nb_d1;
};

struct retention_attn_args {
    int32_t  n_embd_k;
    int32_t  n_embd_v;
    int32_t  n_head;
    int32_t  n_head_kv;
    int32_t  n_tokens;
    int32_t  page_size;
    int32_t  k_stride;
    int32_t  v_stride;
    int32_t  v_first;
    int32_t  list_first;
    int32_t  list_stride;
    int32_t  has_sinks;
    int32_t  n_parts;   // decode: parts that the cells of a cell list are cut into
    int32_t  n_rows;    // prompt: rows of a tile, 8 per simdgroup
    int32_t  n_block;   // prompt: cells of a block, a multiple of 8
    float    scale;
    float    softcap;
    uint64_t nb_q1;
    uint64_t nb_q2;
    uint64_t nb_k1;
    uint64_t nb_v1;
    uint64_t nb_k_new1;
    uint64_t nb_k_new2;
    uint64_t nb_v_new1;
    uint64_t nb_v_new2;
    uint64_t nb_d1;
    uint64_t nb_d2;
};

// types of rows, the function constants RETENTION_K_TYPE and RETENTION_V_TYPE
enum retention_metal_type {
    RETENTION_F32,
    RETENTION_F16,
    RETENTION_BF16,
    RETENTION_Q8_0,
    RETENTION_Q4_0,
};

#define RETENTION_K_TYPE 0
#define RETENTION_V_TYPE 1
