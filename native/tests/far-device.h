// far-device.h - a device that computes as the CPU does in memory that the host cannot reach, as that of a GPU: what is
// carried to and fro is counted, so that a machine without a GPU shows what one would wait for

#pragma once

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-retention.h"

#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

// transfers between host and device by the name of the tensor, and copies within the device
struct far_transfers {
    std::map<std::string, int> to, from, from_ahead; // ahead: while the host goes on
    int n_cell_copies = 0; // calls

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

inline ggml_backend_t far_backend(ggml_backend_dev_t dev) {
    ggml_backend_t res = ggml_backend_cpu_init();
    res->device = dev;
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
        const bool is_elsewhere  = op->op == GGML_OP_RETENTION_ATTN && op->src[1]->buffer && op->src[1]->buffer->buft != &buft;
        const bool is_whole_gate = op->op == GGML_OP_RETENTION_GATE && op->src[4]; // the CPU has no kernel for it
        return !is_elsewhere && !is_whole_gate && ggml_backend_dev_supports_op(cpu, op);
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
