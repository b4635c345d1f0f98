"""Every kind of checkpoint: what comes out of an export is what the authors' modules compute in PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from retain_local.errors import RetainError
from retain_local.gates import gate_output, read_sidecar
from retain_local.gates.checkpoint.read import read_checkpoint
from retain_local.gates.export import export_checkpoint
from retain_local.gates.verify import DEFAULT_TEXT, verify_sidecar
from support.tiny_models import TINY_MODELS, TinyModel, tiny_tensors, write_tiny_model

QWEN3 = TINY_MODELS["qwen3"]
N_FF = 32
TOLERANCE = 1e-5


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def randomised(module: nn.Module) -> nn.Module:
    """The module with numbers of ordinary size, as trained ones have."""
    source = generator()
    for name, parameter in module.named_parameters():
        std = 1.5 / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 0.5
        mean = 1.0 if "norm" in name else 0.0
        parameter.data.normal_(mean, std, generator=source)
    return module


# the modules, written after the papers and the authors' names of their parts


class KVzap(nn.Module):
    """`layers`: one Linear or MLP for each layer."""

    def __init__(self, n_layer: int, n_embd: int, n_head_kv: int, n_ff: int | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(n_embd, n_head_kv)
            if n_ff is None
            else nn.Sequential(nn.Linear(n_embd, n_ff), nn.GELU(), nn.Linear(n_ff, n_head_kv))
            for _ in range(n_layer)
        )


class FastKVzip(nn.Module):
    """The gate of one layer."""

    def __init__(self, n_embd: int, n_head: int, n_group: int, n_key: int = 16, n_base: int = 16) -> None:
        super().__init__()
        self.sizes = n_head, n_group, n_key
        self.q_proj = nn.Linear(n_embd, n_head * n_group * n_key)
        self.k_proj = nn.Linear(n_embd, n_head * n_key, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(n_key, eps=1e-6), nn.RMSNorm(n_key, eps=1e-6)
        self.k_base = nn.Parameter(torch.zeros(n_head, 1, n_base, n_key))
        self.b = nn.Parameter(torch.zeros(n_head, 1, n_group))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        n_head, n_group, n_key = self.sizes
        q = self.q_norm(self.q_proj(h).view(len(h), n_head, n_group, n_key)).permute(1, 0, 3, 2)
        k = self.k_norm(self.k_proj(h).view(len(h), n_head, 1, n_key)).transpose(0, 1)
        own = k @ q / n_key**0.5 + self.b[:, :, None]  # [head, token, 1, group]
        others = self.k_base @ q / n_key**0.5  # [head, token, base, group]
        return (1 / (1 + torch.exp(others - own).sum(2))).mean(-1).T


def hidden(n_embd: int) -> torch.Tensor:
    return torch.randn(50, n_embd, generator=generator(), dtype=torch.float64)


def assert_gives(path: Path, il: int, h: torch.Tensor, expected: torch.Tensor) -> None:
    found = gate_output(read_sidecar(path).gates, il, h.numpy())
    expected_array = expected.detach().numpy()
    assert found.shape == expected_array.shape and np.ptp(expected_array) > 0.1
    np.testing.assert_allclose(found, expected_array, rtol=TOLERANCE, atol=TOLERANCE)


def assert_verified(path: Path, model: Path, source: Path) -> None:
    """llama.cpp computes them too, on hidden states of the model."""
    text = DEFAULT_TEXT.read_text(encoding="utf-8")
    result = verify_sidecar(path, model, text, 100, source, n_threads=1, n_threads_batch=1)
    assert result.passed and result.is_static, result


# KVzap


def kvzap_config(n_ff: int | None, **changes: Any) -> dict[str, Any]:
    config = {
        "model_type": "kvzap", "input_dim": QWEN3.n_embd, "output_dim": QWEN3.n_head_kv, "hidden_dim": n_ff,
        "n_modules": QWEN3.n_layer, "architectures": ["KVzapModel"],
    }  # fmt: skip
    return {key: value for key, value in (config | changes).items() if value is not None}


def save_kvzap(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Path:
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prefix", ["", "module_list"])
@pytest.mark.parametrize("n_ff", [None, N_FF])
def test_kvzap(tmp_path: Path, tiny, n_ff: int | None, prefix: str, dtype: torch.dtype) -> None:
    module = randomised(KVzap(QWEN3.n_layer, QWEN3.n_embd, QWEN3.n_head_kv, n_ff)).to(dtype)
    tensors = module.state_dict()
    if prefix:
        tensors = {name.replace("layers", prefix): tensor for name, tensor in tensors.items()}
    source = save_kvzap(tmp_path / "c", tensors, kvzap_config(n_ff))
    out = tmp_path / "out.gguf"
    export = export_checkpoint(source, out, "f32", base=tiny.model("qwen3"))
    gates = export.sidecar.gates
    assert (export.checkpoint.kind, gates.variant, gates.score_kind) == ("kvzap", "rg" if n_ff else "linear", "static")
    assert gates.window == 128 and export.sidecar.info.architecture == "qwen3"
    h = hidden(QWEN3.n_embd)
    for il, layer in enumerate(module.double().layers):
        assert_gives(out, il, h, layer(h))
    assert_verified(out, tiny.model("qwen3"), source)


# Locret


def rotated_rows(weight: torch.Tensor, n_head: int) -> torch.Tensor:
    """The rows of q or k as GGUF has them in llama models: of each head, neighbours are a pair."""
    return weight.view(n_head, 2, len(weight) // n_head // 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def locret_base(folder: Path, arch: str) -> tuple[Path, TinyModel, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A model, and [Wq; Wk; Wv] and biases of its layers as transformers has them."""
    model = TINY_MODELS[arch]
    projections, changed = [], dict(tiny_tensors(model))
    for il in range(model.n_layer):
        names = ["qkv"] if model.qkv_fused else ["q", "k", "v"]
        parts = {name: torch.tensor(changed[f"blk.{il}.attn_{name}.weight"]) for name in names}
        biases = {
            name: torch.tensor(changed.get(f"blk.{il}.attn_{name}.bias", np.zeros(len(parts[name]), np.float32)))
            for name in names
        }
        projections.append((torch.cat([*parts.values()]), torch.cat([*biases.values()])))
        if arch == "llama":  # what is in `changed` counts as transformers' here, and the file gets the other order
            for name, n_head in (("q", model.n_head), ("k", model.n_head_kv)):
                changed[f"blk.{il}.attn_{name}.weight"] = rotated_rows(parts[name], n_head).numpy()
    path = write_tiny_model(folder / "base.gguf", model, tensors=changed.items())
    return path, model, projections


