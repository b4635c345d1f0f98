// retention-cuda.cuh - what the patch makes ggml-cuda.cu call

#pragma once

#include "common.cuh"

// run GGML_OP_RETENTION_GATE or GGML_OP_RETENTION_ATTN
void ggml_cuda_retention(ggml_backend_cuda_context & ctx, ggml_tensor * dst);

// whether this backend runs the op: with kernels for it, on cells in its own memory
bool ggml_cuda_retention_supported(const ggml_tensor * op);

// what the backend offers besides ops, or null
void * ggml_cuda_retention_proc_address(const char * name);
