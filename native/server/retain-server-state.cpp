#include "retain-server-state.h"

#include <chrono>
#include <iterator>
#include <limits>

// a slot leaves a request right after it sent the last of the reply
static constexpr auto LEAVES_WITHIN = std::chrono::milliseconds(200);

retain_server_options & retain_server_config() {
    static retain_server_options options;
    return options;
}

retain_server_state & retain_server() {
    static retain_server_state state;
    return state;
}

static common_json ranges_to_json(const std::vector<std::pair<int32_t, int32_t>> & ranges) {
    common_json res = common_json::array();
    for (const auto & [first, end] : ranges) {
        res.push_back(common_json::array({ first, end }));
    }
    return res;
}

common_json retain_slot_info::usage() const {
    const int64_t n_cells_seen = n_seen*n_cell_lists;
    common_json res = {
        { "budget",       budget },
        { "policy",       policy },
        { "tokens_seen",  n_seen },
        { "cells",        n_cells },
        { "cells_seen",   n_cells_seen },
        { "cells_evicted", n_cells_seen - n_cells },
        { "bytes",        n_cells*bytes_cell },
        { "bytes_full",   n_cells_seen*bytes_cell },
    };
    const int32_t n_ctx_train = retain_server_config().n_ctx_train;
    res["beyond_trained_context"] = n_ctx_train > 0 && n_seen > n_ctx_train;
    return res;
}

common_json retain_slot_info::to_json() const {
    common_json res = usage();
    res["id"]               = id;
    res["is_processing"]    = is_processing;
    res["pins"]             = ranges_to_json(pins);
    res["reusable_from"]    = reusable_from;
    res["checkpoints"]      = n_checkpoints;
    res["checkpoint_bytes"] = bytes_checkpoints;
    return res;
}

int retain_server_state::add(retain_request request) {
    std::lock_guard<std::mutex> lock(mutex);
    last_ticket = last_ticket == std::numeric_limits<int>::max() ? 1 : last_ticket + 1;
    entries[last_ticket].request = std::move(request);
    return last_ticket;
}

void retain_server_state::remove(int ticket) {
    std::lock_guard<std::mutex> lock(mutex);
    entries.erase(ticket);
}

std::optional<retain_request> retain_server_state::request_of(int ticket) {
    std::lock_guard<std::mutex> lock(mutex);
    const auto it = entries.find(ticket);
    return it == entries.end() ? std::nullopt : std::make_optional(it->second.request);
}

void retain_server_state::publish(int ticket, const retain_slot_info & info, const retain_stats & now) {
    std::lock_guard<std::mutex> lock(mutex);
    stats = now;
    slots[info.id] = info;
    if (const auto it = entries.find(ticket); it != entries.end()) {
        it->second.info = info;
    }
}

void retain_server_state::finish(int ticket, const retain_slot_info & info) {
    std::lock_guard<std::mutex> lock(mutex);
    slots[info.id] = info;
    if (const auto it = entries.find(ticket); it != entries.end()) {
        it->second.info    = info;
        it->second.is_done = true;
    }
    done.notify_all();
}

std::optional<retain_slot_info> retain_server_state::find(int ticket, bool is_done) {
    std::unique_lock<std::mutex> lock(mutex);
    const auto it = entries.find(ticket);
    if (it == entries.end()) {
        return std::nullopt;
    }
    if (is_done) {
        done.wait_for(lock, LEAVES_WITHIN, [&]() { return it->second.is_done; });
    }
    return it->second.info;
}

std::future<common_json> retain_server_state::ask_cells(int slot, int n_bins) {
    std::lock_guard<std::mutex> lock(mutex);
    auto & request = cells_requests.emplace_back();
    request.slot   = slot;
    request.n_bins = n_bins;
    return request.done.get_future();
}

std::vector<retain_cells_request> retain_server_state::take_cells_requests(int slot) {
    std::lock_guard<std::mutex> lock(mutex);
    std::vector<retain_cells_request> res;
    for (auto it = cells_requests.begin(); it != cells_requests.end();) {
        if (it->slot == slot) {
            res.push_back(std::move(*it));
            it = cells_requests.erase(it);
        } else {
            ++it;
        }
    }
    return res;
}

void retain_server_state::free_slots(int n_slots) {
    std::lock_guard<std::mutex> lock(mutex);
    for (int i = 0; i < n_slots; ++i) {
        freed.insert(i);
    }
}

