// retain-policy.h - what a policy is: a score for every cell, the highest stay

#pragma once

#include <cstdint>

// the cells of one stream, as a policy sees them
struct retain_policy_input {
    int32_t         il;
    int32_t         head;
    int64_t         n_seen;    // tokens seen so far
    int32_t         lookahead;
    uint32_t        seed;
    int64_t         n_cells;
    const int32_t * pos;       // [n_cells]
    const float   * log_beta;  // [n_cells]
};

struct retain_policy {
    const char * name;
    const char * description;
    bool         needs_gates;

    // scores [n_cells]; null: the policy never evicts
    void (*score)(const retain_policy_input & in, float * scores);
};

// one per file in policies/
extern const retain_policy retain_policy_gate;
extern const retain_policy retain_policy_window;
extern const retain_policy retain_policy_random;
extern const retain_policy retain_policy_none;

// every policy, null-terminated
extern const retain_policy * const retain_policies[];

// null when there is none of that name
const retain_policy * retain_policy_find(const char * name);
