// retain-fingerprint.h - what ties a gate sidecar to its base model

#pragma once

#include <string>

struct llama_model;

// FNV-1a over the architecture, the sizes and the vocabulary: 16 hex digits
std::string retain_model_fingerprint(const llama_model & model);
