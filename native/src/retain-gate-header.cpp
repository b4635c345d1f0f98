#include "retain-gate-header.h"
#include "retain-error.h"
#include "retain-fingerprint.h"

#include "llama-model.h"

#include <utility>

// no real gate comes near these: counts beyond them are damage, not gates
static constexpr uint32_t MAX_FF     = 1u << 16;
static constexpr uint32_t MAX_PART   = 1u << 10; // of the parts of fast_kvzip
static constexpr uint32_t MAX_WINDOW = 1u << 24;

#define KEY(name) "retention_gate." name

template <typename... ARGS>
[[noreturn]] static void refuse(const retain_gguf & file, const char * fmt, ARGS... args) {
    throw retain_error(file.get_path() + ": " + retain_format(fmt, args...));
}

template <typename T, size_t N>
static T choose(const retain_gguf & file, const char * key, const std::pair<const char *, T> (&choices)[N]) {
    const std::string name = file.get_string(key);
    std::string known;
    for (const auto & [choice, value] : choices) {
        if (name == choice) {
            return value;
        }
        known += std::string(known.empty() ? "" : ", ") + choice;
    }
    refuse(file, "%s is '%s', must be one of %s", key, name.c_str(), known.c_str());
}

static uint32_t get_size(const retain_gguf & file, const char * key, uint32_t largest) {
    const uint32_t n = file.get_u32(key);
    if (n == 0 || n > largest) {
        refuse(file, "%s is %u, out of range (1 to %u)", key, n, largest);
    }
    return n;
}

static void check_same(const retain_gguf & file, const char * key, const char * what, uint32_t want) {
    const uint32_t have = file.get_u32(key);
    if (have != want) {
        refuse(file, "the gates are for a model with %s %u, this one has %u", what, have, want);
    }
}

static void check_kind(const retain_gguf & file) {
    const std::pair<const char *, const char *> wanted[] = {
        { "general.type", "adapter" },
        { "adapter.type", "retention_gate" },
    };
    for (const auto & [key, want] : wanted) {
        const std::string have = file.get_string(key);
        if (have != want) {
            refuse(file, "%s is '%s', must be '%s'", key, have.c_str(), want);
        }
    }
}

static void check_base(const retain_gguf & file, const llama_model & model) {
    const std::string arch = file.get_string("general.architecture");
    if (arch != model.arch_name()) {
        refuse(file, "the gates are for a %s model, this one is %s", arch.c_str(), model.arch_name().c_str());
    }

    check_same(file, KEY("block_count"),      "block_count",      model.hparams.n_layer_all);
    check_same(file, KEY("embedding_length"), "embedding_length", model.hparams.n_embd);

    if (file.has(KEY("base_fingerprint"))) {
        const std::string have = file.get_string(KEY("base_fingerprint"));
        const std::string want = retain_model_fingerprint(model);
        if (have != want) {
            refuse(file, "the gates were made for another model: its fingerprint is %s, this one's %s", have.c_str(), want.c_str());
        }
    }
}

// what decides nothing has its type where it is given
static void check_optional(const retain_gguf & file) {
    for (const char * key : { "general.name", "general.license", KEY("base_name"), KEY("source"), KEY("trained_on"), KEY("date") }) {
        if (file.has(key)) {
            file.get_string(key);
        }
    }
    for (const char * key : { KEY("trained_budget"), KEY("trained_context_length") }) {
        if (file.has(key)) {
            file.get_u32(key);
        }
    }
}

retain_gate_header::retain_gate_header(const retain_gguf & file, const llama_model & model) {
    check_kind(file);

    const uint32_t version = file.get_u32(KEY("version"));
    if (version != 1 && version != 2) {
        refuse(file, KEY("version") " is %u, this program reads versions 1 and 2; update it", version);
    }
    check_base(file, model);
    check_optional(file);

    if (version == 1) {
        read_version_1(file, model);
    } else {
        read_version_2(file, model);
    }
    check_layers(file, model);
}

