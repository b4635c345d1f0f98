// pool-contexts.cpp - the contexts of upstream's own tests, with their cells in the pool where the model allows it
//
// The tests are compiled with llama_init_from_model renamed to the function below. Their contexts evict nothing, so that all
// that they ask must be answered as stock llama.cpp answers it.

#include "retain.h"

#include <atomic>
#include <cstdio>

static retain_params pool_params() {
    retain_params res = retain_default_params();
    res.budget = 1 << 20; // more than any context of the tests
    res.policy = "none";
    return res;
}

static std::atomic<int> n_pool  = 0;
static std::atomic<int> n_stock = 0;

extern "C" llama_context * retain_test_init_from_model(llama_model * model, llama_context_params cparams) {
    const retain_params rp = pool_params();
    if (llama_context * ctx = retain_init_from_model(model, cparams, &rp)) {
        ++n_pool;
        return ctx;
    }
    ++n_stock;
    return llama_init_from_model(model, cparams);
}

// what a test makes by way of upstream's common library is made in the main thread, and asks for the pool too
static const bool main_thread_is_set = [] {
    const retain_params rp = pool_params();
    return retain_set_params(&rp);
}();

static const struct count_contexts {
    ~count_contexts() {
        fprintf(stderr, "%d contexts had their cells in the pool, %d are of models that it does not take\n", n_pool.load(), n_stock.load());
    }
} at_exit;
