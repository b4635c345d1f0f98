#include "retain-gates.h"
#include "retain-error.h"
#include "retain-gguf.h"

#include "ggml-retention.h"
#include "llama-model.h"

#include <cstring>
#include <map>

static retain_activation activation_from_name(const std::string & name) {
    if (name == "silu") { return retain_activation::silu; }
    if (name == "gelu") { return retain_activation::gelu; }
    if (name == "relu") { return retain_activation::relu; }
    throw retain_error(retain_format("gates: unknown activation '%s' (silu, gelu or relu)", name.c_str()));
}

// the file's metadata, checked against the model
struct gate_header {
    bool     rg10;
    bool     tied;
    uint32_t n_ff;
    retain_activation activation;

    gate_header(const retain_gguf & file, const llama_model & model) {
        const auto & hparams = model.hparams;

        const auto same_string = [&](const char * key, const std::string & want) {
            const std::string have = file.get_string(key);
            if (have != want) {
                throw retain_error(retain_format("%s: %s is '%s', must be '%s'", file.get_path().c_str(), key, have.c_str(), want.c_str()));
            }
        };
        const auto same_number = [&](const char * key, const char * what, uint32_t want) {
            const uint32_t have = file.get_u32(key);
            if (have != want) {
                throw retain_error(retain_format("%s: the gates are for a model with %s %u, this one has %u",
                            file.get_path().c_str(), what, have, want));
            }
        };

        same_string("general.type", "adapter");
        same_string("adapter.type", "retention_gate");

        const uint32_t version = file.get_u32("retention_gate.version");
        if (version != 1) {
            throw retain_error(retain_format("%s: retention_gate.version is %u, this program reads version 1; update it",
                        file.get_path().c_str(), version));
        }

        const std::string arch = file.get_string("general.architecture");
        if (arch != model.arch_name()) {
            throw retain_error(retain_format("%s: the gates are for a %s model, this one is %s",
                        file.get_path().c_str(), arch.c_str(), model.arch_name().c_str()));
        }

        same_number("retention_gate.block_count",      "block_count",      hparams.n_layer());
        same_number("retention_gate.embedding_length", "embedding_length", hparams.n_embd);
        same_number("retention_gate.head_count_kv",    "head_count_kv",    hparams.n_head_kv());

        if (file.has("retention_gate.base_fingerprint")) {
            const std::string have = file.get_string("retention_gate.base_fingerprint");
            const std::string want = retain_model_fingerprint(model);
            if (have != want) {
                throw retain_error(retain_format("%s: the gates were made for another model: its fingerprint is %s, this one's %s",
                            file.get_path().c_str(), have.c_str(), want.c_str()));
            }
        }

        // what is optional decides nothing, but has its type where it is given
        for (const char * key : { "general.name", "general.license", "retention_gate.base_name", "retention_gate.source" }) {
            if (file.has(key)) {
                file.get_string(key);
            }
        }
        for (const char * key : { "retention_gate.trained_budget", "retention_gate.trained_context_length" }) {
            if (file.has(key)) {
                file.get_u32(key);
            }
        }

        const std::string variant = file.get_string("retention_gate.variant");
        if (variant != "rg10" && variant != "rg") {
            throw retain_error(retain_format("%s: unknown variant '%s' (rg10 or rg)", file.get_path().c_str(), variant.c_str()));
        }
        rg10 = variant == "rg10";
        tied = file.get_bool("retention_gate.tied");
        if (tied && !rg10) {
            throw retain_error(retain_format("%s: variant rg cannot be tied", file.get_path().c_str()));
        }

        n_ff = file.get_u32("retention_gate.feed_forward_length");
        if (n_ff == 0 || n_ff > (1u << 16)) {
            throw retain_error(retain_format("%s: feed_forward_length %u is out of range", file.get_path().c_str(), n_ff));
        }
        activation = activation_from_name(file.get_string("retention_gate.activation"));
    }
};

// one tensor that must be in the file
struct gate_slot {
    std::string    name;
    int64_t        ne[2];
    bool           bias;
    int32_t        il;
    ggml_tensor ** dst;
};

static std::vector<gate_slot> list_slots(const gate_header & head, const llama_model & model, std::vector<retain_gate_layer> & layers) {
    const int64_t n_embd = model.hparams.n_embd;
    const int64_t n_ff   = head.n_ff;

    std::vector<gate_slot> res;

    const auto add = [&](const std::string & prefix, int32_t il, int64_t ne0, int64_t ne1, ggml_tensor ** w, ggml_tensor ** b) {
        res.push_back({ prefix + ".weight", { ne0, ne1 }, false, il, w });
        res.push_back({ prefix + ".bias",   { ne1, 1   }, true,  il, b });
    };

    for (int32_t il = 0; il < (int32_t) layers.size(); ++il) {
        const std::string blk    = "blk." + std::to_string(il) + ".";
        const int64_t     n_head = model.hparams.n_head_kv(il);
        auto & layer = layers[il];

        add(blk + "retention_in", il, n_embd, n_ff, &layer.in_w, &layer.in_b);
        if (head.rg10) {
            add(blk + "retention_mid", il, n_ff, n_ff, &layer.mid_w, &layer.mid_b);
        }
        // a tied projection is small: each layer gets its copy, beside its other weights
        add(head.tied ? "retention_score" : blk + "retention_score", il, n_ff, n_head, &layer.score_w, &layer.score_b);
    }

    return res;
}

