"""Training gates from a folder to a sidecar: what is written, going on after a kill, what is refused."""

from __future__ import annotations

import datetime
import json
from contextlib import closing
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from retain_local import Llama
from retain_local.errors import RetainError, UsageError
from retain_local.gates.checkpoint.read import read_checkpoint
from retain_local.gates.sidecar.file import read_sidecar
from retain_local.gates.sidecar.forward import gate_output
from retain_local.gates.train import trainer
from retain_local.gates.train.base import BaseModel
from retain_local.gates.train.memory import activations_fit
from retain_local.gates.train.modules import RetentionGates
from retain_local.gates.train.options import TrainOptions
from retain_local.gates.train.rows import Batch
from retain_local.gates.train.trainer import learning_rate
from retain_local.gates.train.training import train_gates
from retain_local.gates.verify import verify_sidecar
from support.gguf_file import write_parts
from support.tiny_bases import FAMILIES, PARTLY_FULL, save_base, tiny_base
from support.tiny_models import TINY_MODELS
from support.torch_qwen3 import load_qwen3

TEXT = "The cache holds what the gates let it hold. What fades is gone, and what stays is read again and again. " * 6
OPTIONS = TrainOptions(
    gate_size=32, start_bias=3.0, budget=8, context=64, batch=2, steps=6, learning_rate=3e-3, device="cpu", dtype="f32"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, the twin of a tiny GGUF, and a text."""
    folder = tmp_path_factory.mktemp("train")
    save_base(folder / "base", load_qwen3(TINY_MODELS["qwen3"]))
    (folder / "text.txt").write_text(TEXT)
    return folder


def train(folder: Path, out: Path, options: TrainOptions = OPTIONS, **more):
    return train_gates(str(folder / "base"), out, [str(folder / "text.txt")], options, **more)


@pytest.mark.parametrize("variant, tied", [("rg10", True), ("rg10", False), ("rg", False)])
def test_llama_cpp_gives_the_log_beta_of_training(tiny, folder: Path, tmp_path: Path, variant: str, tied: bool) -> None:
    options = TrainOptions(**{**OPTIONS.as_dict(), "variant": variant, "tied": tied, "start_bias": None})
    base_gguf = tiny.model("qwen3")
    export = train(folder, tmp_path, options, base_gguf=base_gguf, weight_type="f32")
    assert export.path == tmp_path / "qwen3.gates.gguf"
    info = read_sidecar(export.path).info
    assert (info.trained_budget, info.trained_context_length) == (8, 64) and info.base_fingerprint
    assert info.trained_on == "text.txt" and info.date == datetime.date.today().isoformat()
    gates = read_sidecar(export.path).gates
    assert (gates.variant, gates.tied, gates.n_ff) == (variant, tied, 32)
    assert not np.array_equal(gates.final(0).bias, [options.bias] * 2)  # something was learned
    assert verify_sidecar(export.path, base_gguf, TEXT, 48, checkpoint=tmp_path).passed

    # beta is next to 1 with the bias that training starts from, so the student's hidden states are the full cache's
    tokens = list(range(270, 310))
    load = {"type_k": "f32", "type_v": "f32", "n_ctx": 64, "verbose": False}
    with closing(Llama(base_gguf, budget=64, gates=export.path, **load)) as llm:
        llm.eval(tokens)
        native = np.array([
            [llm.retention.log_beta(il, head) for head in range(llm.retention.heads(il))] for il in range(TINY_MODELS["qwen3"].n_layer)
        ])  # fmt: skip
    base = BaseModel(load_sdpa(folder))
    module = load_gates(tmp_path, base, options)
    ids = torch.tensor(tokens)[None]
    with torch.no_grad():
        _, log_betas = base.hidden(ids, torch.arange(len(tokens))[None], torch.zeros_like(ids), module)
    found = torch.stack([log_beta[0].T for log_beta in log_betas]).numpy()
    np.testing.assert_allclose(native, found, rtol=2e-3)


def load_sdpa(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)


def load_gates(out: Path, base: BaseModel, options: TrainOptions, activation: str = "silu"):
    gates = read_checkpoint(out).gates
    module = RetentionGates(
        base.n_layer, base.n_embd, base.n_head_kv, options.gate_size, options.variant, options.is_tied, activation, 0.0
    )
    groups = [(module.hidden, [layer.hidden for layer in gates.layers]), (module.mid, [g.mid for g in gates.layers])]
    groups.append((module.score, [gates.final(il) for il in range(len(module.score))]))
    with torch.no_grad():
        for modules, linears in groups:
            for linear, arrays in zip(modules, linears):
                linear.weight.copy_(torch.from_numpy(arrays.weight))
                linear.bias.copy_(torch.from_numpy(arrays.bias))
    return module


def test_the_same_seed_gives_the_same_gates(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(folder, tmp_path / name, TrainOptions(**{**OPTIONS.as_dict(), "seed": seed}))
    a, b, c = ((tmp_path / name / "gates.safetensors").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("killed_at", [1, 4])
def test_a_killed_run_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path, killed_at: int) -> None:
    train(folder, tmp_path / "whole")

    def kill(progress) -> None:
        if progress.step == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "parts", on_step=kill)
    assert not (tmp_path / "parts" / "gates.safetensors").exists()
    steps: list[int] = []
    prepared = []
    train(folder, tmp_path / "parts", on_start=prepared.append, on_step=lambda progress: steps.append(progress.step))
    assert prepared[0].step == killed_at and steps == list(range(killed_at + 1, 7))
    for name in ("gates.safetensors", "losses.jsonl", "config.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "parts" / "training.pt").exists()


def test_gates_learn_to_fit_the_budget(folder: Path, tmp_path: Path) -> None:
    options = TrainOptions(**{**OPTIONS.as_dict(), "steps": 40, "learning_rate": 1e-2})
    train(folder, tmp_path, options)
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[-1]["capacity"] < 0.5 * lines[0]["capacity"] and lines[-1]["cells"] < 0.6 * lines[0]["cells"]
    free = TrainOptions(**{**options.as_dict(), "capacity_weight": 0.0})
    train(folder, tmp_path / "free", free)
    last = json.loads((tmp_path / "free" / "losses.jsonl").read_text().splitlines()[-1])
    assert last["cells"] > lines[-1]["cells"] + 0.2  # without the capacity loss nothing asks for room


def test_learning_rate() -> None:
    options = TrainOptions(steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(step, options) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(1.0) and rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001 and all(a >= b for a, b in zip(rates[10:], rates[11:]))


def test_refusals(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "out", on_step=stop)
    with pytest.raises(RetainError, match="other settings .*budget.*learning_rate"):
        train(folder, tmp_path / "out", TrainOptions(**{**OPTIONS.as_dict(), "budget": 9, "learning_rate": 1e-4}))
    state = tmp_path / "out" / "training.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(RetainError, match="training.pt is damaged"):
        train(folder, tmp_path / "out")
    state.unlink()
    train(folder, tmp_path / "out")
    with pytest.raises(RetainError, match="holds trained gates already"):
        train(folder, tmp_path / "out")
    with pytest.raises(RetainError, match="no base model could be loaded"):
        train_gates(str(tmp_path / "absent"), tmp_path / "x", [str(folder / "text.txt")], OPTIONS)
    assert not (tmp_path / "x").exists()


def test_a_full_disk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state that was written before stays."""

    def stop(progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "out", on_step=stop)
    state = tmp_path / "out" / "training.pt"
    before = state.read_bytes()

    def full(*_, **__) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(RetainError, match="is the disk full"):
            train(folder, tmp_path / "out")
    assert state.read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["losses.jsonl", "training.pt"]


def test_the_model_is_checked_before_the_training(tiny, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="is for another model"):
        train(folder, tmp_path / "out", base_gguf=tiny.model("llama"))
    assert not (tmp_path / "out").exists()


def test_a_sidecar_is_named_as_it_is_looked_for(tiny, folder: Path, tmp_path: Path) -> None:
    first, _ = write_parts(tmp_path, "m", tiny.model("qwen3"))
    options = TrainOptions(**{**OPTIONS.as_dict(), "steps": 1})
    assert train(folder, tmp_path / "out", options, base_gguf=first).path.name == "m.gates.gguf"


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"variant": "x"}, "variant 'x' is not one of"),
        ({"budget": 64}, "never bites"),
        ({"gate_size": 33}, "multiple of 32"),
        ({"learning_rate": 0.0}, "lr is 0.0"),
        ({"kl_weight": 0.0, "ce_weight": 0.0}, "not both 0"),
        ({"steps": 0}, "steps is 0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
    ],
)
def test_wrong_options(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainOptions(**{**OPTIONS.as_dict(), **wrong})


@pytest.mark.parametrize("free, fits", [(3001, True), (2400, False)])
def test_activations_are_kept_where_they_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
) -> None:
    """One row is measured, here 1,200 bytes of a GPU that is made up, and two rows may take four fifths of what is free."""
    used = {"memory_allocated": 300, "max_memory_allocated": 1500}
    for name, number in used.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, number=number: number)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10000))
    base = BaseModel(load_sdpa(folder))
    gates = RetentionGates(len(base.gated_layers), base.n_embd, base.n_head_kv, 32, "rg10", True, "silu", 3.0)
    at = torch.arange(64).expand(2, 64)
    batch = Batch(at + 260, at, torch.zeros_like(at), at > 0)
    assert activations_fit(base, gates, batch, OPTIONS) == fits
    assert all(parameter.grad is None for parameter in gates.parameters())


