#include "retain-fingerprint.h"
#include "retain-error.h"

#include "llama-model.h"

#include <cstring>

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
