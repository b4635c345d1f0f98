"""Taking tensors of the compute graph: what goes wrong meanwhile comes out."""

from __future__ import annotations

import llama_cpp
import pytest

from conftest import TinyFiles
from retain_local.bindings.capture import Capture
from support.tiny_models import TINY_MODELS


def test_what_goes_wrong_is_raised_when_the_values_are_taken(tiny: TinyFiles) -> None:
    capture = Capture({"attn_norm": TINY_MODELS["llama"].n_embd - 1})  # no width of the model's
    model = llama_cpp.llama_model_load_from_file(bytes(tiny.model("llama")), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch, params.cb_eval = 64, 1, 1, capture.callback
    ctx = llama_cpp.llama_init_from_model(model, params)
    tokens = (llama_cpp.llama_token * 3)(5, 6, 7)
    llama_cpp.llama_decode(ctx, llama_cpp.llama_batch_get_one(tokens, 3))
    with pytest.raises(ValueError, match="reshape"):
        capture.take("attn_norm", TINY_MODELS["llama"].n_layer)
    llama_cpp.llama_free(ctx)
    llama_cpp.llama_model_free(model)
