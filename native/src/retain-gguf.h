// retain-gguf.h - a GGUF file of ours, read whole, with errors that name the file and the key

#pragma once

#include "ggml-cpp.h"
#include "gguf.h"

#include <cstdint>
#include <string>
#include <vector>

class retain_gguf {
public:
    explicit retain_gguf(const std::string & path); // throws retain_error

    bool        has       (const char * key) const;
    std::string get_string(const char * key) const;
    uint32_t    get_u32   (const char * key) const;
    bool        get_bool  (const char * key) const;

    std::vector<uint32_t> get_u32s(const char * key) const; // an array

    size_t              n_tensors() const;
    const ggml_tensor * find(const std::string & name) const; // null when there is none

    // throws when a float tensor (f32 or f16) holds a NaN or an infinity
    void check_finite() const;

    const std::string & get_path() const { return path; }

private:
    void    check_sizes(size_t n_file) const;
    int64_t require(const char * key, gguf_type type, const char * type_name) const;

    std::string      path;
    gguf_context_ptr gguf;
    ggml_context_ptr data;
};
