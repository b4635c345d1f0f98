// retention-attn-q8_0.cu - the kernels of retention attention for q8_0 cells

#include "retention-attn-launch.cuh"

template void retention::attn_run_type<GGML_TYPE_Q8_0>(int64_t, const attn_args &, bool, void *, cudaStream_t);
