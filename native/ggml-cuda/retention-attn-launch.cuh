// retention-attn-launch.cuh - starting the kernels for one type of cells; each type is a source file of its own, retention-attn-*.cu,
// so that they compile side by side

#pragma once

#include "retention-attn-decode.cuh"
#include "retention-attn-prompt.cuh"

#include <type_traits>

namespace retention {

inline int64_t ceil_div(int64_t x, int64_t by) {
    return (x + by - 1)/by;
}

// shared memory that every GPU gives a block that asks for it
static constexpr int MAX_SHARED = 64*1024;

// call fn(head size) as a constant; false for others
template <typename F>
inline bool with_head_size(int64_t n, F fn) {
    switch (n) {
        case  64: fn(std::integral_constant<int,  64>()); return true;
        case  80: fn(std::integral_constant<int,  80>()); return true;
        case  96: fn(std::integral_constant<int,  96>()); return true;
        case 128: fn(std::integral_constant<int, 128>()); return true;
        case 256: fn(std::integral_constant<int, 256>()); return true;
        default:  return false;
    }
}

// the layout of the scratch memory of the decode kernels
struct scratch_layout {
    int64_t n_pieces;
    size_t  acc_bytes;
    size_t  bytes;

    scratch_layout(const attn_args & args, int64_t n_embd) {
        n_pieces  = args.n_blocks + (int64_t) args.n_tokens*args.n_head_kv*args.n_slices;
        acc_bytes = n_pieces*args.n_rows*n_embd*sizeof(float);
        bytes     = acc_bytes + n_pieces*args.n_rows*sizeof(float2);
    }
};

inline void set_rows(attn_args & args, int most) {
    args.n_slices = ceil_div(args.n_group, most);
    args.n_rows   = ceil_div(args.n_group, args.n_slices);
}

template <ggml_type T, int D>
static void run_decode(attn_args args, void * scratch, cudaStream_t stream) {
    const scratch_layout layout(args, D);
    args.part_acc = (float *) scratch;
    args.part_sum = (float2 *) ((char *) scratch + layout.acc_bytes);

    RETENTION_LAUNCH((retention_attn_decode<T, D>), dim3(args.n_blocks), dim3(N_WARPS*LANES), 0, stream, args);
}

template <ggml_type T, int D>
static void run_prompt(attn_args args, cudaStream_t stream) {
    using kernel = prompt_kernel<T, D>;
    if constexpr (kernel::SHARED <= MAX_SHARED) {
        set_rows(args, kernel::ROWS);
        if (args.k_new) {
            const int n_warps = 2*args.n_tokens*args.n_head_kv;
            RETENTION_LAUNCH((retention_attn_store<T, D>), dim3(ceil_div(n_warps, N_WARPS)), dim3(N_WARPS*LANES), 0, stream, args);
        }
#ifndef RETENTION_EMULATION
        if (kernel::SHARED > 48*1024) {
            CUDA_CHECK(cudaFuncSetAttribute((const void *) retention_attn_prompt<T, D>,
                        cudaFuncAttributeMaxDynamicSharedMemorySize, kernel::SHARED));
        }
#endif
        const dim3 grid(ceil_div(args.n_tokens, kernel::n_tile_tokens(args)), args.n_head_kv*args.n_slices);
        RETENTION_LAUNCH((retention_attn_prompt<T, D>), grid, dim3(kernel::WARPS*LANES), kernel::SHARED, stream, args);
    } else {
        GGML_ABORT("is_decode() chose a prompt kernel that does not exist");
    }
}

// run the op's kernels for cells of type T and the head size n_embd
template <ggml_type T>
void attn_run_type(int64_t n_embd, const attn_args & args, bool is_decode, void * scratch, cudaStream_t stream) {
    with_head_size(n_embd, [&](auto size) {
        constexpr int D = decltype(size)::value;
        if constexpr (D % (T == GGML_TYPE_Q8_0 || T == GGML_TYPE_Q4_0 ? 32 : 1) == 0) {
            if (is_decode) {
                run_decode<T, D>(args, scratch, stream);
            } else {
                run_prompt<T, D>(args, stream);
            }
        }
    });
}

} // namespace retention
