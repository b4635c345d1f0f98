// main.cpp - llama.cpp's server over a cache of fixed size
//
// `retain-local serve` starts it. Its own options come first, as --retain-NAME VALUE, and are taken out; every other one is
// upstream's. Without --retain-budget it is upstream's server. Contexts are made and decoded in this thread, also after the
// server slept, so that the parameters set here hold for all of them.

#include "retain-server-state.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifndef _WIN32
#include <csignal>
#include <unistd.h>
#endif

int  llama_server(int argc, char ** argv);
void llama_server_terminate();

static constexpr const char * PREFIX = "--retain-";

static int fail(const std::string & message) {
    fprintf(stderr, "retain-server: %s\n", message.c_str());
    return 1;
}

// Upstream ends its loop from within a signal handler, which locks what the interrupted thread may hold: then nothing ends. So
// signals wait for a thread of their own. Upstream also waits for replies that nobody computes any more, and while the model is
// loaded there is no loop yet that could end: so time ends the process too. A second signal ends it at once, as upstream does.
static void stop_with_signals() {
#ifndef _WIN32
    static sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr); // for this thread and those that it starts
    std::thread([]() {
        int number = 0;
        sigwait(&signals, &number);
        llama_server_terminate();
        std::thread([]() {
            std::this_thread::sleep_for(std::chrono::seconds(3));
            _exit(0);
        }).detach();
        sigwait(&signals, &number);
        _exit(1);
    }).detach();
#endif
}

// The program that started this one holds the other end of stdin: when it is gone, however that came, so is the server.
static void stop_with_stdin() {
#ifndef _WIN32
    std::thread([]() {
        char buffer[256];
        while (read(STDIN_FILENO, buffer, sizeof(buffer)) > 0) {
        }
        kill(getpid(), SIGTERM);
    }).detach();
#endif
}

// Checkpoints of slots come and go, each of some other size, and as large as a slot's cells. In the heap they leave holes, and
// the process grows with a conversation; in mappings of their own they are gone when they are freed.
static void map_large_blocks() {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

int main(int argc, char ** argv) {
    map_large_blocks();
    stop_with_signals();

    auto & config = retain_server_config();
    auto & params = config.params;

    const std::map<std::string, int32_t *> numbers = {
        { "budget",          &params.budget       },
        { "buffer",          &params.buffer       },
        { "lookahead",       &params.lookahead    },
        { "sinks",           &params.n_sink       },
        { "recent",          &params.n_recent     },
        { "min-per-head",    &params.min_per_head },
        { "trained-context", &config.n_ctx_train  },
    };
    const std::map<std::string, retain_scope> scopes = {
        { "global", RETAIN_SCOPE_GLOBAL }, { "layer", RETAIN_SCOPE_LAYER }, { "head", RETAIN_SCOPE_HEAD },
    };

    const std::map<std::string, ggml_type> types = { { "q4_0", GGML_TYPE_Q4_0 }, { "q8_0", GGML_TYPE_Q8_0 } };

    std::vector<char *> rest = { argv[0] };
    for (int i = 1; i < argc; ++i) {
        if (strncmp(argv[i], PREFIX, strlen(PREFIX)) != 0) {
            rest.push_back(argv[i]);
            continue;
        }
        const std::string name = argv[i] + strlen(PREFIX);
        if (++i == argc) {
            return fail(PREFIX + name + " needs a value");
        }
        const std::string value = argv[i];
        try {
            if (numbers.count(name)) {
                *numbers.at(name) = std::stoi(value);
                config.is_enabled = config.is_enabled || name == "budget";
            } else if (name == "scope") {
                params.scope = scopes.at(value);
            } else if (name == "recall") {
                params.recall = std::stof(value);
            } else if (name == "archive") {
                params.archive_bytes = std::stoll(value);
            } else if (name == "archive-type") {
                params.archive_type = types.at(value);
            } else if (name == "archive-file") {
                config.archive_file = value;
            } else if (name == "seed") {
                params.seed = (uint32_t) std::stoul(value);
            } else if (name == "policy") {
                config.policy = value;
            } else if (name == "gates") {
                config.gates = value;
            } else if (name == "pin-system") {
                config.pin_system = value == "on";
            } else if (name == "stop-with-stdin") {
                stop_with_stdin();
            } else {
                return fail(PREFIX + name + " is no option");
            }
        } catch (const std::exception &) {
            return fail(PREFIX + name + " does not take " + value);
        }
    }

    if (config.is_enabled) {
        params.prefill = RETAIN_PREFILL_EVEN;
        params.policy = config.policy.empty() ? nullptr : config.policy.c_str();
        params.gates  = config.gates.empty()  ? nullptr : config.gates.c_str();
        params.archive_file = config.archive_file.empty() ? nullptr : config.archive_file.c_str();
        if (!retain_set_params(&params)) {
            return fail(retain_last_error());
        }
    }
    rest.push_back(nullptr);

    const int result = llama_server((int) rest.size() - 1, rest.data());
    if (result != 0 && *retain_last_error()) {
        fail(retain_last_error());
    }
    return result;
}
