// retain-policy.h - what a policy is: a score for every cell, the highest stay

#pragma once

#include <cstdint>

// the cells of one cell list, as a policy sees them
struct retain_policy_input {
    int32_t         il;
    int32_t         head;
    int64_t         n_seen;    // tokens seen so far
    int32_t         lookahead;
    uint32_t        seed;
    int64_t         n_cells;
    const int32_t * ordinal;   // [n_cells] tokens of the sequence before a cell's own
    const float   * log_beta;  // [n_cells]; of static gates the score itself
    bool            is_static; // the gates are static

    // for a policy that needs keys: as attention reads them, after RoPE, up to a turn that changes no norm or product
    int64_t       n_embd_k;
    const float * keys;        // [n_cells, n_embd_k]

    // for a policy that needs queries: those of the last tokens, oldest first; the logit of a cell is
    // softcap*tanh(q.k/softcap), or q.k without a soft-cap
    int64_t         n_queries;
    int64_t         n_group;   // query heads per KV head
    const int32_t * query_ordinal; // [n_queries]
    const float   * queries;       // [n_queries, n_group, n_embd_k]
    float           softcap;       // 0: none
    const float   * sinks;         // [n_group] logits that take part in the softmax, or null
};

struct retain_policy {
    const char * name;
    const char * description;
    bool         needs_gates;
    bool         needs_keys;
    bool         needs_queries;

    // scores [n_cells]; null: the policy never evicts
    void (*score)(const retain_policy_input & in, float * scores);
};

// every policy, null-terminated; each has a file in policies/
extern const retain_policy * const retain_policies[];

// null when there is none of that name
const retain_policy * retain_policy_find(const char * name);
