// retention-emulated.cpp - the CUDA kernels' own source, run on the CPU with threads in both orders, against the reference
//
// This finds wrong indices, tails, masks, missing barriers and missing waits. It says nothing of speed, and races
// between blocks or within a step that the order of threads does not reverse stay hidden.

#define RETENTION_EMULATION

#include "retention-attn.cu"
#include "retention-attn-bf16.cu"
#include "retention-attn-f16.cu"
#include "retention-attn-f32.cu"
#include "retention-attn-q4_0.cu"
#include "retention-attn-q8_0.cu"
#include "retention-copy.cu"
#include "retention-gate.cu"

#include "retention-op-cases.h"

static constexpr int N_SM = 5; // few, so that blocks take several units and pieces of several lists

static void run(ggml_context *, ggml_tensor * op, int way) {
    emulation::descending = way == 1;
    if (op->op == GGML_OP_RETENTION_GATE) {
        std::vector<char> scratch(retention::gate_scratch_bytes(op), (char) 0xff);
        retention::gate_run(op, scratch.data(), nullptr);
        return;
    }
    std::vector<char> scratch(retention::attn_scratch_bytes(op, N_SM), (char) 0xff);
    static std::vector<int32_t> counts(retention::N_COUNTS, 0);
    retention::attn_run(op, scratch.data(), counts.data(), N_SM, nullptr);
    CHECK(std::all_of(counts.begin(), counts.end(), [](int32_t n) { return n == 0; }));
}

static void copy_cells(ggml_tensor * k, ggml_tensor * v, const ggml_retention_copy * copies, int64_t n) {
    retention::copy_cells_run(k, v, copies, n, nullptr);
}

int main() {
    const ggml_backend_ptr cpu(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));

    op_runner runner = {};
    runner.backend         = cpu.get();
    runner.run             = run;
    runner.one_way         = true;
    runner.max_work        = 6000000; // a fraction of a second
    runner.copy_cells      = copy_cells;
    runner.has_whole_gates = true;
    runner.supports        = [](const ggml_tensor * op) {
        return op->op == GGML_OP_RETENTION_GATE ? retention::gate_supported(op, emulation::has_matrix_units) : retention::attn_supported(op);
    };
    const int n = test_retention_ops(runner);

    // AMD GPUs, and old ones with bf16 and f32 cells; each product is many meetings of a warp then
    emulation::has_matrix_units = false;
    runner.max_work = 60000;
    const int n_by_lanes = test_retention_ops(runner);

    printf("emulated retention ops: %d cases agree with the reference, and %d without matrix units\n", n, n_by_lanes);
    return 0;
}
