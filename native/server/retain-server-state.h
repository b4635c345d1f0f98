// retain-server-state.h - what the threads of HTTP and the thread that decodes share

#pragma once

#include "retain.h"

#include "json.h"

#include <condition_variable>
#include <cstdint>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

// how the server was started
struct retain_server_options {
    bool        is_enabled   = false; // with a cache of fixed size
    bool        pin_system   = false; // of every request
    int32_t     n_ctx_train  = 0;     // tokens that the model was trained for
    std::string policy;
    std::string gates;
    std::string archive_file;
    retain_params params = retain_default_params(); // policy, gates and archive_file point into the strings above
};

// set once, before any thread starts
retain_server_options & retain_server_config();

// the object `retention` of a request
struct retain_request {
    std::optional<int32_t>     budget;
    std::optional<std::string> policy;
    bool                       pin_system = false;

    std::vector<std::pair<int32_t, int32_t>> pins; // [first, end) in tokens
};

// a slot as it was last seen
struct retain_slot_info {
    int      id            = 0;
    bool     is_processing = false;
    int32_t  budget        = 0;
    int64_t  n_seen        = 0; // tokens
    int64_t  n_cells       = 0;
    int64_t  n_cell_lists  = 0;
    int64_t  bytes_cell    = 0;
    int32_t  reusable_from = 0; // tokens: a prompt that goes on from there or later is not read again
    int64_t  n_checkpoints = 0;
    int64_t  bytes_checkpoints = 0;
    std::string policy;

    std::vector<std::pair<int32_t, int32_t>> pins;

    common_json to_json() const;
    common_json usage() const; // what a reply tells
};

// the picture of what a slot keeps: per layer, the share of the cells kept in each part of the text
struct retain_cells_request {
    int slot   = 0;
    int n_bins = 0;
    std::promise<common_json> done;
};

class retain_server_state {
public:
    // HTTP

    int            add(retain_request request); // returns its ticket
    void           remove(int ticket);
    common_json    to_json();
    std::string    to_metrics();

    // What the slots say of a request: as they left it, or as it is now while it runs. Waits a little for the former when the
    // request is done. None: no slot has begun with it.
    std::optional<retain_slot_info> find(int ticket, bool is_done);

    std::future<common_json> ask_cells(int slot, int n_bins);

    void free_slots(int n_slots); // a task is done that kept a slot from other tasks

    // the thread that decodes

    std::optional<retain_request> request_of(int ticket);

    void publish(int ticket, const retain_slot_info & info, const retain_stats & stats);
    void finish (int ticket, const retain_slot_info & info);

    std::vector<retain_cells_request> take_cells_requests(int slot);

    bool take_freed(int slot);

private:
    struct entry {
        retain_request                  request;
        std::optional<retain_slot_info> info;
        bool                            is_done = false;
    };

    std::mutex              mutex;
    std::condition_variable done;

    int                               last_ticket = 0;
    std::map<int, entry>              entries;
    std::map<int, retain_slot_info>   slots;
    retain_stats                      stats = {};
    std::vector<retain_cells_request> cells_requests;
    std::set<int>                     freed;
};

retain_server_state & retain_server();
