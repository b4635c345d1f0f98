// retain-checksum.h - reading a state's bytes, and telling damaged ones

#pragma once

#include <cstdint>
#include <vector>

class llama_io_read_i;

// a 64-bit hash that reads 8 bytes at a time: states are large, and only damage must be seen
uint64_t retain_checksum(const std::vector<uint8_t> & data);

// Read in steps that double: a damaged length then ends at the end of the input, after no more than twice its size was
// allocated.
std::vector<uint8_t> retain_read_bytes(llama_io_read_i & io, uint64_t n_bytes);
