// retention-attn-f32.cu - the kernels of retention attention for f32 cells

#include "retention-attn-launch.cuh"

template void retention::attn_run_type<GGML_TYPE_F32>(int64_t, const attn_args &, bool, void *, cudaStream_t);
