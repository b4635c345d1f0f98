// far-device.h - a device that computes as the CPU does in memory that the host cannot reach, as that of a GPU: what is
// carried to and fro is counted, so that a machine without a GPU shows what one would wait for

#pragma once

#include "retention-reference.h"
#include "testing.h"

#include "ggml-backend-impl.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "ggml-retention.h"

#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

// transfers between host and device by the name of the tensor, and copies within the device
struct far_transfers {
    std::map<std::string, int> to, from, from_ahead; // ahead: while the host goes on
    int n_cell_copies   = 0; // calls
    int n_gates_chained = 0;
    int n_gates_alone   = 0;

    // those of tensors whose name has this in it
    static int count(const std::map<std::string, int> & of, const char * part) {
        int n = 0;
        for (const auto & [name, times] : of) {
            n += name.find(part) != std::string::npos ? times : 0;
        }
        return n;
    }
};

inline far_transfers & far_counts() {
    static far_transfers counts;
    return counts;
}

inline void far_copy_cells(ggml_tensor * k, ggml_tensor * v, const ggml_retention_copy * copies, int64_t n) {
    ++far_counts().n_cell_copies;
    for (int64_t i = 0; i < n; ++i) {
        memcpy((char *) k->data + copies[i].k_dst*k->nb[1], (char *) k->data + copies[i].k_src*k->nb[1], k->nb[1]);
        memcpy((char *) v->data + copies[i].v_dst*v->nb[1], (char *) v->data + copies[i].v_src*v->nb[1], v->nb[1]);
    }
}

// What was asked for ahead arrives when the host waits for the device. Until then there is something else.
inline std::vector<std::function<void()>> & far_arrivals() {
    static std::vector<std::function<void()>> arrivals;
    return arrivals;
}

// a whole gate, for which the CPU has no kernel: of f32 weights with SiLU
inline void far_compute_gate(const ggml_tensor * gate) {
    ggml_retention_gate_params params;
    memcpy(&params, gate->op_params, sizeof(params));
    CHECK(params.activation == GGML_RETENTION_SILU && params.output == GGML_RETENTION_GATE_LOG_BETA);

    const int64_t n_tokens = gate->ne[1];
    std::vector<float> x;
    for (int64_t t = 0; t < n_tokens; ++t) {
        const float * row = (const float *) ((const char *) gate->src[0]->data + t*gate->src[0]->nb[1]);
        x.insert(x.end(), row, row + gate->src[0]->ne[0]);
    }
    const auto data = [](const ggml_tensor * t) {
        CHECK(t->type == GGML_TYPE_F32);
        return (const float *) t->data;
    };
    for (const int i : { 4, 6 }) {
        if (const ggml_tensor * w = gate->src[i]) {
            x = reference::score(w->ne[0], w->ne[1], n_tokens, x.data(), data(w), data(gate->src[i + 1]), GGML_RETENTION_GATE_SCORE);
            for (float & u : x) {
                u = u/(1.0f + std::exp(-u));
            }
        }
    }
    const ggml_tensor * w = gate->src[1];
    x = reference::score(w->ne[0], w->ne[1], n_tokens, x.data(), data(w), data(gate->src[2]), GGML_RETENTION_GATE_LOG_BETA);
    for (int64_t t = 0; t < n_tokens; ++t) {
        memcpy((char *) gate->data + t*gate->nb[1], &x[t*w->ne[1]], w->ne[1]*sizeof(float));
    }
}

