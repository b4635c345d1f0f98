// retention-ops.cpp - the retention ops of a backend: the CPU's, or that of the device named on the command line

#include "retention-op-cases.h"

static op_runner cpu_runner(ggml_backend_t backend) {
    op_runner res = {};
    res.backend  = backend;
    res.supports = [](const ggml_tensor *) { return true; };
    res.run      = [backend](ggml_context * ctx, ggml_tensor * op, int way) {
        ggml_backend_cpu_set_n_threads(backend, 1 + way);
        run_on_backend(backend, ctx, op);
    };
    return res;
}

// a device runs each op twice: the result may not depend on which block comes first
static op_runner device_runner(ggml_backend_t backend) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));

    op_runner res = {};
    res.backend    = backend;
    res.supports   = [backend](const ggml_tensor * op) { return ggml_backend_supports_op(backend, op); };
    res.run        = [backend](ggml_context * ctx, ggml_tensor * op, int) { run_on_backend(backend, ctx, op); };
    res.copy_cells = (ggml_retention_copy_cells_t) ggml_backend_reg_get_proc_address(reg, GGML_RETENTION_COPY_CELLS);
    CHECK(res.copy_cells);
    res.has_whole_gates = strcmp(ggml_backend_reg_name(reg), "MTL") != 0; // Metal computes their last layer alone
    return res;
}

int main(int argc, char ** argv) {
    const char * name = argc > 1 ? argv[1] : "CPU";

    const ggml_backend_ptr backend(ggml_backend_init_by_name(name, nullptr));
    if (!backend) {
        fprintf(stderr, "there is no device %s\n", name);
        return 1;
    }
    const int n = test_retention_ops(ggml_backend_is_cpu(backend.get()) ? cpu_runner(backend.get()) : device_runner(backend.get()));
    printf("retention ops: %d cases on %s agree with the reference\n", n, name);
    return 0;
}
