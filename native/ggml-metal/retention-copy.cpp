#include "retention-copy.h"

#include "ggml-backend-impl.h"
#include "ggml-metal-device.h"

#include <cstring>
#include <vector>

void ggml_metal_retention_copy_cells(ggml_tensor * k, ggml_tensor * v, const ggml_retention_copy * copies, int64_t n) {
    const size_t row_k = k->nb[1];
    const size_t row_v = v->nb[1];

    if (ggml_metal_buffer_is_shared((ggml_metal_buffer_t) k->buffer->context)) {
        char * base_k = (char *) k->data;
        char * base_v = (char *) v->data;
        for (int64_t i = 0; i < n; ++i) {
            memcpy(base_k + copies[i].k_dst*row_k, base_k + copies[i].k_src*row_k, row_k);
            memcpy(base_v + copies[i].v_dst*row_v, base_v + copies[i].v_src*row_v, row_v);
        }
        return;
    }

    // a Mac with a GPU of its own
    std::vector<char> row(row_k > row_v ? row_k : row_v);
    for (int64_t i = 0; i < n; ++i) {
        ggml_backend_tensor_get(k, row.data(), copies[i].k_src*row_k, row_k);
        ggml_backend_tensor_set(k, row.data(), copies[i].k_dst*row_k, row_k);
        ggml_backend_tensor_get(v, row.data(), copies[i].v_src*row_v, row_v);
        ggml_backend_tensor_set(v, row.data(), copies[i].v_dst*row_v, row_v);
    }
}