bool retain_server_state::take_freed(int slot) {
    std::lock_guard<std::mutex> lock(mutex);
    return freed.erase(slot) > 0;
}

common_json retain_server_state::to_json() {
    const auto & config = retain_server_config();

    std::lock_guard<std::mutex> lock(mutex);
    common_json all = common_json::array();
    for (const auto & [id, info] : slots) {
        all.push_back(info.to_json());
    }
    return {
        { "budget",         config.params.budget },
        { "buffer",         config.params.buffer },
        { "recall",         config.params.archive_bytes > 0 ? config.params.recall : 0.0f },
        { "gates",          config.gates },
        { "trained_context", config.n_ctx_train },
        { "cell_lists",     stats.n_cell_lists },
        { "bytes_per_cell", stats.bytes_cell },
        { "slots",          all },
        { "total", {
            { "cells",         stats.n_cells },
            { "cells_peak",    stats.n_cells_peak },
            { "cells_max",     stats.n_cells_max },
            { "cells_evicted", stats.n_evicted },
            { "evictions",     stats.n_evictions },
            { "bytes_used",    stats.bytes_used },
            { "bytes_pool",    stats.bytes_pool },
            { "bytes_full",    stats.bytes_full },
            { "cells_archived", stats.n_archived },
            { "cells_dropped",  stats.n_dropped },
            { "bytes_archived", stats.bytes_archived },
            { "bytes_archive",  stats.bytes_archive },
        } },
    };
}

std::string retain_server_state::to_metrics() {
    std::string res;
    const auto add = [&](const char * name, const char * kind, const char * help) {
        res += std::string("# HELP llamacpp:retention_") + name + " " + help + "\n# TYPE llamacpp:retention_" + name + " " + kind + "\n";
    };
    const auto value = [&](const char * name, const std::string & labels, int64_t number) {
        res += std::string("llamacpp:retention_") + name + labels + " " + std::to_string(number) + "\n";
    };

    std::lock_guard<std::mutex> lock(mutex);
    const auto total = [&](const char * name, const char * kind, const char * help, int64_t number) {
        add(name, kind, help);
        value(name, "", number);
    };
    total("evictions_total",     "counter", "Evictions since the model was loaded",                    stats.n_evictions);
    total("cells_evicted_total", "counter", "Cells evicted since the model was loaded",                stats.n_evicted);
    total("cells_max",           "gauge",   "Cells that all slots together never exceed",              stats.n_cells_max);
    total("cells_peak",          "gauge",   "Most cells that all slots together ever held",            stats.n_cells_peak);
    total("pool_bytes",          "gauge",   "Bytes allocated for K and V",                             stats.bytes_pool);
    total("archived_cells",      "gauge",   "Evicted cells in the archive",                            stats.n_archived);
    total("archived_bytes",      "gauge",   "Bytes of the archive in use",                             stats.bytes_archived);
    total("archive_bytes",       "gauge",   "Bytes that the archive may take",                         stats.bytes_archive);
    total("cells_dropped_total", "counter", "Cells that the full archive let go since the model was loaded", stats.n_dropped);

    const auto per_slot = [&](const char * name, const char * help, int64_t (*of)(const retain_slot_info &)) {
        add(name, "gauge", help);
        for (const auto & [id, info] : slots) {
            value(name, "{slot=\"" + std::to_string(id) + "\"}", of(info));
        }
    };
    per_slot("budget",           "Cells to keep per layer and KV head",  [](const retain_slot_info & i) -> int64_t { return i.budget; });
    per_slot("tokens_seen",      "Tokens that the slot has seen",        [](const retain_slot_info & i) { return i.n_seen; });
    per_slot("cells",            "Cells held",                           [](const retain_slot_info & i) { return i.n_cells; });
    per_slot("bytes",            "Bytes of the cells held",              [](const retain_slot_info & i) { return i.n_cells*i.bytes_cell; });
    per_slot("full_bytes",       "Bytes that a full cache would take",   [](const retain_slot_info & i) { return i.n_seen*i.n_cell_lists*i.bytes_cell; });
    per_slot("checkpoints",      "States kept to go back to",            [](const retain_slot_info & i) { return i.n_checkpoints; });
    per_slot("checkpoint_bytes", "Bytes of these states",                [](const retain_slot_info & i) { return i.bytes_checkpoints; });
    return res;
}
