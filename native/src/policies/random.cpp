// random.cpp - every cell draws its score once: what is kept is a uniform sample of all that was seen
//
//     s = hash(seed, layer, head, p)/2^24                   in [0, 1), for the cell that p tokens came before
//
// The hash is the finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014),
// so a seed keeps the same cells on every machine.

#include "retain-policy.h"

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30))*0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27))*0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void score(const retain_policy_input & in, float * scores) {
    const uint64_t cell_list = mix(mix(mix(in.seed) ^ (uint64_t) in.il) ^ (uint64_t) in.head);

    for (int64_t i = 0; i < in.n_cells; ++i) {
        scores[i] = (float) (mix(cell_list ^ (uint64_t) in.ordinal[i]) >> 40)*0x1p-24f;
    }
}

extern const retain_policy retain_policy_random = {
    /*.name          =*/ "random",
    /*.description   =*/ "a random sample",
    /*.needs_gates   =*/ false,
    /*.needs_keys    =*/ false,
    /*.needs_queries =*/ false,
    /*.score         =*/ score,
};
