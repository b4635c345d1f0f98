"""Training gates on a GGUF file: the model and the tokenizer that are made of it say what llama.cpp says."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from retain_local import Llama
from retain_local.errors import RetainError
from retain_local.gates.sidecar.file import read_sidecar
from retain_local.gates.sidecar.fingerprint import base_fingerprint
from retain_local.gates.train import gguf_base
from retain_local.gates.train.base import BaseModel
from retain_local.gates.train.gguf_base import check_logits, load_gguf
from retain_local.gates.train.gguf_tokenizer import GgufTokenizer
from retain_local.gates.train.options import TrainOptions
from retain_local.gates.train.rows import Rows
from retain_local.gates.train.training import train_gates
from retain_local.gates.verify import verify_sidecar
from support.quantised import MIXED, WEIGHT_TYPES, WeightType, dequantised, quantise
from support.tiny_models import TINY_MODELS, tiny_tensors, write_tiny_model

FAMILIES = ("llama", "qwen2", "qwen3", "qwen3moe", "phi3", "starcoder2")
TEXT = "what the gates let the cache hold is read again and again, what fades is gone. " * 8
OPTIONS = TrainOptions(
    gate_size=32, start_bias=3.0, budget=8, context=64, batch=2, steps=3, learning_rate=3e-3, device="cpu", dtype="f32"
)


def largest_difference(base: BaseModel, path: Path) -> float:
    """Of logits from llama.cpp's, in their standard deviations."""
    tokens = list(range(260, 300))
    with closing(
        Llama(path, n_ctx=64, type_k="f32", type_v="f32", policy="none", logits_all=True, verbose=False)
    ) as llm:
        llm.eval(tokens)
        expected = np.array(llm.scores[: len(tokens)])
    ids = torch.tensor(tokens)[None]
    with torch.no_grad():
        hidden, _ = base.hidden(ids, torch.arange(len(tokens))[None], torch.zeros_like(ids))
        found = base.logits(hidden)[0].numpy()
    return float(np.abs(found - expected).max() / expected.std())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_llama_cpp(tiny, family: str) -> None:
    path = tiny.model(family)
    base = BaseModel(load_gguf(path, torch.float32))
    assert largest_difference(base, path) < 2e-3
    check_logits(base, path)


@pytest.mark.parametrize("name, weight_type", [("Q4_1", WEIGHT_TYPES["Q4_1"]), ("Q4_K_M", MIXED)])
def test_quantised_weights_are_dequantised(tiny, tmp_path: Path, name: str, weight_type: WeightType) -> None:
    """Of a quantised file comes the model that llama.cpp has of its dequantised weights in f32."""
    path = quantise(tiny.model("qwen2"), tmp_path / f"{name}.gguf", weight_type)
    whole = write_tiny_model(tmp_path / "whole.gguf", TINY_MODELS["qwen2"], tensors=dequantised(path))
    base = BaseModel(load_gguf(path, torch.float32))
    assert largest_difference(base, whole) < 1e-3
    check_logits(base, path)


def test_a_file_that_is_read_otherwise_is_refused(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever transformers may get wrong of a file: here the rotary permutation of q and k."""
    path = tiny.model("llama")
    model = load_gguf(path, torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            weight = layer.self_attn.q_proj.weight
            weight.copy_(weight.reshape(8, 2, 16, -1).transpose(1, 2).reshape(weight.shape))
    monkeypatch.setattr(gguf_base, "_EXACT", gguf_base._ROUNDED)  # the wider of the two tolerances
    with pytest.raises(RetainError, match="reads this file otherwise than llama.cpp"):
        check_logits(BaseModel(model), path)


def test_an_architecture_that_transformers_cannot_read(tiny) -> None:
    with pytest.raises(RetainError, match="transformers cannot read this model of architecture olmo2"):
        load_gguf(tiny.model("olmo2"), torch.float32)


def test_frequency_factors(tmp_path: Path) -> None:
    """Llama 3.1 and later stretch RoPE by factors that lie in the file as a tensor."""
    model = TINY_MODELS["llama"]
    factors = np.linspace(1, 8, model.head_size // 2, dtype=np.float32)
    path = write_tiny_model(
        tmp_path / "llama.gguf", model, tensors=[*tiny_tensors(model), ("rope_freqs.weight", factors)]
    )
    check_logits(BaseModel(load_gguf(path, torch.float32)), path)


def test_a_training_needs_the_file_alone(tiny, tmp_path: Path) -> None:
    path = tiny.model("llama")
    (tmp_path / "text.txt").write_text(TEXT)
    export = train_gates(str(path), tmp_path / "out", [str(tmp_path / "text.txt")], OPTIONS)
    assert export.path.name == f"{path.stem}.gates.gguf"
    info = read_sidecar(export.path).info
    assert info.base_fingerprint == base_fingerprint(path) and info.architecture == "llama"
    assert verify_sidecar(export.path, path, TEXT, 48).passed


def test_tokens_are_those_of_llama_cpp_and_replies_are_found(tiny) -> None:
    path = tiny.model("llama")
    tokenizer = GgufTokenizer(path)
    with closing(Llama(path, vocab_only=True, verbose=False)) as llm:
        assert tokenizer(TEXT)["input_ids"] == llm.tokenize(TEXT.encode(), special=False)
        chat = [
            {"role": "user", "content": "who is there?"},
            {"role": "assistant", "content": "nobody."},
            {"role": "user", "content": "and now?"},
            {"role": "assistant", "content": "somebody, na\u00efve as ever."},
        ]
        rows = Rows([chat], tokenizer, 256, 1, 0, True)
        piece = rows.rows[0][0]
        said = llm.detokenize([int(token) for token in piece.tokens[piece.counts]]).decode()
    assert said == "nobody.somebody, na\u00efve as ever."
