// retain-server-slots.cpp - in the thread that decodes: the settings of a request on its slot, and what the slot keeps

#include "retain-server.h"
#include "retain-server-state.h"

#include "log.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <tuple>

namespace {

using ranges = std::vector<std::pair<int32_t, int32_t>>;

// what decides which cells a slot keeps
struct settings {
    int32_t     budget = 0;
    std::string policy;
    ranges      pins;

    bool operator==(const settings & other) const {
        return std::tie(budget, policy, pins) == std::tie(other.budget, other.policy, other.pins);
    }
};

struct slot_record {
    int      task        = -1;
    bool     is_prepared = true;
    settings wanted;       // by the request
    settings built_with;   // what the cache was read under
    uint64_t content = 0;  // hash of the tokens that built_with is said of
};

std::map<int, slot_record> records;

// settings of sequences that left their slot for the prompt cache in RAM or for a file, by the hash of their tokens
std::map<uint64_t, settings> parked;
constexpr size_t MAX_PARKED = 4096;

bool is_told = false; // that a text is longer than the model was trained for

settings usual_settings() {
    const auto & config = retain_server_config();
    return { config.params.budget, config.policy, {} };
}

int64_t n_positions(ranges pins) {
    std::sort(pins.begin(), pins.end());
    int64_t n   = 0;
    int32_t end = 0;
    for (const auto & [p0, p1] : pins) {
        n  += std::max(0, p1 - std::max(p0, end));
        end = std::max(end, p1);
    }
    return n;
}

settings wanted_settings(const retain_slot_view & slot) {
    const auto & config = retain_server_config();

    settings res = usual_settings();
    bool     pin_system = config.pin_system;
    if (const auto request = retain_server().request_of(slot.ticket)) {
        res.budget = request->budget.value_or(res.budget);
        res.policy = request->policy.value_or(res.policy);
        res.pins   = request->pins;
        if (request->pin_system && slot.n_system == 0) {
            throw std::runtime_error("the system message cannot be pinned: the request has none, or its template does not show where it is");
        }
        pin_system = pin_system || request->pin_system;
    }
    if (pin_system && slot.n_system > 0) {
        res.pins.emplace_back(0, slot.n_system);
    }
    const int64_t n_protected = config.params.n_sink + config.params.n_recent + n_positions(res.pins);
    if (n_protected >= res.budget && !res.pins.empty()) {
        throw std::runtime_error("sinks, recent window and pins keep " + std::to_string(n_protected) + " positions, which leaves nothing of the budget of " +
                std::to_string(res.budget));
    }
    return res;
}

void require(bool is_ok) {
    if (!is_ok) {
        throw std::runtime_error(retain_last_error());
    }
}

retain_slot_info info_of(llama_context * ctx, const retain_slot_view & slot, const retain_stats & stats) {
    retain_slot_info res;
    res.id            = slot.id;
    res.is_processing = slot.task != -1;
    res.budget        = retain_get_budget(ctx, slot.id);
    res.n_seen        = llama_memory_seq_pos_max(llama_get_memory(ctx), slot.id) + 1;
    res.n_cells       = retain_n_cells(ctx, slot.id);
    res.n_cell_lists  = stats.n_cell_lists;
    res.bytes_cell    = stats.bytes_cell;
    res.reusable_from = retain_rollback_limit(ctx, slot.id);
    res.n_checkpoints     = slot.n_checkpoints;
    res.bytes_checkpoints = slot.bytes_checkpoints;
    res.policy        = retain_get_policy(ctx);
    res.pins          = records[slot.id].built_with.pins;
    return res;
}

// per layer, the share of the cells of each part of the text that is kept
common_json picture(llama_context * ctx, int slot, int n_bins) {
    const int64_t n_seen = llama_memory_seq_pos_max(llama_get_memory(ctx), slot) + 1;
    n_bins = (int) std::min<int64_t>(n_bins, n_seen);

    std::vector<int32_t> layers(std::max(0, retain_layers(ctx, nullptr, 0)));
    retain_layers(ctx, layers.data(), layers.size());

    common_json rows = common_json::array();
    std::vector<int32_t> pos;
    for (const int32_t il : layers) {
        const int32_t n_head = retain_n_head_kv(ctx, il);
        std::vector<int64_t> n_kept(n_bins, 0);
        for (int32_t head = 0; head < n_head; ++head) {
            pos.resize(std::max<int64_t>(0, retain_get_cells(ctx, slot, il, head, nullptr, nullptr, nullptr, 0)));
            retain_get_cells(ctx, slot, il, head, pos.data(), nullptr, nullptr, pos.size());
            for (const int32_t p : pos) {
                n_kept[std::min<int64_t>(n_bins - 1, (int64_t) p*n_bins/n_seen)]++;
            }
        }
        common_json row = common_json::array();
        for (int64_t bin = 0; bin < n_bins; ++bin) {
            const int64_t first = (bin*n_seen + n_bins - 1)/n_bins;
            const int64_t end   = ((bin + 1)*n_seen + n_bins - 1)/n_bins;
            const double  share = (double) n_kept[bin]/std::max<int64_t>(1, (end - first)*n_head);
            row.push_back((int64_t) (1000*share + 0.5)/1000.0);
        }
        rows.push_back(row);
    }
    common_json numbers = common_json::array();
    for (const int32_t il : layers) {
        numbers.push_back(il);
    }
    return { { "slot", slot }, { "tokens_seen", n_seen }, { "layers", numbers }, { "kept", rows } };
}

} // namespace