// gates of all layers, which have the same number of KV heads
void retain_gate_header::read_version_1(const retain_gguf & file, const llama_model & model) {
    const int32_t n_head = get_size(file, KEY("head_count_kv"), INT32_MAX);
    for (uint32_t il = 0; il < model.hparams.n_layer_all; ++il) {
        layers.push_back(il);
        n_head_kv.push_back(n_head);
    }
    read_variant(file, true);
}

void retain_gate_header::read_version_2(const retain_gguf & file, const llama_model & model) {
    const auto indices = file.get_u32s(KEY("layers"));
    const auto heads   = file.get_u32s(KEY("head_count_kv"));
    if (indices.empty() || indices.size() != heads.size()) {
        refuse(file, "names %zu layers and the KV heads of %zu", indices.size(), heads.size());
    }
    for (size_t i = 0; i < indices.size(); ++i) {
        if (indices[i] >= model.hparams.n_layer_all || (i > 0 && indices[i] <= indices[i - 1])) {
            refuse(file, KEY("layers") " has %u, which is no layer of the model or not in ascending order", indices[i]);
        }
        layers.push_back(indices[i]);
        n_head_kv.push_back(heads[i]);
    }

    read_variant(file, false);
    is_static = choose<bool>(file, KEY("score"), { { "decay", false }, { "static", true } });
    if (is_static && variant == retain_gate_variant::rg10) {
        refuse(file, "%s", "gates of variant rg10 give scores that decay");
    }
    if (!is_static && variant == retain_gate_variant::fast_kvzip) {
        refuse(file, "%s", "gates of variant fast_kvzip give static scores");
    }
    if (file.has(KEY("window"))) {
        const uint32_t n = file.get_u32(KEY("window"));
        if (n > MAX_WINDOW) {
            refuse(file, KEY("window") " is %u, out of range (0 to %u)", n, MAX_WINDOW);
        }
        window = n;
    }
}

void retain_gate_header::read_variant(const retain_gguf & file, bool is_version_1) {
    using variants = retain_gate_variant;

    if (is_version_1) {
        variant = choose<variants>(file, KEY("variant"), { { "rg10", variants::rg10 }, { "rg", variants::rg } });
    } else {
        variant = choose<variants>(file, KEY("variant"), { { "rg10", variants::rg10 }, { "rg", variants::rg },
                { "linear", variants::linear }, { "fast_kvzip", variants::fast_kvzip } });
    }

    if (variant == variants::rg10 || variant == variants::rg) {
        tied = file.get_bool(KEY("tied"));
        if (tied && variant != variants::rg10) {
            refuse(file, "%s", "only gates of variant rg10 can be tied");
        }
        n_ff = get_size(file, KEY("feed_forward_length"), MAX_FF);

        using activations = retain_activation;
        if (is_version_1) {
            activation = choose<activations>(file, KEY("activation"),
                    { { "silu", activations::silu }, { "gelu", activations::gelu }, { "relu", activations::relu } });
        } else {
            activation = choose<activations>(file, KEY("activation"), { { "silu", activations::silu },
                    { "gelu", activations::gelu }, { "gelu_erf", activations::gelu_erf }, { "relu", activations::relu } });
        }
    }
    if (variant == variants::fast_kvzip) {
        n_key   = get_size(file, KEY("key_length"),  MAX_PART);
        n_base  = get_size(file, KEY("base_count"),  MAX_PART);
        n_group = get_size(file, KEY("group_count"), MAX_PART);
    }
}

void retain_gate_header::check_layers(const retain_gguf & file, const llama_model & model) const {
    for (size_t i = 0; i < layers.size(); ++i) {
        const int32_t want = model.hparams.n_head_kv(layers[i]);
        if (n_head_kv[i] != want) {
            refuse(file, "the gates are for a model with head_count_kv %d in layer %d, this one has %d", n_head_kv[i], layers[i], want);
        }
        if (n_head_kv[i] < 1) {
            refuse(file, "layer %d of the model has no KV heads", layers[i]);
        }
        if (tied && n_head_kv[i] != n_head_kv[0]) {
            refuse(file, "%s", "tied gates need the same number of KV heads in every layer");
        }
    }
}
