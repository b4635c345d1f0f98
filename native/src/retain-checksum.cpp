#include "retain-checksum.h"

#include "llama-io.h"

#include <algorithm>
#include <cstring>

static constexpr size_t FIRST_STEP = 1u << 16; // bytes that are read at first: chosen to be little beside any state, not measured

uint64_t retain_checksum(const std::vector<uint8_t> & data) {
    uint64_t h = 0x9e3779b97f4a7c15ull ^ data.size();

    size_t i = 0;
    for (; i + 8 <= data.size(); i += 8) {
        uint64_t x;
        memcpy(&x, data.data() + i, 8);
        h = (h ^ x)*0xff51afd7ed558ccdull;
        h ^= h >> 32;
    }
    for (; i < data.size(); ++i) {
        h = (h ^ data[i])*0xff51afd7ed558ccdull;
        h ^= h >> 32;
    }
    return h;
}

std::vector<uint8_t> retain_read_bytes(llama_io_read_i & io, uint64_t n_bytes) {
    std::vector<uint8_t> res;
    while (res.size() < n_bytes) {
        const size_t at = res.size();
        const size_t n  = std::min<uint64_t>(n_bytes - at, std::max(at, FIRST_STEP));
        res.resize(at + n);
        io.read(res.data() + at, n);
    }
    return res;
}
