// retention-cuda.cu - the retention ops as the CUDA backend runs them

#include "retention-cuda.cuh"
#include "retention-ops.cuh"

#include "ggml-cuda.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

// Of each backend, as two may run at once. Never freed: a backend that takes the place of another on its device finds zeros too.
static int32_t * counts_of(ggml_backend_cuda_context & ctx) {
    static std::mutex mutex;
    static std::map<std::pair<const void *, int>, int32_t *> all;

    std::lock_guard<std::mutex> lock(mutex);
    int32_t *& res = all[{ &ctx, ctx.device }];
    if (!res) {
        // outside of a recorded graph: the first run of an op is never recorded
        CUDA_CHECK(cudaMalloc((void **) &res, retention::N_COUNTS*sizeof(*res)));
        // on the stream of the kernel that needs them: what the default stream does, ggml's streams do not wait for
        CUDA_CHECK(cudaMemsetAsync(res, 0, retention::N_COUNTS*sizeof(*res), ctx.stream()));
    }
    return res;
}

void ggml_cuda_retention(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    const bool is_gate = dst->op == GGML_OP_RETENTION_GATE;
    const int  n_sm    = ggml_cuda_info().devices[ctx.device].nsm;

    ggml_cuda_pool_alloc<char> scratch(ctx.pool());
    if (const size_t n = is_gate ? retention::gate_scratch_bytes(dst) : retention::attn_scratch_bytes(dst, n_sm)) {
        scratch.alloc(n); // the pool cannot give nothing
    }
    if (is_gate) {
        retention::gate_run(dst, scratch.get(), ctx.stream());
    } else {
        retention::attn_run(dst, scratch.get(), counts_of(ctx), n_sm, ctx.stream());
    }
}

// number of the device in whose memory a buffer lies, -1: in none's
static int device_of(ggml_backend_buffer_t buffer) {
    ggml_backend_reg_t reg = ggml_backend_cuda_reg();
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buffer));
    for (size_t i = 0; !ggml_backend_buffer_is_host(buffer) && i < ggml_backend_reg_dev_count(reg); ++i) {
        if (ggml_backend_reg_dev_get(reg, i) == dev) {
            return i;
        }
    }
    return -1;
}

bool ggml_cuda_retention_supported(int device, const ggml_tensor * op) {
    if (op->op == GGML_OP_RETENTION_GATE) {
        return retention::gate_supported(op, ampere_mma_available(ggml_cuda_info().devices[device].cc));
    }
    // Without a buffer it is a question about types alone. A pool in other memory would be copied here for every layer.
    // Recall is the CPU's alone.
    const ggml_tensor * k = op->src[1];
    return !op->src[9] && (!k->buffer || device_of(k->buffer) >= 0) && retention::attn_supported(op);
}

// Where the device finds a list of copies. It is kept from one eviction to the next, since allocating and freeing memory each
// wait for the device; never freed, as a list is small: 2.4 MB for those of 512 tokens in 288 cell lists.
struct copy_scratch {
    std::mutex            mutex;
    ggml_retention_copy * list = nullptr;
    int64_t               size = 0;

    void make_room(int64_t n) {
        if (n > size) {
            CUDA_CHECK(cudaFree(list));
            size = std::max(n, 2*size);
            CUDA_CHECK(cudaMalloc((void **) &list, size*sizeof(*list)));
        }
    }
};

static void copy_cells(ggml_tensor * k, ggml_tensor * v, const ggml_retention_copy * copies, int64_t n) {
    static copy_scratch scratches[GGML_CUDA_MAX_DEVICES];

    const int before = ggml_cuda_get_device();
    const int device = device_of(k->buffer);
    ggml_cuda_set_device(device);

    copy_scratch & scratch = scratches[device];
    std::lock_guard<std::mutex> lock(scratch.mutex);
    scratch.make_room(n);
    CUDA_CHECK(cudaMemcpyAsync(scratch.list, copies, n*sizeof(*copies), cudaMemcpyHostToDevice, cudaStreamPerThread));
    retention::copy_cells_run(k, v, scratch.list, n, cudaStreamPerThread);
    CUDA_CHECK(cudaGetLastError());
    CUDA_CHECK(cudaStreamSynchronize(cudaStreamPerThread));
    ggml_cuda_set_device(before);
}

void * ggml_cuda_retention_proc_address(const char * name) {
    return strcmp(name, GGML_RETENTION_COPY_CELLS) == 0 ? (void *) copy_cells : nullptr;
}
