// retention-attn.cu - GGML_OP_RETENTION_ATTN: which kernels run, with which arguments

#include "retention-attn-launch.cuh"
#include "retention-ops.cuh"

#include <cstring>

namespace retention {

// On an H100 with 8 lists of 8,192 f16 cells 24 us with 1 or 2, 32 us with 3 (bench-attention --device CUDA0).
static constexpr int BLOCKS_PER_SM = 2;

// more lists than this are not worth the sums over them that every block makes
static constexpr int64_t MAX_LISTS = 8192;

static bool has_kernels(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_Q8_0 || type == GGML_TYPE_Q4_0;
}

// compiled in files of their own
extern template void attn_run_type<GGML_TYPE_F32> (int64_t, const attn_args &, bool, void *, cudaStream_t);
extern template void attn_run_type<GGML_TYPE_F16> (int64_t, const attn_args &, bool, void *, cudaStream_t);
extern template void attn_run_type<GGML_TYPE_BF16>(int64_t, const attn_args &, bool, void *, cudaStream_t);
extern template void attn_run_type<GGML_TYPE_Q8_0>(int64_t, const attn_args &, bool, void *, cudaStream_t);
extern template void attn_run_type<GGML_TYPE_Q4_0>(int64_t, const attn_args &, bool, void *, cudaStream_t);

static bool is_decode(const ggml_tensor * dst, const ggml_retention_attn_params & params) {
    const ggml_tensor * q = dst->src[0];
    const int64_t n_lists = q->ne[2]*params.n_head_kv*ceil_div(q->ne[1]/params.n_head_kv, ROWS_DECODE);
    // the prompt kernel has no form for rows of 1 KB in two parts: its tiles do not fit
    const bool only_decode = dst->src[1]->type == GGML_TYPE_F32 && dst->src[1]->ne[0] > 128;
    GGML_ASSERT(!only_decode || n_lists <= N_COUNTS);
    return only_decode || (n_lists <= MAX_LISTS && (params.few_tokens || q->ne[2] <= 4));
}

static attn_args make_args(const ggml_tensor * dst, int n_sm) {
    ggml_retention_attn_params params;
    memcpy(&params, dst->op_params, sizeof(params));

    const ggml_tensor * q     = dst->src[0];
    const ggml_tensor * k     = dst->src[1];
    const ggml_tensor * v     = dst->src[2];
    const ggml_tensor * k_new = dst->src[7];
    const ggml_tensor * v_new = dst->src[8];

    attn_args args = {};
    args.pool.k           = (char *) k->data;
    args.pool.v           = (char *) v->data;
    args.pool.k_row       = k->nb[1];
    args.pool.v_row       = v->nb[1];
    args.pool.pages       = (const int32_t *) dst->src[3]->data;
    args.pool.cell_lists  = (const int32_t *) dst->src[4]->data;
    args.pool.tokens      = (const int32_t *) dst->src[5]->data;
    args.pool.k_stride    = params.k_stride;
    args.pool.v_stride    = params.v_stride;
    args.pool.v_first     = params.v_first;
    args.pool.list_first  = params.list_first;
    args.pool.list_stride = params.list_stride;
    while (1 << args.pool.page_shift < params.page_size) {
        ++args.pool.page_shift;
    }

    args.q       = (const float *) q->data;
    args.q_head  = q->nb[1]/sizeof(float);
    args.q_token = q->nb[2]/sizeof(float);
    if (k_new) {
        args.k_new       = (const float *) k_new->data;
        args.k_new_head  = k_new->nb[1]/sizeof(float);
        args.k_new_token = k_new->nb[2]/sizeof(float);
        args.v_new       = (const float *) v_new->data;
        args.v_new_head  = v_new->nb[1]/sizeof(float);
        args.v_new_token = v_new->nb[2]/sizeof(float);
    }
    args.sinks = dst->src[6] ? (const float *) dst->src[6]->data : nullptr;
    args.dst   = (float *) dst->data;

    args.n_head    = q->ne[1];
    args.n_head_kv = params.n_head_kv;
    args.n_tokens  = q->ne[2];
    args.n_group   = args.n_head/args.n_head_kv;

    const float log2e = 1.442695041f;
    args.q_scale  = params.softcap != 0.0f ? params.scale/params.softcap : params.scale*log2e;
    args.cap      = params.softcap*log2e;
    args.n_blocks = BLOCKS_PER_SM*n_sm;
    set_rows(args, ROWS_DECODE);
    return args;
}

bool attn_supported(const ggml_tensor * dst) {
    ggml_retention_attn_params params;
    memcpy(&params, dst->op_params, sizeof(params));

    const ggml_tensor * k = dst->src[1];
    const ggml_tensor * v = dst->src[2];
    const bool has_pages = params.page_size >= 8 && (params.page_size & (params.page_size - 1)) == 0; // a power of two
    return k->type == v->type && k->ne[0] == v->ne[0] && k->ne[0] % ggml_blck_size(k->type) == 0 && has_pages &&
        with_head_size(k->ne[0], [](auto) {}) && has_kernels(k->type);
}

size_t attn_scratch_bytes(const ggml_tensor * dst, int n_sm) {
    ggml_retention_attn_params params;
    memcpy(&params, dst->op_params, sizeof(params));
    return is_decode(dst, params) ? scratch_layout(make_args(dst, n_sm), dst->ne[0]).bytes : 0;
}

void attn_run(ggml_tensor * dst, void * scratch, int32_t * counts, int n_sm, cudaStream_t stream) {
    ggml_retention_attn_params params;
    memcpy(&params, dst->op_params, sizeof(params));

    attn_args args = make_args(dst, n_sm);
    args.n_written = counts;
    const auto run = [&](auto fn) { fn(dst->ne[0], args, is_decode(dst, params), scratch, stream); };
    switch (dst->src[1]->type) {
        case GGML_TYPE_F32:  run(attn_run_type<GGML_TYPE_F32>);  break;
        case GGML_TYPE_F16:  run(attn_run_type<GGML_TYPE_F16>);  break;
        case GGML_TYPE_BF16: run(attn_run_type<GGML_TYPE_BF16>); break;
        case GGML_TYPE_Q8_0: run(attn_run_type<GGML_TYPE_Q8_0>); break;
        case GGML_TYPE_Q4_0: run(attn_run_type<GGML_TYPE_Q4_0>); break;
        default:             GGML_ABORT("attn_supported() refuses this type");
    }
}

} // namespace retention
