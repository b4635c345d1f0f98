#include "retain-params.h"
#include "retain-error.h"

#include <algorithm>
#include <memory>

// larger values would overflow the 32-bit cell counts of a cell list
static constexpr int32_t MAX_TOKENS = 1 << 24;

static void check_range(const char * name, int64_t value, int64_t lo, int64_t hi) {
    if (value < lo || value > hi) {
        throw retain_error(retain_format("%s is %lld, must be %lld to %lld", name, (long long) value, (long long) lo, (long long) hi));
    }
}

retain_config::retain_config(const retain_params & params) :
    budget      (params.budget),
    buffer      (params.buffer),
    lookahead   (params.lookahead),
    n_sink      (params.n_sink),
    n_recent    (params.n_recent),
    min_per_head(params.min_per_head),
    page_size   (params.page_size),
    prefill_full(params.prefill == RETAIN_PREFILL_FULL),
    prefill_even(params.prefill == RETAIN_PREFILL_EVEN),
    scope       (params.scope),
    seed        (params.seed),
    policy      (params.policy ? params.policy : ""),
    gates       (params.gates  ? params.gates  : ""),
    recall       (params.archive_bytes > 0 ? params.recall : 0.0f),
    archive_type (params.archive_type),
    archive_bytes(params.recall > 0.0f ? params.archive_bytes : 0),
    archive_file (params.archive_file ? params.archive_file : "") {
    check_range("budget",       budget,       1, MAX_TOKENS);
    check_range("buffer",       buffer,       0, MAX_TOKENS);
    check_range("lookahead",    lookahead,    1, MAX_TOKENS);
    check_range("n_sink",       n_sink,       0, budget);
    check_range("n_recent",     n_recent,     0, budget);
    check_range("min_per_head", min_per_head, 0, budget);
    check_range("prefill",      params.prefill, RETAIN_PREFILL_BOUNDED, RETAIN_PREFILL_EVEN);
    check_range("scope",        params.scope, RETAIN_SCOPE_GLOBAL, RETAIN_SCOPE_HEAD);

    if (n_sink + n_recent > budget) {
        throw retain_error(retain_format("n_sink + n_recent is %d, more than the budget of %d", n_sink + n_recent, budget));
    }
    if (!(params.recall >= 0.0f && params.recall <= 0.9f)) {
        throw retain_error(retain_format("recall is %g, must be 0 to 0.9 of the budget", params.recall));
    }
    if (params.archive_bytes < 0) {
        throw retain_error(retain_format("an archive of %lld bytes makes no sense; 0 turns it off", (long long) params.archive_bytes));
    }
    if (archive_bytes > 0 && archive_type != GGML_TYPE_Q4_0 && archive_type != GGML_TYPE_Q8_0) {
        throw retain_error("the archive's cells can be q4_0 or q8_0");
    }
    if (archive_bytes > 0 && recalled(budget) < 1) {
        throw retain_error(retain_format("%g%% of a budget of %d is not one cell to recall; raise the budget or recall, or leave the archive out",
                    100.0*recall, budget));
    }
    if (page_size != 0) {
        check_range("page_size", page_size, 8, 256);
        if ((page_size & (page_size - 1)) != 0) {
            throw retain_error(retain_format("page_size is %d, must be a power of two", page_size));
        }
    } else {
        page_size = retain_page_size_for(budget);
    }
}

// The largest power of two up to 128 of which 16 fit the budget: 2,048 cells are read at 27 GB/s in pages of 128, at 22 in
// pages of 16, and in larger ones no faster (bench-attention, "Pages" in docs/reference/performance-parts.md).
int32_t retain_page_size_for(int32_t budget) {
    constexpr int32_t SMALLEST = 8; // as few as may be asked for
    constexpr int32_t LARGEST  = 128;
    constexpr int32_t N_PAGES  = 16;

    int32_t size = SMALLEST;
    while (size < LARGEST && 2*size*N_PAGES <= budget) {
        size *= 2;
    }
    return size;
}

static thread_local std::unique_ptr<retain_config> pending;

const retain_config * retain_config_pending() {
    return pending.get();
}

void retain_config_set_pending(const retain_params * params) {
    pending.reset(params ? new retain_config(*params) : nullptr);
}

retain_config_pause::retain_config_pause() : paused(std::move(pending)) {
}

retain_config_pause::~retain_config_pause() {
    pending = std::move(paused);
}