def test_memory_that_is_too_small(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(*_) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "gate_losses", overflow)
    with pytest.raises(RetainError, match="memory is too small for 2 rows of 64 tokens; halve --batch"):
        train(folder, tmp_path / "out")


@pytest.mark.parametrize("name, kind", [("gelu", "gelu_erf"), ("gelu_pytorch_tanh", "gelu"), ("relu", "relu")])
def test_gates_have_the_activation_of_the_model(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    """By its name in transformers; the exact GELU and its tanh form differ by more than what is allowed here."""
    config = deepcopy(FAMILIES["llama"])
    config.hidden_act = name
    save_base(tmp_path / "base", tiny_base(config))
    export = train_gates(
        str(tmp_path / "base"), tmp_path / "out", [str(folder / "text.txt")], OPTIONS, weight_type="f32"
    )
    gates = read_sidecar(export.path).gates
    assert gates.activation == kind
    module = load_gates(tmp_path / "out", BaseModel(tiny_base(config)), OPTIONS, kind)
    h = 2 * torch.randn(1, 50, gates.n_embd, generator=torch.Generator().manual_seed(1))
    for il in range(gates.n_layer):
        with torch.no_grad():
            expected = module(il, h)[0].numpy()
        np.testing.assert_allclose(gate_output(gates, il, h[0].numpy()), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", ["gemma3", "qwen3-next"])
def test_gates_on_some_layers(folder: Path, tmp_path: Path, family: str) -> None:
    """A base in which one layer has full attention: checkpoint and sidecar hold its gate alone."""
    config, full_layers = PARTLY_FULL[family]
    save_base(tmp_path / "base", tiny_base(config))
    export = train_gates(str(tmp_path / "base"), tmp_path / "out", [str(folder / "text.txt")], OPTIONS)
    gates = read_sidecar(export.path).gates
    assert (gates.layer_indices, gates.n_layer, gates.heads) == (full_layers, 3, (2,))
    again = read_checkpoint(tmp_path / "out").gates
    assert again.layer_indices == full_layers and again.n_layer == 3
    np.testing.assert_allclose(again.final(0).weight, gates.final(0).weight, atol=1e-3)  # the sidecar is in f16
    entries = json.loads((tmp_path / "out" / "config.json").read_text())
    entries["retention_gate_layers"] = [7]
    (tmp_path / "out" / "config.json").write_text(json.dumps(entries))
    with pytest.raises(RetainError, match="'retention_gate_layers' is .7.; it must be layers from 0 to 2"):
        read_checkpoint(tmp_path / "out")
