// retention-cpu.h - the retention ops on the CPU backend, called from ggml-cpu.c

#pragma once

#include "ggml.h"
#include "ggml-cpu-impl.h"

#ifdef __cplusplus
extern "C" {
#endif

void   ggml_compute_forward_retention_gate(const struct ggml_compute_params * params, struct ggml_tensor * dst);
void   ggml_compute_forward_retention_attn(const struct ggml_compute_params * params, struct ggml_tensor * dst);

// bytes of params->wdata that the ops need
size_t ggml_retention_gate_work_size(const struct ggml_tensor * dst, int n_threads);
size_t ggml_retention_attn_work_size(const struct ggml_tensor * dst, int n_threads);

#ifdef __cplusplus
}
#endif