// what runs a graph on the CPU, with whole gates computed at the last one of their chain, as on a GPU
inline ggml_status far_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    static const auto compute = ggml_backend_ptr(ggml_backend_cpu_init())->iface.graph_compute;

    int first = 0;
    for (int i = 0; i <= graph->n_nodes; ++i) {
        const ggml_tensor * gate = i < graph->n_nodes ? graph->nodes[i] : nullptr;
        if (gate && !(gate->op == GGML_OP_RETENTION_GATE && gate->src[4])) {
            continue;
        }
        ggml_cgraph part = ggml_graph_view(graph, first, i);
        const ggml_status status = first < i ? compute(backend, &part) : GGML_STATUS_SUCCESS;
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
        ggml_retention_gate_params params = {};
        if (gate) {
            memcpy(&params, gate->op_params, sizeof(params));
        }
        for (; params.is_last && gate; gate = gate->src[8]) {
            ++(gate->ne[1] > 8 ? far_counts().n_gates_alone : far_counts().n_gates_chained);
            far_compute_gate(gate);
        }
        first = i + 1;
    }
    return GGML_STATUS_SUCCESS;
}

inline ggml_backend_t far_backend(ggml_backend_dev_t dev) {
    ggml_backend_t res = ggml_backend_cpu_init();
    res->device = dev;
    res->iface.graph_compute = far_compute;
    res->iface.synchronize = [](ggml_backend_t) {
        for (const auto & arrive : far_arrivals()) {
            arrive();
        }
        far_arrivals().clear();
    };
    res->iface.get_tensor_async = [](ggml_backend_t, const ggml_tensor * tensor, void * data, size_t offset, size_t n) {
        ++far_counts().from_ahead[tensor->name];
        const char * from = (const char *) tensor->data + offset;
        memset(data, 0xff, n);
        far_arrivals().push_back([data, bytes = std::vector<char>(from, from + n)] { memcpy(data, bytes.data(), bytes.size()); });
    };
    return res;
}

inline ggml_backend_dev_t far_device() {
    static ggml_backend_dev_t       cpu    = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    static ggml_backend_device      device = *cpu;
    static ggml_backend_reg         reg    = *cpu->reg;
    static ggml_backend_buffer_type buft   = *ggml_backend_cpu_buffer_type();

    reg.iface.get_proc_address = [](ggml_backend_reg_t, const char * name) -> void * {
        return strcmp(name, GGML_RETENTION_COPY_CELLS) == 0 ? (void *) far_copy_cells : ggml_backend_reg_get_proc_address(cpu->reg, name);
    };
    device.reg = &reg;
    device.iface.get_name        = [](ggml_backend_dev_t) { return "FAR"; };
    device.iface.get_type        = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    device.iface.get_buffer_type = [](ggml_backend_dev_t) { return &buft; };
    device.iface.supports_buft   = [](ggml_backend_dev_t, ggml_backend_buffer_type_t other) { return other == &buft; };
    device.iface.supports_op     = [](ggml_backend_dev_t, const ggml_tensor * op) {
        const bool is_elsewhere = op->op == GGML_OP_RETENTION_ATTN && op->src[1]->buffer && op->src[1]->buffer->buft != &buft;
        return !is_elsewhere && ggml_backend_dev_supports_op(cpu, op);
    };
    device.iface.init_backend    = [](ggml_backend_dev_t dev, const char *) { return far_backend(dev); };
    device.iface.get_host_buffer_type = [](ggml_backend_dev_t) { return ggml_backend_cpu_buffer_type(); };

    buft.device              = &device;
    buft.iface.get_name      = [](ggml_backend_buffer_type_t) { return "FAR"; };
    buft.iface.is_host       = [](ggml_backend_buffer_type_t) { return false; };
    buft.iface.alloc_buffer  = [](ggml_backend_buffer_type_t type, size_t size) {
        ggml_backend_buffer_t res = ggml_backend_cpu_buffer_type()->iface.alloc_buffer(type, size);
        res->iface.set_tensor = [](ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t n) {
            ++far_counts().to[tensor->name];
            memcpy((char *) tensor->data + offset, data, n);
        };
        res->iface.get_tensor = [](ggml_backend_buffer_t, const ggml_tensor * tensor, void * data, size_t offset, size_t n) {
            ++far_counts().from[tensor->name];
            memcpy(data, (const char *) tensor->data + offset, n);
        };
        res->iface.cpy_tensor = nullptr;
        return res;
    };
    return &device;
}
