// retain-shift.cpp - position shift: turn the keys of shifted cells by RoPE, layer by layer
//
// Cells are gathered from their pages, turned and written back, so that quantised and scattered keys need no kernel.

#include "retain-error.h"
#include "retain-graph.h"
#include "retain-memory.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>

namespace {

// the cells of one layer that have a pending shift
struct shifted_cells {
    const retain_layer * layer = nullptr;
    std::vector<int32_t> rows;
    std::vector<int32_t> shift;

    ggml_tensor * inp_rows  = nullptr; // i32 [n]
    ggml_tensor * inp_shift = nullptr; // i32 [n]
};

struct shift_input : public llm_graph_input_i {
    std::vector<shifted_cells> layers;
    std::vector<float>         hadamard;
    ggml_tensor *              rot = nullptr;

    void set_input(const llama_ubatch * ubatch) override {
        GGML_UNUSED(ubatch);

        for (const auto & cells : layers) {
            ggml_backend_tensor_set(cells.inp_rows,  cells.rows.data(),  0, ggml_nbytes(cells.inp_rows));
            ggml_backend_tensor_set(cells.inp_shift, cells.shift.data(), 0, ggml_nbytes(cells.inp_shift));
        }
        if (rot) {
            ggml_backend_tensor_set(rot, hadamard.data(), 0, ggml_nbytes(rot));
        }
    }
};

ggml_tensor * new_input(ggml_context * ctx, ggml_type type, int64_t ne0, int64_t ne1) {
    ggml_tensor * res = ggml_new_tensor_2d(ctx, type, ne0, ne1);
    ggml_set_input(res);
    return res;
}

} // namespace

bool retain_memory::shift_keys(llama_context * lctx) {
    const auto & hparams = model.hparams;
    const auto & cparams = lctx->get_cparams();

    auto input = std::make_unique<shift_input>();

    std::vector<retain_seq *>  shifted_seqs;
    std::vector<shifted_cells> shifted(hparams.n_layer_all);
    for (auto & seq : seqs) {
        if (std::any_of(seq.cell_lists.begin(), seq.cell_lists.end(), [](const auto & cell_list) { return !cell_list.shift.empty(); })) {
            shifted_seqs.push_back(&seq);
        }
        for_each_cell_list(seq, [&](const retain_layer & layer, int32_t, retain_cell_list & cell_list) {
            const auto & pool  = *pools[layer.pool];
            auto       & cells = shifted[layer.il];

            cells.layer = &layer;
            for (size_t i = 0; i < cell_list.shift.size(); ++i) {
                if (cell_list.shift[i] != 0) {
                    cells.rows.push_back(pool.k_row(cell_list.place(pool, i)));
                    cells.shift.push_back(cell_list.shift[i]);
                }
            }
            cell_list.shift.clear();
        });
    }
    for (auto & cells : shifted) {
        if (!cells.rows.empty() && hparams.has_rope(cells.layer->il)) {
            input->layers.push_back(std::move(cells));
        }
    }
    if (input->layers.empty() || hparams.rope_type == LLAMA_ROPE_TYPE_NONE) {
        return true;
    }
    // llama_decode() catches nothing, and goes on: the batch that comes next is refused instead
    const auto fail = [&](const char * reason) {
        for (auto * seq : shifted_seqs) {
            clear_seq(*seq); // which of its keys were turned is not known
        }
        shift_error = retain_format("the shift of positions failed (%s): the sequences that were shifted were removed; read them again", reason);
        return false;
    };

    auto * res = lctx->get_gf_res_reserve();
    ggml_backend_sched_reset(lctx->get_sched());
    res->reset();

    ggml_context * ctx = res->get_ctx();
    if (n_rot_k > 0) {
        input->hadamard = retain_hadamard(n_rot_k);
        input->rot      = new_input(ctx, GGML_TYPE_F32, n_rot_k, n_rot_k);
    }

    for (auto & cells : input->layers) {
        const int32_t il = cells.layer->il;
        const int64_t n  = cells.rows.size();
        auto & pool = *pools[cells.layer->pool];

        cells.inp_rows  = new_input(ctx, GGML_TYPE_I32, n, 1);
        cells.inp_shift = new_input(ctx, GGML_TYPE_I32, n, 1);

        ggml_tensor * k = ggml_get_rows(ctx, pool.get_k(), cells.inp_rows); // f32 [n_embd_k, n]
        if (input->rot) {
            k = llama_mul_mat_hadamard(ctx, k, input->rot);
        }
        k = ggml_reshape_3d(ctx, k, cells.layer->n_embd_k, 1, n);
        k = ggml_rope_ext(ctx, k, cells.inp_shift, model.get_rope_factors(cparams, il),
                hparams.n_rot(il), hparams.rope_type, cparams.n_ctx_orig_yarn,
                model.get_rope_freq_base(cparams, il), model.get_rope_freq_scale(cparams, il),
                cparams.yarn_ext_factor, cparams.yarn_attn_factor, cparams.yarn_beta_fast, cparams.yarn_beta_slow);
        k = ggml_reshape_2d(ctx, k, cells.layer->n_embd_k, n);
        if (input->rot) {
            k = llama_mul_mat_hadamard(ctx, k, input->rot);
        }
        ggml_build_forward_expand(res->get_gf(), ggml_set_rows(ctx, pool.get_k(), k, cells.inp_rows));
    }

    auto * inputs = res->add_input(std::move(input));
    if (!ggml_backend_sched_alloc_graph(lctx->get_sched(), res->get_gf())) {
        return fail("there is no memory for it");
    }
    inputs->set_input(nullptr);
    if (lctx->graph_compute(res->get_gf(), false) != GGML_STATUS_SUCCESS) {
        return fail("it was interrupted");
    }
    ggml_backend_sched_synchronize(lctx->get_sched());
    return true;
}
