#include "retain-gguf.h"
#include "retain-error.h"

#include <cmath>
#include <cstring>
#include <fstream>

[[noreturn]] static void refuse_damaged(const std::string & path) {
    throw retain_error(retain_format("%s: a damaged or truncated GGUF file", path.c_str()));
}

retain_gguf::retain_gguf(const std::string & path) : path(path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw retain_error(retain_format("%s: cannot open the gate file", path.c_str()));
    }
    char magic[4] = {};
    file.read(magic, sizeof(magic));
    if (std::string(magic, 4) != "GGUF") {
        throw retain_error(retain_format("%s: not a GGUF file", path.c_str()));
    }

    file.seekg(0, std::ios::end);
    check_sizes(file.tellg());

    ggml_context * ctx = nullptr;
    gguf_init_params params = { /*.no_alloc =*/ false, /*.ctx =*/ &ctx };
    gguf.reset(gguf_init_from_file(path.c_str(), params));
    data.reset(ctx);
    if (!gguf) {
        refuse_damaged(path);
    }
}

// ggml aborts when it cannot get the memory that a file asks for, so no tensor may be larger than the file
void retain_gguf::check_sizes(size_t n_file) const {
    const gguf_context_ptr header(gguf_init_from_file(path.c_str(), { /*.no_alloc =*/ true, /*.ctx =*/ nullptr }));
    if (!header || gguf_get_data_offset(header.get()) > n_file) {
        refuse_damaged(path);
    }
    const size_t n_data = n_file - gguf_get_data_offset(header.get());
    for (int64_t i = 0; i < gguf_get_n_tensors(header.get()); ++i) {
        const size_t offset = gguf_get_tensor_offset(header.get(), i);
        if (offset > n_data || gguf_get_tensor_size(header.get(), i) > n_data - offset) {
            refuse_damaged(path);
        }
    }
}

int64_t retain_gguf::require(const char * key, gguf_type type, const char * type_name) const {
    const int64_t id = gguf_find_key(gguf.get(), key);
    if (id < 0) {
        throw retain_error(retain_format("%s: key %s is missing; is it a gate sidecar?", path.c_str(), key));
    }
    if (gguf_get_kv_type(gguf.get(), id) != type) {
        throw retain_error(retain_format("%s: key %s must be %s", path.c_str(), key, type_name));
    }
    return id;
}

bool retain_gguf::has(const char * key) const {
    return gguf_find_key(gguf.get(), key) >= 0;
}

std::string retain_gguf::get_string(const char * key) const {
    return gguf_get_val_str(gguf.get(), require(key, GGUF_TYPE_STRING, "a string"));
}

uint32_t retain_gguf::get_u32(const char * key) const {
    return gguf_get_val_u32(gguf.get(), require(key, GGUF_TYPE_UINT32, "a uint32"));
}

bool retain_gguf::get_bool(const char * key) const {
    return gguf_get_val_bool(gguf.get(), require(key, GGUF_TYPE_BOOL, "a bool"));
}

std::vector<uint32_t> retain_gguf::get_u32s(const char * key) const {
    const int64_t id = require(key, GGUF_TYPE_ARRAY, "an array of uint32");
    if (gguf_get_arr_type(gguf.get(), id) != GGUF_TYPE_UINT32) {
        throw retain_error(retain_format("%s: key %s must be an array of uint32", path.c_str(), key));
    }
    const auto * data = (const uint32_t *) gguf_get_arr_data(gguf.get(), id);
    return std::vector<uint32_t>(data, data + gguf_get_arr_n(gguf.get(), id));
}

size_t retain_gguf::n_tensors() const {
    return gguf_get_n_tensors(gguf.get());
}

const ggml_tensor * retain_gguf::find(const std::string & name) const {
    return ggml_get_tensor(data.get(), name.c_str());
}

void retain_gguf::check_finite() const {
    std::vector<float> row;

    for (ggml_tensor * t = ggml_get_first_tensor(data.get()); t; t = ggml_get_next_tensor(data.get(), t)) {
        if (gguf_find_tensor(gguf.get(), t->name) < 0) {
            continue; // the context's own blob of data
        }
        row.resize(t->ne[0]);
        for (int64_t i = 0; i < ggml_nrows(t); ++i) {
            const char * src = (const char *) t->data + i*t->nb[1];
            if (t->type == GGML_TYPE_F32) {
                memcpy(row.data(), src, row.size()*sizeof(float));
            } else {
                ggml_get_type_traits(t->type)->to_float(src, row.data(), row.size());
            }
            for (const float x : row) {
                if (!std::isfinite(x)) {
                    throw retain_error(retain_format("%s: tensor %s holds a NaN or an infinity", path.c_str(), t->name));
                }
            }
        }
    }
}
