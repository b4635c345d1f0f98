// retain-abort.cpp - assertions of llama.cpp that fail while a model is loaded, as errors of the call
//
// llama.cpp checks much of a model with GGML_ASSERT, which ends the process. Both calls that load one catch exceptions,
// so an exception thrown by ggml's abort callback ends the call instead.

#include "retain.h"
#include "retain-error.h"

#include "ggml.h"

#include <cstdio>
#include <string>

static thread_local bool guards = false;

static ggml_abort_callback_t callback_before;

// "file:line: assertion"; the folder is one of the machine that built this library
static std::string without_folder(const std::string & message) {
    const size_t slash = message.rfind('/', message.find(": "));
    return slash == std::string::npos ? message : message.substr(slash + 1);
}

static void on_abort(const char * message) {
    if (guards) {
        throw retain_error("llama.cpp cannot take this model (" + without_folder(message) + ")");
    }
    if (callback_before) {
        callback_before(message);
    } else {
        fprintf(stderr, "%s\n", message);
    }
}

void retain_guard_aborts(bool guard) {
    static const bool installed = [] {
        callback_before = ggml_set_abort_callback(on_abort);
        return true;
    }();
    guards = guard && installed;
}