def locret_heads(model: TinyModel, n_out: int) -> dict[str, torch.Tensor]:
    source, tensors = generator(), {}
    for il in range(model.n_layer):
        name = f"model.layers.{il}.self_attn"
        tensors[f"{name}.fc1.weight"] = torch.randn(N_FF, n_out, generator=source) / n_out**0.5
        tensors[f"{name}.fc2.weight"] = torch.randn(model.n_head_kv, N_FF, generator=source) / N_FF**0.5
    return tensors


def save_torch(folder: Path, tensors: Any, name: str) -> Path:
    folder.mkdir()
    torch.save(tensors, folder / name)
    return folder


@pytest.mark.parametrize("arch", ["llama", "phi3", "qwen2"])
def test_locret(tmp_path: Path, arch: str) -> None:
    base, model, projections = locret_base(tmp_path, arch)
    n_out = len(projections[0][0])
    heads = locret_heads(model, n_out)
    others = {"model.layers.0.self_attn.q_proj.weight": torch.ones(3, 5)}  # a whole model was saved
    source = save_torch(tmp_path / "c", heads | others, "heads.bin")
    out = tmp_path / "out.gguf"
    export = export_checkpoint(source, out, "f32", base=base)
    gates = export.sidecar.gates
    assert (export.checkpoint.kind, gates.variant, gates.activation, gates.window) == ("locret", "rg", "silu", 2500)
    h = hidden(model.n_embd)
    for il, (weight, bias) in enumerate(projections):
        fc1, fc2 = (heads[f"model.layers.{il}.self_attn.{part}.weight"].double() for part in ("fc1", "fc2"))
        qkv = F.linear(h, weight.double(), bias.double())
        assert_gives(out, il, h, F.linear(F.silu(F.linear(qkv, fc1)), fc2))
    assert_verified(out, base, source)


# Fast KVzip


