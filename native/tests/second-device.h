// second-device.h - a device that computes as the CPU does and has memory of its own, so that a model can lie on two

#pragma once

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"

#include "llama.h"

// the CPU under another name, of the type that llama.cpp offloads layers to
inline ggml_backend_dev_t second_device() {
    static ggml_backend_device      device = *ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    static ggml_backend_buffer_type buft   = *ggml_backend_cpu_buffer_type();

    device.iface.get_name        = [](ggml_backend_dev_t) { return "SECOND"; };
    device.iface.get_type        = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    device.iface.get_buffer_type = [](ggml_backend_dev_t) { return &buft; };
    device.iface.init_backend    = [](ggml_backend_dev_t dev, const char *) {
        ggml_backend_t backend = ggml_backend_cpu_init();
        backend->device = dev;
        return backend;
    };
    buft.iface.get_name = [](ggml_backend_buffer_type_t) { return "SECOND"; };
    buft.device         = &device;
    return &device;
}

// parameters of a model whose last layer lies on the second device
inline llama_model_params two_device_params() {
    static ggml_backend_dev_t devices[2] = { second_device(), nullptr };

    llama_model_params res = llama_model_default_params();
    res.devices      = devices;
    res.n_gpu_layers = 2; // the output counts as one
    res.load_mode    = LLAMA_LOAD_MODE_NONE;
    return res;
}
