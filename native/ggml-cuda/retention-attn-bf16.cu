// retention-attn-bf16.cu - the kernels of retention attention for bf16 cells

#include "retention-attn-launch.cuh"

template void retention::attn_run_type<GGML_TYPE_BF16>(int64_t, const attn_args &, bool, void *, cudaStream_t);
