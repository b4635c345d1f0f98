// retention-cuda.cuh - what the patch makes ggml-cuda.cu call

#pragma once

#include "common.cuh"

// run GGML_OP_RETENTION_GATE or GGML_OP_RETENTION_ATTN
void ggml_cuda_retention(ggml_backend_cuda_context & ctx, ggml_tensor * dst);

// whether a device of this backend runs the op: with kernels for it, on cells in memory of the backend
bool ggml_cuda_retention_supported(int device, const ggml_tensor * op);

// what the backend offers besides ops, or null
void * ggml_cuda_retention_proc_address(const char * name);
