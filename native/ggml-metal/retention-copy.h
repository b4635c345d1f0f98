// retention-copy.h - the pool's own copies on Metal

#pragma once

#include "ggml-retention.h"

// as ggml_retention_copy_cells_t; the memory of Apple's GPUs is the host's too, so these are plain copies there
void ggml_metal_retention_copy_cells(ggml_tensor * k, ggml_tensor * v, const ggml_retention_copy * copies, int64_t n);