def fast_kvzip(model: TinyModel = QWEN3, n_layer: int | None = None) -> list[FastKVzip]:
    n_group = model.n_head // model.n_head_kv
    gates = [FastKVzip(model.n_embd, model.n_head_kv, n_group) for _ in range(n_layer or model.n_layer)]
    return [randomised(gate) for gate in gates]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_kvzip(tmp_path: Path, tiny, dtype: torch.dtype, protocol: int) -> None:
    modules = fast_kvzip()
    for module in modules:
        module.q_proj.to(dtype), module.k_proj.to(dtype)
    losses = np.random.default_rng(0).random((100, 36))  # the course of the training lies beside the gates
    saved = {"module": [module.state_dict() for module in modules], "loss": losses, "acc": losses}
    (tmp_path / "c").mkdir()
    source = tmp_path / "c" / "q4_dim16_sink16.pt"
    torch.save(saved, source, pickle_protocol=protocol)
    out = tmp_path / "out.gguf"
    export = export_checkpoint(source, out, "f32", base=tiny.model("qwen3"))
    gates = export.sidecar.gates
    assert (export.checkpoint.kind, gates.variant, gates.score_kind) == ("fast_kvzip", "fast_kvzip", "static")
    h = hidden(QWEN3.n_embd)
    for il, module in enumerate(modules):
        assert_gives(out, il, h, module.double()(h))
    assert_verified(out, tiny.model("qwen3"), source)


def test_fast_kvzip_of_a_model_with_sliding_windows(tmp_path: Path) -> None:
    """The list has the gates of the layers without a window alone: in Gemma 3, one in six."""
    model = TinyModel("gemma3", n_layer=12, n_embd=64, n_head=4, n_head_kv=2, qk_norm="head", post_norm=True)
    base = write_tiny_model(tmp_path / "base.gguf", model)
    modules = fast_kvzip(model, n_layer=2)
    source = save_torch(tmp_path / "c", {"module": [module.state_dict() for module in modules]}, "gates.pt")
    gates = export_checkpoint(source, tmp_path / "out.gguf", "f32", base=base).sidecar.gates
    assert (gates.layer_indices, gates.n_layer, gates.heads) == ((5, 11), 12, (2, 2))
    h = hidden(model.n_embd)
    for il, module in zip((5, 11), modules):
        assert_gives(tmp_path / "out.gguf", il, h, module.double()(h))


# what is wrong


def without(name: str) -> Callable[[dict], None]:
    return lambda tensors: tensors.pop(name)


def replaced_by(name: str, tensor: torch.Tensor) -> Callable[[dict], None]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("changes", "change", "message"),
    [
        ({"input_dim": None}, None, "'input_dim' is None; it must be a whole number"),
        ({"output_dim": 0}, None, "'output_dim' is 0"),
        ({"hidden_dim": "wide"}, None, "'hidden_dim' is 'wide'"),
        ({"n_modules": 10**9}, None, "'n_modules' is 1000000000"),
        ({"n_modules": 3}, None, "tensor 'layers.2.0.weight' is missing"),
        ({"n_modules": 1}, None, "has no place in KVzap's gates of 1 layers"),
        ({"input_dim": 64}, None, "has shape [32, 128], expected [32, 64]"),
        ({"hidden_dim": None}, None, "tensor 'layers.0.weight' is missing"),
        ({}, without("layers.1.2.bias"), "tensor 'layers.1.2.bias' is missing"),
        ({}, replaced_by("layers.1.2.bias", torch.full((1,), torch.nan)), "numbers that are not finite"),
        ({}, replaced_by("other.1.2.bias", torch.zeros(1)), "has no place"),
        ({}, replaced_by("other.layers.1.2.bias", torch.zeros(1)), "more than one"),
    ],
)
def test_a_wrong_kvzap(tmp_path: Path, tiny, changes: dict, change: Callable | None, message: str) -> None:
    tensors = dict(randomised(KVzap(QWEN3.n_layer, QWEN3.n_embd, QWEN3.n_head_kv, N_FF)).state_dict())
    if change is not None:
        change(tensors)
    source = save_kvzap(tmp_path / "c", tensors, kvzap_config(N_FF, **changes))
    assert_refused(tmp_path, source, tiny.model("qwen3"), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("model.layers.1.self_attn.fc2.weight"), "tensor 'model.layers.1.self_attn.fc2.weight' is missing"),
        (replaced_by("model.layers.1.self_attn.fc1.weight", torch.zeros(N_FF, 7)), "has shape [32, 7], expected [32, "),
        (replaced_by("model.layers.9.self_attn.fc1.weight", torch.zeros(N_FF, 7)), "has no place in Locret's gates"),
        (replaced_by("layers.0.self_attn.fc1.weight", torch.zeros(N_FF, 7)), "gates of two models"),
        (without("model.layers.0.self_attn.fc1.weight"), "'model.layers.0.self_attn.fc1.weight' is missing"),
    ],
)
def test_a_wrong_locret(tmp_path: Path, change: Callable, message: str) -> None:
    base, model, projections = locret_base(tmp_path, "llama")
    heads = locret_heads(model, len(projections[0][0]))
    change(heads)
    assert_refused(tmp_path, save_torch(tmp_path / "c", heads, "heads.bin"), base, message)


