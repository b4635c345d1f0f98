// retention-copy.cu - copies of cells within a pool: a warp for each of them

#include "retention-ops.cuh"

namespace retention {

static constexpr int COPY_WARPS = 8;

// n bytes, a multiple of the words
template <typename WORD>
static __device__ __forceinline__ void copy_row(char * dst, const char * src, int n) {
    for (int i = threadIdx.x % LANES; i < n/(int) sizeof(WORD); i += LANES) {
        ((WORD *) dst)[i] = ((const WORD *) src)[i];
    }
}

template <typename WORD>
static __global__ void retention_copy_cells(char * k, char * v, int k_row, int v_row, const ggml_retention_copy * copies, int n) {
    const int i = blockIdx.x*COPY_WARPS + threadIdx.x/LANES;
    if (i < n) {
        const ggml_retention_copy copy = copies[i];
        copy_row<WORD>(k + (int64_t) copy.k_dst*k_row, k + (int64_t) copy.k_src*k_row, k_row);
        copy_row<WORD>(v + (int64_t) copy.v_dst*v_row, v + (int64_t) copy.v_src*v_row, v_row);
    }
}

void copy_cells_run(ggml_tensor * k, ggml_tensor * v, const ggml_retention_copy * copies, int64_t n, cudaStream_t stream) {
    const int  k_row = k->nb[1];
    const int  v_row = v->nb[1];
    const dim3 grid((n + COPY_WARPS - 1)/COPY_WARPS);
    const dim3 block(COPY_WARPS*LANES);
    const auto fits = [&](size_t word) { return k_row % word == 0 && v_row % word == 0; };
    if (fits(sizeof(uint4))) {
        RETENTION_LAUNCH((retention_copy_cells<uint4>), grid, block, 0, stream, (char *) k->data, (char *) v->data, k_row, v_row, copies, n);
    } else if (fits(sizeof(uint32_t))) {
        RETENTION_LAUNCH((retention_copy_cells<uint32_t>), grid, block, 0, stream, (char *) k->data, (char *) v->data, k_row, v_row, copies, n);
    } else {
        // rows of quantised blocks have an even number of bytes
        RETENTION_LAUNCH((retention_copy_cells<uint16_t>), grid, block, 0, stream, (char *) k->data, (char *) v->data, k_row, v_row, copies, n);
    }
}

} // namespace retention
