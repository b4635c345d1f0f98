// retention-metal.cpp - the Metal kernels' own source, run on the CPU with threads in both orders, against the reference
//
// This finds wrong indices, tails, masks and missing barriers. It says nothing of speed, and what only Apple's compiler
// refuses stays hidden.

#include "retention-op-cases.h"
#include "retention-plan.h"

#include <vector>

#include "emulation/metal-emulation.h" // last, as it gives a meaning to some plain words

namespace metal_emulation {
#include "retention-rows.metal"
#include "retention-store.metal"
#include "retention-decode.metal"
#include "retention-prompt.metal"
} // namespace metal_emulation

using namespace metal_emulation;

// call fn(position in the grid, thread, lane, simdgroup) for each thread of each threadgroup
template <typename F>
static void dispatch(unsigned gx, unsigned gy, unsigned gz, int n_threads, size_t smem, F fn) {
    emulation::launch(dim3(gx*gy*gz), dim3(n_threads), smem, [=] {
        const unsigned i      = emulation::block_index.x;
        const unsigned thread = emulation::thread_index.x;
        fn(uint3{ i%gx, i/gx%gy, i/gx/gy }, ushort(thread), ushort(thread%N_SIMDWIDTH), ushort(thread/N_SIMDWIDTH));
    });
}

template <typename T>
static T * data(const ggml_tensor * t) {
    return t ? (T *) t->data : nullptr;
}

static void compute_gate(ggml_tensor * op) {
    const ggml_tensor * a = op->src[0];
    const ggml_tensor * w = op->src[1];

    retention_gate_args args = {};
    args.n_ff      = w->ne[0];
    args.n_head_kv = w->ne[1];
    args.is_score  = op->op_params[0] == GGML_RETENTION_GATE_SCORE;
    args.nb_a1     = a->nb[1];
    args.nb_w1     = w->nb[1];
    args.nb_d1     = op->nb[1];

    const auto gate = w->type == GGML_TYPE_F32 ? kernel_retention_gate<RETENTION_F32> :
                      w->type == GGML_TYPE_F16 ? kernel_retention_gate<RETENTION_F16> : kernel_retention_gate<RETENTION_Q8_0>;
    dispatch(w->ne[1], op->ne[1], 1, N_SIMDWIDTH, 0, [=](uint3 at, ushort, ushort lane, ushort) {
        gate(args, data<char>(a), data<char>(w), data<float>(op->src[2]), data<char>(op), at, lane);
    });
}

typedef decltype(&kernel_retention_attn_decode<1, 2>)                         decode_kernel;
typedef decltype(&kernel_retention_attn_prompt<half, simdgroup_half8x8, 8>) prompt_kernel;

static decode_kernel find_decode(const retention_metal_plan & plan) {
    static const decode_kernel kernels[3][3] = {
        { kernel_retention_attn_decode<1, 2>, kernel_retention_attn_decode<1, 4>, kernel_retention_attn_decode<1, 8> },
        { kernel_retention_attn_decode<2, 2>, kernel_retention_attn_decode<2, 4>, kernel_retention_attn_decode<2, 8> },
        { kernel_retention_attn_decode<4, 2>, kernel_retention_attn_decode<4, 4>, kernel_retention_attn_decode<4, 8> },
    };
    return kernels[plan.n_heads/2][plan.n_v/4];
}

template <typename T, typename T8x8>
static prompt_kernel find_prompt(int n_v) {
    switch (n_v) {
        case  8: return kernel_retention_attn_prompt<T, T8x8,  8>;
        case 10: return kernel_retention_attn_prompt<T, T8x8, 10>;
        case 12: return kernel_retention_attn_prompt<T, T8x8, 12>;
        case 16: return kernel_retention_attn_prompt<T, T8x8, 16>;
        default: return kernel_retention_attn_prompt<T, T8x8, 32>;
    }
}

static void compute_attn(ggml_tensor * op) {
    const auto plan = retention_metal_plan_attn(op);
    const auto args = plan.args;

    K_TYPE = retention_metal_type(op->src[1]->type);
    V_TYPE = retention_metal_type(op->src[2]->type);

    const char    * q      = data<char>(op->src[0]);
    char          * k      = data<char>(op->src[1]);
    char          * v      = data<char>(op->src[2]);
    const int32_t * pages  = data<int32_t>(op->src[3]);
    const int32_t * lists  = data<int32_t>(op->src[4]);
    const int32_t * tokens = data<int32_t>(op->src[5]);
    const float   * sinks  = data<float>(op->src[6]);

    if (op->src[7]) {
        dispatch(args.n_head_kv, args.n_tokens, 1, N_SIMDWIDTH, 0, [=](uint3 at, ushort thread, ushort, ushort) {
            kernel_retention_store(args, k, v, data<char>(op->src[7]), data<char>(op->src[8]), pages, lists, tokens, at, thread);
        });
    }

    std::vector<float> rows(plan.scratch/sizeof(float), NAN); // what no thread wrote is NaN
    float * partial = rows.data();

    if (plan.prompt) {
        const auto prompt = plan.f32 ? find_prompt<float, simdgroup_float8x8>(plan.n_v) : find_prompt<half, simdgroup_half8x8>(plan.n_v);
        dispatch(plan.grid[0], plan.grid[1], plan.grid[2], plan.n_threads, plan.smem, [=](uint3 at, ushort thread, ushort lane, ushort sg) {
            prompt(args, q, k, v, pages, lists, tokens, sinks, data<char>(op), (char *) emulation::shared_memory(), at, thread, lane, sg);
        });
        return;
    }
    const auto decode = find_decode(plan);
    dispatch(plan.grid[0], plan.grid[1], plan.grid[2], plan.n_threads, plan.smem, [=](uint3 at, ushort thread, ushort lane, ushort sg) {
        decode(args, q, k, v, pages, lists, tokens, partial, (float *) emulation::shared_memory(), at, thread, lane, sg);
    });
    dispatch(args.n_head, args.n_tokens, 1, N_SIMDWIDTH, 0, [=](uint3 at, ushort thread, ushort, ushort) {
        kernel_retention_attn_merge(args, partial, sinks, data<char>(op), at, thread);
    });
}

static void run(ggml_context *, ggml_tensor * op, int way) {
    emulation::descending = way == 1;
    if (op->op == GGML_OP_RETENTION_GATE) {
        compute_gate(op);
    } else {
        compute_attn(op);
    }
}

// There is no kernel for a gate as a whole. Its last layer looks like an op that there is one for.
static void test_whole_gates_are_refused() {
    const auto ctx = make_context();
    const auto tensor = [&](int64_t ne0, int64_t ne1) { return ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, ne0, ne1); };
    const ggml_retention_gate_weights weights = { tensor(96, 64), tensor(64, 1), nullptr, nullptr, tensor(64, 3), tensor(3, 1) };
    const ggml_retention_gate_params  params  = { GGML_RETENTION_GATE_LOG_BETA, GGML_RETENTION_SILU, 1 };
    CHECK(!retention_metal_supports(ggml_retention_whole_gate(ctx.get(), tensor(3, 5), tensor(96, 5), nullptr, &weights, &params)));
}

int main() {
    test_whole_gates_are_refused();

    const ggml_backend_ptr cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));

    op_runner runner = {};
    runner.backend  = cpu.get();
    runner.run      = run;
    runner.one_way  = true;
    runner.max_work = 6000000; // a fraction of a second
    runner.supports = retention_metal_computes;

    const int n = test_retention_ops(runner);
    printf("emulated Metal kernels: %d cases agree with the reference\n", n);
    return 0;
}
