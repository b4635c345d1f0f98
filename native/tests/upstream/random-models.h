// random-models.h - upstream's own way of making a random model of each architecture, from its test test-llama-archs.cpp

#pragma once

#include "common.h"
#include "log.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml.h"
#include "gguf.h"
#include "llama-cpp.h"
#include "llama.h"

#include "llama-arch.h"
#include "llama-model-saver.h"

#include <cinttypes>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// all that the file includes is included above, so that nothing but its own functions comes into the namespace
namespace upstream {

#define main test_llama_archs_main
#include "tests/test-llama-archs.cpp"
#undef main

} // namespace upstream
