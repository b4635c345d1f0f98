#include "retain-mixed-graph.h"

#include "llama-batch.h"
#include "llama-cparams.h"

// the mask of the window's cells, of the shape that upstream's attention reads
static ggml_tensor * new_mask(ggml_context * ctx, const llama_ubatch & ubatch, const llama_cparams & cparams, int64_t n_kv) {
    const int64_t   n_stream = cparams.kv_unified ? 1 : ubatch.n_seqs_unq;
    const ggml_type type     = cparams.flash_attn ? GGML_TYPE_F16 : GGML_TYPE_F32;

    ggml_tensor * res = ggml_new_tensor_4d(ctx, type, n_kv, ubatch.n_tokens/n_stream, 1, n_stream);
    ggml_set_input(res);
    ggml_set_name(res, "attn_inp_kq_mask_swa");
    return res;
}

retain_iswa_input::retain_iswa_input(
        ggml_context             * ctx,
        const llama_ubatch       & ubatch,
        const llama_hparams      & hparams,
        const llama_cparams      & cparams,
        const retain_mixed_parts & parts) :
    llm_graph_input_attn_kv_iswa(hparams, cparams, parts.get_view()),
    mixed(parts.get_mixed()),
    full(hparams, cparams, &parts.get_attn()),
    window(parts.get_window()) {
    full.build(ctx, ubatch);

    self_k_idxs_swa = window->build_input_k_idxs(ctx, ubatch);
    self_v_idxs_swa = window->build_input_v_idxs(ctx, ubatch);

    self_kq_mask_swa     = new_mask(ctx, ubatch, cparams, window->get_n_kv());
    self_kq_mask_swa_cnv = self_kq_mask_swa;

    self_k_rot_swa = window->build_input_k_rot(ctx);
    self_v_rot_swa = window->build_input_v_rot(ctx);
}

void retain_iswa_input::set_input(const llama_ubatch * ubatch) {
    full.set_input(ubatch);

    window->set_input_k_idxs(self_k_idxs_swa, ubatch);
    window->set_input_v_idxs(self_v_idxs_swa, ubatch);
    window->set_input_kq_mask(self_kq_mask_swa, ubatch, cparams.causal_attn);
    if (self_k_rot_swa) {
        window->set_input_k_rot(self_k_rot_swa);
    }
    if (self_v_rot_swa) {
        window->set_input_v_rot(self_v_rot_swa);
    }
}

bool retain_iswa_input::can_reuse(const llm_graph_params & params) {
    const auto * parts = dynamic_cast<const retain_mixed_parts *>(params.mctx);
    if (!parts || !full.can_reuse(params)) {
        return false;
    }
    window = parts->get_window();
    mctx   = parts->get_view();

    const int64_t n_stream = params.cparams.kv_unified ? 1 : params.ubatch.n_seqs_unq;
    return self_k_idxs_swa->ne[0] == params.ubatch.n_tokens &&
        self_kq_mask_swa->ne[0] == window->get_n_kv() &&
        self_kq_mask_swa->ne[1] == params.ubatch.n_tokens/n_stream &&
        self_kq_mask_swa->ne[3] == n_stream;
}

// recurrent layers

static std::unique_ptr<llm_graph_input_rs> new_recr_input(
        ggml_context * ctx, const llama_ubatch & ubatch, const llama_memory_recurrent_context & mctx) {
    const int64_t n_all = mctx.get_n_rs();
    const int64_t n_own = ubatch.n_seqs;

    auto res = std::make_unique<llm_graph_input_rs>(&mctx);
    res->s_copy = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_all);
    ggml_set_input(res->s_copy);
    ggml_set_name(res->s_copy, "rs_s_copy");

    res->s_copy_main  = ggml_view_1d(ctx, res->s_copy, n_own, 0);
    res->s_copy_extra = ggml_view_1d(ctx, res->s_copy, n_all - n_own, n_own*ggml_element_size(res->s_copy));

    res->head = mctx.get_head();
    res->rs_z = mctx.get_rs_z();
    return res;
}

static std::unique_ptr<retain_graph_input> new_full_input(
        ggml_context             * ctx,
        const llama_ubatch       & ubatch,
        const llama_hparams      & hparams,
        const llama_cparams      & cparams,
        const retain_mixed_parts & parts) {
    auto res = std::make_unique<retain_graph_input>(hparams, cparams, &parts.get_attn());
    res->build(ctx, ubatch);
    return res;
}

retain_hybrid_input::retain_hybrid_input(
        ggml_context             * ctx,
        const llama_ubatch       & ubatch,
        const llama_hparams      & hparams,
        const llama_cparams      & cparams,
        const retain_mixed_parts & parts) :
    llm_graph_input_mem_hybrid(cparams, new_full_input(ctx, ubatch, hparams, cparams, parts),
            new_recr_input(ctx, ubatch, *parts.get_recr()), nullptr) {
}

void retain_hybrid_input::set_input(const llama_ubatch * ubatch) {
    inp_attn->set_input(ubatch);
    inp_rs->set_input(ubatch);
}

bool retain_hybrid_input::can_reuse(const llm_graph_params & params) {
    const auto * parts = dynamic_cast<const retain_mixed_parts *>(params.mctx);
    if (!parts || !inp_attn->can_reuse(params)) {
        return false;
    }
    const auto & recr = *parts->get_recr();
    inp_rs->mctx = &recr;

    return inp_rs->s_copy->ne[0] == recr.get_n_rs() && inp_rs->s_copy_main->ne[0] == params.ubatch.n_seqs &&
        inp_rs->head == recr.get_head() && inp_rs->rs_z == recr.get_rs_z();
}

retain_graph_input * retain_find_input(const llm_graph_result & res) {
    for (const auto & any : res.inputs) {
        if (auto * iswa = dynamic_cast<retain_iswa_input *>(any.get())) {
            return &iswa->get_full();
        }
        auto * hybrid = dynamic_cast<retain_hybrid_input *>(any.get());
        if (auto * full = dynamic_cast<retain_graph_input *>(hybrid ? hybrid->get_attn() : any.get())) {
            return full;
        }
    }
    return nullptr;
}
