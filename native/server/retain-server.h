// retain-server.h - what the patch makes llama.cpp's server call
//
// The build puts this header before server.cpp and server-context.cpp, so that the patch needs no include lines. Upstream's
// type of a slot is only known behind it; hence the templates, which hand plain values on.
//
//     retain-server-routes.cpp   in the threads of HTTP: requests with a `retention` object, replies with one, own routes
//     retain-server-slots.cpp    in the thread that decodes: settings of a request on its slot, what is kept
//     retain-server-state.h      what these two threads share

#pragma once

#include "retain.h"

#include "chat.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

struct common_params;
struct server_context;
struct server_http_context;
struct server_routes;

// Requests get a ticket, by which the thread that decodes finds their settings. It travels as n_discard, which is for context
// shifts, and there are none over a cache of fixed size. What the Anthropic API converts keeps stop sequences alone: there it
// is one that no model writes.
constexpr const char * RETAIN_TICKET_STOP = "\x01retain-ticket ";

// one of the server's slots, between two decodes
struct retain_slot_view {
    int     id       = 0;
    int     task     = -1; // of the request that it works on; -1: none
    int     ticket   = 0;  // of that request; 0: none
    int64_t n_tokens = 0;  // that its cache stands for

    int64_t n_checkpoints      = 0;
    int64_t bytes_checkpoints  = 0;

    int32_t n_system = 0; // tokens before the first message of the user or assistant: system message, tools

    std::function<uint64_t()> content; // a hash of the tokens that the cache stands for
};

// before routes are registered: completions with retention around them, and routes of our own
void retain_server_routes(const common_params & params, server_context & context, server_routes & routes, const server_http_context & http);

// Of each slot, in the thread that decodes: before prompts are looked at, before the decode, and when it is done with a
// request. The first two throw what is wrong with a request, in one line.
void retain_slot_begin  (llama_context * ctx, const retain_slot_view & slot, const std::function<void()> & clear);
void retain_slot_prepare(llama_context * ctx, const retain_slot_view & slot);
void retain_slot_end    (llama_context * ctx, const retain_slot_view & slot);

template <typename SLOT>
retain_slot_view retain_view(const SLOT & slot) {
    retain_slot_view res;
    res.id       = slot.id;
    res.n_tokens = slot.prompt.n_tokens();
    res.content  = [&slot]() {
        uint64_t hash = 14695981039346656037ull; // FNV-1a
        for (size_t i = 0; i < slot.prompt.tokens.size(); ++i) {
            hash = (hash ^ (uint32_t) slot.prompt.tokens[i])*1099511628211ull;
        }
        return hash;
    };
    for (const auto & checkpoint : slot.prompt.checkpoints) {
        res.n_checkpoints++;
        res.bytes_checkpoints += checkpoint.size();
    }
    if (!slot.task) {
        return res;
    }

    const auto & params = slot.task->params;
    res.task   = slot.task->id;
    res.ticket = params.n_discard;
    // ours is the last one; a client may send what looks like it
    for (auto word = params.antiprompt.rbegin(); res.ticket == 0 && word != params.antiprompt.rend(); ++word) {
        if (word->rfind(RETAIN_TICKET_STOP, 0) == 0) {
            res.ticket = (int) std::strtol(word->c_str() + std::strlen(RETAIN_TICKET_STOP), nullptr, 10);
        }
    }
    // most templates show where messages of the user and the assistant begin, few where those of the system do
    for (const auto & span : params.message_spans.spans) {
        if (span.role == COMMON_CHAT_ROLE_USER || span.role == COMMON_CHAT_ROLE_ASSISTANT) {
            res.n_system = (int32_t) span.pos;
            break;
        }
    }
    return res;
}

// a slot calls this before it forgets its request
template <typename SLOT>
struct retain_on_reset {
    llama_context                     * ctx;
    std::function<void(const SLOT &)>   then;

    void operator()(const SLOT & slot) const {
        retain_slot_end(ctx, retain_view(slot));
        then(slot);
    }
};

// Upstream takes one task that waits for a slot back whenever a slot gets free. To save or restore a slot frees none, so that
// afterwards idle slots ask for a task.
bool retain_slot_asks_for_task(int id);

template <typename SLOT>
void retain_server_begin(llama_context * ctx, SLOT & slot) {
    if (!slot.is_processing() && retain_slot_asks_for_task(slot.id)) {
        slot.callback_on_release(slot.id);
    }
    if (!slot.callback_on_reset.template target<retain_on_reset<SLOT>>()) {
        slot.callback_on_reset = retain_on_reset<SLOT> { ctx, std::move(slot.callback_on_reset) };
    }
    retain_slot_begin(ctx, retain_view(slot), [&slot]() { slot.prompt_clear(); });
}

// Whether a checkpoint is to be made while the rest of the prompt is read: one, at the start of the last message of the user,
// which is where the next prompt goes on when a template strips old reasoning or the message is edited.
template <typename SLOT>
bool retain_server_wants_checkpoint(const llama_context * ctx, const SLOT & slot) {
    return retain_is_enabled(ctx) && slot.task->params.message_spans.last_user_message_pos() >= slot.prompt.n_tokens();
}

// A draft of at most n tokens ends, with the token before it, where the next eviction is due. So none runs before it is known
// which tokens stay, and what is evicted is what it would be without drafts.
inline int retain_server_draft_limit(const llama_context * ctx, int slot, int n) {
    return retain_is_enabled(ctx) ? (int) std::min<int64_t>(n, std::max<int64_t>(0, retain_draft_limit(ctx, slot) - 1)) : n;
}

template <typename SLOT>
void retain_server_prepare(llama_context * ctx, const SLOT & slot) {
    retain_slot_prepare(ctx, retain_view(slot));
}
