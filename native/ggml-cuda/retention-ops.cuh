// retention-ops.cuh - the retention ops for whoever runs them: the CUDA backend, or an emulation of it on the CPU

#pragma once

#include "ggml.h"
#include "ggml-retention.h"

#include "retention-device.cuh"

#include <type_traits>

namespace retention {

// whether there are kernels for these types and sizes
//   has_bf16_units  the device multiplies matrices of bf16 itself
bool gate_supported(const ggml_tensor * dst, bool has_bf16_units);
bool attn_supported(const ggml_tensor * dst);

// memory that the kernels need while they run
size_t gate_scratch_bytes(const ggml_tensor * dst);
size_t attn_scratch_bytes(const ggml_tensor * dst, int n_sm);

// Start the kernels of an op on tensors in device memory.
//   counts  N_COUNTS zeros, which are zeros again when the kernels are done
//   n_sm    multiprocessors of the device
constexpr int N_COUNTS = 1 << 16;

void gate_run(ggml_tensor * dst, void * scratch, cudaStream_t stream);
void attn_run(ggml_tensor * dst, void * scratch, int32_t * counts, int n_sm, cudaStream_t stream);

// copy rows; copies lies in device memory
void copy_cells_run(ggml_tensor * k, ggml_tensor * v, const ggml_retention_copy * copies, int64_t n, cudaStream_t stream);

} // namespace retention