bool retain_slot_asks_for_task(int id) {
    return retain_server().take_freed(id);
}

void retain_slot_begin(llama_context * ctx, const retain_slot_view & slot, const std::function<void()> & clear) {
    if (!retain_is_enabled(ctx)) {
        return;
    }
    auto & record = records[slot.id];
    if (slot.task != -1 && slot.task != record.task) {
        record.task        = slot.task;
        record.is_prepared = false;
        record.wanted      = wanted_settings(slot);

        // the cells of a prefix are those that reading it would leave only if it was read under the same settings
        const uint64_t content = slot.content();
        if (content != record.content) {
            const auto it = parked.find(content);
            record.built_with = it == parked.end() ? usual_settings() : it->second;
        }
        const bool has_evicted = retain_rollback_limit(ctx, slot.id) > 0 || slot.n_tokens >= record.wanted.budget;
        if (has_evicted && !(record.built_with == record.wanted)) {
            clear();
        }
    }

    retain_stats stats = {};
    retain_get_stats(ctx, &stats);
    retain_server().publish(slot.ticket, info_of(ctx, slot, stats), stats);
    for (auto & request : retain_server().take_cells_requests(slot.id)) {
        request.done.set_value(picture(ctx, request.slot, request.n_bins));
    }
}

void retain_slot_prepare(llama_context * ctx, const retain_slot_view & slot) {
    if (!retain_is_enabled(ctx)) {
        return;
    }
    auto & record = records[slot.id];
    if (slot.task == -1 || record.is_prepared) {
        return;
    }
    record.is_prepared = true;
    record.built_with  = record.wanted;

    if (record.wanted.policy != retain_get_policy(ctx)) {
        require(retain_set_policy(ctx, record.wanted.policy.c_str()));
    }
    // a slot that was emptied lost its pins, a state brings those that it was saved with
    require(retain_unpin(ctx, slot.id, 0, -1));
    if (retain_get_budget(ctx, slot.id) != record.wanted.budget) {
        require(retain_set_budget(ctx, slot.id, record.wanted.budget));
    }
    for (const auto & [p0, p1] : record.wanted.pins) {
        require(retain_pin(ctx, slot.id, p0, p1));
    }
}

void retain_slot_end(llama_context * ctx, const retain_slot_view & slot) {
    if (!retain_is_enabled(ctx)) {
        return;
    }
    auto & record = records[slot.id];
    record.content = slot.content();
    if (!(record.built_with == usual_settings())) {
        if (parked.size() >= MAX_PARKED) {
            parked.clear();
        }
        parked[record.content] = record.built_with;
    }

    retain_stats stats = {};
    retain_get_stats(ctx, &stats);
    const auto info = info_of(ctx, slot, stats);
    const int32_t n_ctx_train = retain_server_config().n_ctx_train;
    if (n_ctx_train > 0 && info.n_seen > n_ctx_train && !is_told) {
        is_told = true;
        LOG_WRN("retention: slot %d has seen %lld tokens, more than the %d that the model was trained for; replies may be poor from there on\n",
                slot.id, (long long) info.n_seen, n_ctx_train);
    }
    retain_server().finish(slot.ticket, info);
}