static void check_slot(const retain_gguf & file, const gate_slot & slot) {
    const ggml_tensor * t = file.find(slot.name);
    if (!t) {
        throw retain_error(retain_format("%s: tensor %s is missing", file.get_path().c_str(), slot.name.c_str()));
    }
    if (t->ne[0] != slot.ne[0] || t->ne[1] != slot.ne[1] || t->ne[2] != 1 || t->ne[3] != 1) {
        throw retain_error(retain_format("%s: tensor %s has shape [%lld, %lld], must be [%lld, %lld]", file.get_path().c_str(), slot.name.c_str(),
                    (long long) t->ne[0], (long long) t->ne[1], (long long) slot.ne[0], (long long) slot.ne[1]));
    }

    const bool ok = t->type == GGML_TYPE_F32 || (!slot.bias && (t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_Q8_0));
    if (!ok) {
        throw retain_error(retain_format("%s: tensor %s has type %s, must be %s", file.get_path().c_str(), slot.name.c_str(),
                    ggml_type_name(t->type), slot.bias ? "f32" : "f32, f16 or q8_0"));
    }
}

retain_gates::retain_gates(const llama_model & model, const std::string & path, bool load) {
    const retain_gguf file(path);
    const gate_header head(file, model);

    activation = head.activation;
    layers.resize(model.hparams.n_layer());

    const auto slots = list_slots(head, model, layers);
    for (const auto & slot : slots) {
        check_slot(file, slot);
    }
    const size_t n_known = head.tied ? slots.size() - 2*(layers.size() - 1) : slots.size();
    if (file.n_tensors() != n_known) {
        throw retain_error(retain_format("%s: holds %zu tensors, %zu are known; is it made for another version?",
                    path.c_str(), file.n_tensors(), n_known));
    }
    file.check_finite();
    if (!load) {
        return;
    }

    std::map<ggml_backend_buffer_type_t, ggml_context *> by_buft;
    for (const auto & slot : slots) {
        ggml_backend_buffer_type_t buft = model.select_buft(slot.il);

        ggml_context *& ctx = by_buft[buft];
        if (!ctx) {
            ggml_init_params params = { slots.size()*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
            ctx = ggml_init(params);
            ctxs.emplace_back(ctx);
        }

        const ggml_tensor * t = file.find(slot.name);
        *slot.dst = ggml_new_tensor_2d(ctx, t->type, slot.ne[0], slot.ne[1]);
        ggml_set_name(*slot.dst, slot.name.c_str());
    }
    for (const auto & [buft, ctx] : by_buft) {
        bufs.emplace_back(ggml_backend_alloc_ctx_tensors_from_buft(ctx, buft));
        if (!bufs.back()) {
            throw retain_error(retain_format("%s: no memory for the gates", path.c_str()));
        }
        ggml_backend_buffer_set_usage(bufs.back().get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    }
    for (const auto & slot : slots) {
        ggml_backend_tensor_set(*slot.dst, file.find(slot.name)->data, 0, ggml_nbytes(*slot.dst));
    }
}

ggml_tensor * retain_gates::build(ggml_context * ctx, int32_t il, ggml_tensor * h, ggml_tensor * dst) const {
    const auto & l = layers[il];

    const auto dense = [&](ggml_tensor * w, ggml_tensor * b, ggml_tensor * x) {
        x = ggml_add(ctx, ggml_mul_mat(ctx, w, x), b);
        switch (activation) {
            case retain_activation::silu: return ggml_silu(ctx, x);
            case retain_activation::gelu: return ggml_gelu(ctx, x);
            case retain_activation::relu: return ggml_relu(ctx, x);
        }
        GGML_ABORT("unknown activation");
    };

    ggml_tensor * x = dense(l.in_w, l.in_b, h);
    if (l.mid_w) {
        x = dense(l.mid_w, l.mid_b, x);
    }

    return ggml_retention_gate(ctx, dst, x, l.score_w, l.score_b, GGML_RETENTION_GATE_LOG_BETA);
}

std::string retain_model_fingerprint(const llama_model & model) {
    uint64_t h = 0xcbf29ce484222325ull;

    const auto add = [&](const void * data, size_t n) {
        for (size_t i = 0; i < n; ++i) {
            h = (h ^ ((const uint8_t *) data)[i])*0x100000001b3ull;
        }
    };
    const auto add_text = [&](const char * text) {
        add(text, strlen(text) + 1);
    };
    const auto add_u32 = [&](uint32_t x) {
        const uint8_t le[4] = { (uint8_t) x, (uint8_t) (x >> 8), (uint8_t) (x >> 16), (uint8_t) (x >> 24) };
        add(le, sizeof(le));
    };

    const auto & hparams = model.hparams;

    add_text(model.arch_name().c_str());
    add_u32(hparams.n_layer_all);
    add_u32(hparams.n_embd);
    add_u32(hparams.n_head());
    add_u32(hparams.n_head_kv());
    add_u32(model.vocab.n_tokens());
    if (model.vocab.get_type() == LLAMA_VOCAB_TYPE_NONE) {
        return retain_format("%016llx", (unsigned long long) h);
    }
    for (uint32_t i = 0; i < model.vocab.n_tokens(); ++i) {
        add_text(model.vocab.token_get_text(i));
    }

    return retain_format("%016llx", (unsigned long long) h);
}
