// retain-gates.cpp - the tensors of a gate sidecar: which there must be, their checks, and loading them

#include "retain-gates.h"
#include "retain-error.h"

#include "llama-model.h"

#include <map>
#include <set>

std::vector<retain_gates::slot> retain_gates::list_slots(int64_t n_embd) {
    using variants = retain_gate_variant;

    std::vector<slot> res;

    const auto add = [&](const std::string & name, int32_t il, int64_t ne0, int64_t ne1, bool is_weight, ggml_tensor ** dst) {
        res.push_back({ name, { ne0, ne1 }, is_weight, il, dst });
    };
    const auto add_linear = [&](const std::string & prefix, int32_t il, int64_t n_in, int64_t n_out, ggml_tensor ** w, ggml_tensor ** b) {
        add(prefix + ".weight", il, n_in,  n_out, true,  w);
        add(prefix + ".bias",   il, n_out, 1,     false, b);
    };

    for (size_t i = 0; i < header.layers.size(); ++i) {
        const int32_t     il     = header.layers[i];
        const int64_t     n_head = header.n_head_kv[i];
        const std::string blk    = "blk." + std::to_string(il) + ".";
        auto & layer = layers[il];

        // a tied projection is small: each layer gets its copy, beside its other weights
        const std::string score = header.tied ? "retention_score" : blk + "retention_score";

        switch (header.variant) {
            case variants::rg10:
            case variants::rg:
                add_linear(blk + "retention_in", il, n_embd, header.n_ff, &layer.in_w, &layer.in_b);
                if (header.variant == variants::rg10) {
                    add_linear(blk + "retention_mid", il, header.n_ff, header.n_ff, &layer.mid_w, &layer.mid_b);
                }
                add_linear(score, il, header.n_ff, n_head, &layer.score_w, &layer.score_b);
                break;
            case variants::linear:
                add_linear(score, il, n_embd, n_head, &layer.score_w, &layer.score_b);
                break;
            case variants::fast_kvzip:
                add_linear(blk + "retention_q", il, n_embd, header.n_key*header.n_group*n_head, &layer.q_w, &layer.q_b);
                add(blk + "retention_k.weight",      il, n_embd,       header.n_key*n_head,  true,  &layer.k_w);
                add(blk + "retention_q_norm.weight", il, header.n_key, 1,                    false, &layer.q_norm);
                add(blk + "retention_k_norm.weight", il, header.n_key, 1,                    false, &layer.k_norm);
                add(blk + "retention_base.weight",   il, header.n_key, header.n_base*n_head, false, &layer.base);
                add(score + ".bias",                 il, header.n_group*n_head, 1,           false, &layer.score_b);
                break;
        }
    }

    return res;
}

void retain_gates::check_slot(const retain_gguf & file, const slot & slot) {
    const ggml_tensor * t = file.find(slot.name);
    if (!t) {
        throw retain_error(retain_format("%s: tensor %s is missing", file.get_path().c_str(), slot.name.c_str()));
    }
    if (t->ne[0] != slot.ne[0] || t->ne[1] != slot.ne[1] || t->ne[2] != 1 || t->ne[3] != 1) {
        throw retain_error(retain_format("%s: tensor %s has shape [%lld, %lld], must be [%lld, %lld]", file.get_path().c_str(), slot.name.c_str(),
                    (long long) t->ne[0], (long long) t->ne[1], (long long) slot.ne[0], (long long) slot.ne[1]));
    }

    const bool ok = t->type == GGML_TYPE_F32 || (slot.is_weight && (t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_Q8_0));
    if (!ok) {
        throw retain_error(retain_format("%s: tensor %s has type %s, must be %s", file.get_path().c_str(), slot.name.c_str(),
                    ggml_type_name(t->type), slot.is_weight ? "f32, f16 or q8_0" : "f32"));
    }
}

retain_gates::retain_gates(const llama_model & model, const retain_gguf & file, bool load) :
    header(file, model),
    layers(model.hparams.n_layer_all) {
    const auto slots = list_slots(model.hparams.n_embd);

    std::set<std::string> known;
    for (const auto & slot : slots) {
        check_slot(file, slot);
        known.insert(slot.name);
    }
    if (file.n_tensors() != known.size()) {
        throw retain_error(retain_format("%s: holds %zu tensors, %zu are known; is it made for another version?",
                    file.get_path().c_str(), file.n_tensors(), known.size()));
    }
    file.check_finite();

    if (load) {
        load_slots(model, file, slots);
    }
}

void retain_gates::load_slots(const llama_model & model, const retain_gguf & file, const std::vector<slot> & slots) {
    std::map<ggml_backend_buffer_type_t, ggml_context *> by_buft;
    for (const auto & slot : slots) {
        ggml_context *& ctx = by_buft[model.select_buft(slot.il)];
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
            throw retain_error(retain_format("%s: no memory for the gates", file.get_path().c_str()));
        }
        ggml_backend_buffer_set_usage(bufs.back().get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    }
    for (const auto & slot : slots) {
        ggml_backend_tensor_set(*slot.dst, file.find(slot.name)->data, 0, ggml_nbytes(*slot.dst));
    }
}