def test_locret_needs_a_base_whose_queries_are_known(tmp_path: Path, tiny) -> None:
    source = save_torch(tmp_path / "c", locret_heads(QWEN3, 384), "heads.bin")
    assert_refused(tmp_path, source, None, "name the model that computes them with --base")
    assert_refused(tmp_path, source, tiny.model("stablelm"), "of stablelm models are not known")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda module: module[1].pop("b"), "tensor 'module.1.b' is missing"),
        (lambda module: module[1].update(b=torch.zeros(1, 1, 3)), "tensor 'module.1.b' has shape [1, 1, 3]"),
        (lambda module: module[0].update(k_base=torch.zeros(1, 16, 16)), "not of 4 dimensions"),
        (lambda module: module[0].update(more=torch.zeros(1)), "'module.0.more' has no place"),
        (lambda module: module.pop(), "have 1 as layers"),
        (lambda module: module.extend([module[0]] * 1100), "more than any model has"),
    ],
)
def test_a_wrong_fast_kvzip(tmp_path: Path, tiny, change: Callable, message: str) -> None:
    module = [dict(gate.state_dict()) for gate in fast_kvzip()]
    change(module)
    source = save_torch(tmp_path / "c", {"module": module}, "gates.pt")
    assert_refused(tmp_path, source, tiny.model("qwen3"), message)


def test_an_unknown_kind(tmp_path: Path, tiny) -> None:
    source = save_torch(tmp_path / "c", {"scorer.weight": torch.ones(2, 3)}, "gates.pt")
    assert_refused(
        tmp_path, source, tiny.model("qwen3"), "no gates of a kind that is known (trimkv, kvzap, locret, fast"
    )


def test_what_does_not_say_its_model(tmp_path: Path) -> None:
    module = KVzap(QWEN3.n_layer, QWEN3.n_embd, QWEN3.n_head_kv, None)
    source = save_kvzap(tmp_path / "c", module.state_dict(), kvzap_config(None))
    assert_refused(tmp_path, source, None, "does not say which model it is for; name the base model with --base")
    (source / "config.json").unlink()
    assert_refused(tmp_path, source, None, "config.json: not there")


def test_gates_of_the_wrong_shape(tmp_path: Path, tiny) -> None:
    module = KVzap(QWEN3.n_layer, 64, QWEN3.n_head_kv, None)
    source = save_kvzap(tmp_path / "c", module.state_dict(), kvzap_config(None, input_dim=64))
    assert_refused(tmp_path, source, tiny.model("qwen3"), "its gates have 64 as an embedding length")
    module = KVzap(QWEN3.n_layer, QWEN3.n_embd, 2, None)
    source = save_kvzap(tmp_path / "d", module.state_dict(), kvzap_config(None, output_dim=2))
    assert_refused(tmp_path, source, tiny.model("qwen3"), "its gates have 2 as KV heads of layer 0")


@pytest.mark.parametrize("nested", [{"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}, {"a": [[[[[[1]]]]]]}])
def test_deep_containers_are_refused(tmp_path: Path, nested: Any) -> None:
    source = save_torch(tmp_path / "c", nested, "gates.pt")
    with pytest.raises(RetainError, match="deeper than 4"):
        read_checkpoint(source)


def test_containers_that_hold_themselves_are_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.extend([endless] * 2000)
    source = save_torch(tmp_path / "c", {"module": endless}, "gates.pt")
    with pytest.raises(RetainError, match="deeper than 4|more than 1,048,576 things"):
        read_checkpoint(source)


def assert_refused(folder: Path, source: Path, base: Path | None, message: str) -> None:
    """One line that names the file, and nothing written."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(RetainError) as caught:
        export_checkpoint(source, folder / "out.gguf", base=base)
    text = str(caught.value)
    assert message in text and "\n" not in text and len(text) < 600, text
    assert sorted(folder.rglob("*")) == before
