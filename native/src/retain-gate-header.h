// retain-gate-header.h - what a gate sidecar says about its gates: its metadata, checked against the model
//
// docs/gate-sidecar.md has the keys and the rules; the Python reader (gates/sidecar/) keeps the same.

#pragma once

#include "retain-gguf.h"

#include <cstdint>
#include <string>
#include <vector>

struct llama_model;

enum class retain_gate_variant { rg10, rg, linear, fast_kvzip };

enum class retain_activation { silu, gelu, gelu_erf, relu };

struct retain_gate_header {
    retain_gate_variant variant;

    bool    tied      = false; // one final projection for all layers (rg10)
    bool    is_static = false; // the gate gives the score itself instead of log beta
    int32_t window    = 0;     // newest cells that the maker of the gates wants kept

    std::vector<int32_t> layers;    // of the model, ascending: those with a gate
    std::vector<int32_t> n_head_kv; // of each of them

    // of rg10 and rg
    int64_t           n_ff       = 0;
    retain_activation activation = retain_activation::silu;

    // of fast_kvzip
    int64_t n_key   = 0; // numbers of a query, a key or a base key
    int64_t n_base  = 0; // base keys of a KV head
    int64_t n_group = 0; // queries of a KV head

    // throws retain_error with one line that says what is wrong
    retain_gate_header(const retain_gguf & file, const llama_model & model);

private:
    void read_version_1(const retain_gguf & file, const llama_model & model);
    void read_version_2(const retain_gguf & file, const llama_model & model);
    void read_variant  (const retain_gguf & file, bool is_version_1);
    void check_layers  (const retain_gguf & file, const llama_model & model) const;
};
