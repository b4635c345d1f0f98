// retain-params.h - the parameters of a retention memory, owned and checked

#pragma once

#include "retain.h"

#include <memory>
#include <string>

struct retain_config {
    int32_t budget;
    int32_t buffer;
    int32_t lookahead;
    int32_t n_sink;
    int32_t n_recent;
    int32_t min_per_head;
    int32_t page_size;
    bool    prefill_full;
    bool    prefill_even;

    retain_scope scope;
    uint32_t     seed;

    std::string policy; // "": by the gates
    std::string gates;  // "": none

    float       recall; // 0 without an archive
    ggml_type   archive_type;
    int64_t     archive_bytes;
    std::string archive_file; // "": in memory

    // of a budget, the cells of a cell list on average that a token may recall, and those that stay
    int32_t recalled (int32_t of_budget) const { return (int32_t) (recall*of_budget); }
    int32_t residents(int32_t of_budget) const { return of_budget - recalled(of_budget); }

    // throws retain_error when a value is out of range
    explicit retain_config(const retain_params & params);
};

// the parameters that this thread has set for its next contexts, or null
const retain_config * retain_config_pending();
void                  retain_config_set_pending(const retain_params * params);

// while it lives, this thread makes stock contexts
class retain_config_pause {
public:
    retain_config_pause();
    ~retain_config_pause();

private:
    std::unique_ptr<retain_config> paused;
};

// cells per page for a budget: a last page is half empty on average, and should cost little
int32_t retain_page_size_for(int32_t budget);
