"""Exporting gates: every layout of a checkpoint gives the sidecar it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from conftest import TinyFiles
from retain_local.gates import base_fingerprint, read_sidecar
from retain_local.gates.checkpoint.architecture import _ARCHITECTURES, gguf_architecture
from retain_local.gates.checkpoint.files import open_files
from retain_local.gates.checkpoint.layout import CheckpointConfig, parse_gate_name, state_dict
from retain_local.gates.checkpoint.read import read_checkpoint
from retain_local.gates.checkpoint.trimkv import read_config
from retain_local.gates.export import export_checkpoint
from support.checkpoints import DTYPES, FORMATS, N_FF, GatedModel, assert_holds, config_for, nested, save_checkpoint
from support.command_line import TIMEOUT_S, environment, run
from support.tiny_gates import random_gates
from support.tiny_models import TINY_MODELS

MODEL = TINY_MODELS["qwen3"]
KINDS = [("rg10", True), ("rg10", False), ("rg", False)]
VL_PATH = "model.language_model"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("variant", "tied"), KINDS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_layout(tmp_path: Path, format: str, variant: str, tied: bool, dtype: str) -> None:
    gated = GatedModel(MODEL, variant, tied, dtype)
    source = save_checkpoint(tmp_path / "c", gated, config_for(MODEL, variant, tied), format)
    export = export_checkpoint(source, tmp_path / "out.gguf", "f32")
    assert_holds(tmp_path / "out.gguf", gated)
    gates = read_sidecar(tmp_path / "out.gguf").gates
    assert (gates.variant, gates.tied, gates.activation) == (variant, tied, "silu")
    assert any("differs from layer to layer" in remark for remark in export.remarks) == (variant == "rg10" and not tied)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("path", [VL_PATH, "language_model.model", "module.model"])
def test_other_prefixes(tmp_path: Path, path: str, format: str) -> None:
    gated = GatedModel(MODEL, path=path, dtype="bf16")
    config = nested(config_for(MODEL), "qwen2_5_vl")
    out = tmp_path / "out.gguf"
    export_checkpoint(save_checkpoint(tmp_path / "c", gated, config, format), out, "f32")
    assert_holds(out, gated)
    info = read_sidecar(out).info
    assert (info.architecture, info.base_name, info.trained_budget) == ("qwen2vl", "somebody/Tiny", 128)


@pytest.mark.parametrize("weight_type", ["f16", "q8_0"])
def test_weight_types(tmp_path: Path, weight_type: str) -> None:
    source = save_checkpoint(tmp_path / "c", GatedModel(MODEL), config_for(MODEL), "torch")
    export = export_checkpoint(source, tmp_path / "out.gguf", weight_type)
    assert set(export.sidecar.types.values()) == {"f32", weight_type}


def test_shared_tensors_that_were_stored_once(tmp_path: Path) -> None:
    gated = GatedModel(MODEL)
    state = gated.state_dict()
    for name in list(state):
        if parse_gate_name(name).layer > 0 and name.endswith(("linear3.weight", "retention_gate.bias")):
            del state[name]
    source = save_checkpoint(tmp_path / "c", dict(state), config_for(MODEL), "safetensors")
    export_checkpoint(source, tmp_path / "out.gguf", "f32")
    assert_holds(tmp_path / "out.gguf", gated)


@pytest.mark.parametrize("format", ["torch", "safetensors"])
def test_equal_copies_are_tied_whatever_the_config_says(tmp_path: Path, format: str) -> None:
    gated = GatedModel(MODEL)
    state = {name: tensor.clone() for name, tensor in gated.state_dict().items()}
    source = save_checkpoint(tmp_path / "c", state, config_for(MODEL, tied=False), format)
    assert export_checkpoint(source, tmp_path / "out.gguf", "f32").sidecar.gates.tied
    assert_holds(tmp_path / "out.gguf", gated)


def test_unequal_copies_are_kept_and_said(tmp_path: Path) -> None:
    gated = GatedModel(MODEL, tied=False)
    gated.gates[1].linear3 = gated.gates[0].linear3  # the bias alone differs
    source = save_checkpoint(tmp_path / "c", gated, config_for(MODEL, tied=True), "torch")
    done = run(tmp_path, "gates", "export", source, "out.gguf", "--outtype", "f32")
    assert done.returncode == 0 and "may not be on one scale" in done.stderr
    assert "final projection own per layer" in done.stdout
    assert_holds(tmp_path / "out.gguf", gated)


@pytest.mark.parametrize("name", ["trimkv_weights.pth", "gates.safetensors"])
def test_a_file_of_its_own_beside_tensors_of_the_base_model(tmp_path: Path, name: str) -> None:
    gated = GatedModel(MODEL)
    others = {"model.layers.0.self_attn.q_proj.weight": torch.ones(3, 5), "model.steps": torch.tensor([1, 2])}
    format = "torch" if name.endswith(".pth") else "safetensors"
    source = save_checkpoint(tmp_path / "c", {**others, **gated.state_dict()}, config_for(MODEL), format) / name
    moved = source.rename(source.with_name("renamed" + source.suffix))
    export_checkpoint(moved, tmp_path / "out.gguf", "f32")
    assert_holds(tmp_path / "out.gguf", gated)
    assert read_sidecar(tmp_path / "out.gguf").info.source == moved.name
    # a folder with this one file needs no known name
    export_checkpoint(moved.parent, tmp_path / "again.gguf", "f32")
    assert_holds(tmp_path / "again.gguf", gated)


def test_views_of_one_storage(tmp_path: Path) -> None:
    """Trainers that flatten all parameters save views; a transposed weight has strides of its own."""
    gated = GatedModel(MODEL)
    state = gated.state_dict()
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    views, at = {}, 0
    for name, tensor in state.items():
        views[name] = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    name = next(name for name in views if name.endswith("0.self_attn.retention_gate.linear1.weight"))
    views[name] = state[name].T.contiguous().T
    source = save_checkpoint(tmp_path / "c", views, config_for(MODEL), "torch")
    export_checkpoint(source, tmp_path / "out.gguf", "f32")
    assert_holds(tmp_path / "out.gguf", gated)


def test_the_base_model_is_checked_and_named(tmp_path: Path, tiny: TinyFiles) -> None:
    source = save_checkpoint(tmp_path / "c", GatedModel(MODEL), config_for(MODEL), "torch")
    (source / "README.md").write_text("---\nlicense: apache-2.0\ntags: [gates]\n---\n# Gates\n")
    done = run(tmp_path, "gates", "export", source, "m.gates.gguf", "--base", tiny.model("qwen3"))
    assert (done.returncode, done.stderr) == (0, "")
    info = read_sidecar(tmp_path / "m.gates.gguf").info
    assert info.architecture == "qwen3" and info.base_name == "tiny model"
    assert info.base_fingerprint == base_fingerprint(tiny.model("qwen3"))
    assert (info.trained_budget, info.trained_context_length) == (128, 32768)
    assert (info.source, info.license) == ("trimkv_weights.pth", "apache-2.0")
    for fact in ("m.gates.gguf", "rg10, final projection tied", "2 layers, 128 -> F 64 -> 1 KV heads", "f16"):
        assert fact in done.stdout


def test_what_the_trainer_writes_is_what_is_read(tmp_path: Path) -> None:
    for variant, tied in KINDS:
        gates = random_gates(MODEL.n_layer, MODEL.n_embd, MODEL.n_head_kv, variant, tied).checked()
        sizes = N_FF, MODEL.n_embd, MODEL.n_layer, MODEL.n_head_kv
        config = CheckpointConfig(variant, tied, *sizes, "silu", "qwen3", "b", trained_budget=64)
        tensors = {name: torch.tensor(array) for name, array in state_dict(gates).items()}
        source = save_checkpoint(tmp_path / f"{variant}-{tied}", tensors, config.to_dict(), "safetensors")
        assert read_config(open_files(source)) == config
        found = read_checkpoint(source)
        for (name, a), (other, b) in zip(found.gates.tensors(), gates.tensors(), strict=True):
            assert name == other
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "model_type, architecture",
    [
        ("qwen3", "qwen3"),
        ("phi3", "phi3"),
        ("qwen2_5_vl_text", "qwen2vl"),
        ("qwen3_vl_moe", "qwen3vlmoe"),
        ("llama", "llama"),
        ("TrimKVQwen3ForCausalLM", "qwen3"),
        ("Qwen2_5_VLForConditionalGeneration", "qwen2vl"),
        ("Qwen3VLTextModel", "qwen3vl"),
        ("llava", None),
        ("", None),
    ],
)
def test_architectures(model_type: str, architecture: str | None) -> None:
    assert gguf_architecture(model_type) == architecture
    assert set(_ARCHITECTURES.values()) <= set(gguf.MODEL_ARCH_NAMES.values())


def test_the_config_says_what_is_known(tmp_path: Path) -> None:
    config = config_for(MODEL, memory_size=0.25, max_seq_len=None, base_model=None, license="mit")
    source = save_checkpoint(tmp_path / "c", GatedModel(MODEL), config, "torch")
    export = export_checkpoint(source, tmp_path / "out.gguf")
    info = export.sidecar.info
    assert (info.trained_budget, info.trained_context_length, info.base_name, info.license) == (None, None, None, "mit")
    assert any("0.25 of the sequence" in remark for remark in export.remarks)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "c", GatedModel(MODEL), config_for(MODEL), "torch")


def test_force_replaces(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out.gguf").write_bytes(b"something")
    done = run(tmp_path, "gates", "export", source, "out.gguf", "--force")
    assert done.returncode == 0 and "neither tied to a vocabulary" in done.stderr
    assert read_sidecar(tmp_path / "out.gguf").gates.tied


@pytest.mark.parametrize(
    "front_matter",
    [
        "license: [",
        "license: " + "[" * 20_000,
        "a: " + "{b: " * 20_000,
        "date: 9999-99-99",
        "? [a]\n: b",
        "- 1\n- 2",
        "a: *b",
        "\x00",
    ],
    ids=range(8),
)
def test_a_readme_that_is_broken_is_no_reason_to_stop(tmp_path: Path, source: Path, front_matter: str) -> None:
    (source / "README.md").write_text(f"---\n{front_matter}\n---\n")
    assert export_checkpoint(source, tmp_path / "out.gguf").sidecar.info.license is None


@pytest.mark.parametrize("name", ["trimkv_weights.pth", "gates.safetensors"])
def test_torch_is_not_imported(tmp_path: Path, name: str) -> None:
    format = "torch" if name.endswith(".pth") else "safetensors"
    save_checkpoint(tmp_path / "c", GatedModel(MODEL, dtype="bf16"), config_for(MODEL), format)
    script = (
        "import sys\n"
        "sys.argv = ['retain-local', 'gates', 'export', 'c', 'out.gguf']\n"
        "from retain_local.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print({'torch', 'safetensors', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_neither_help_nor_an_export_needs_the_native_libraries(tmp_path: Path, source: Path) -> None:
    for command in ("export", "verify"):
        done = run(tmp_path, "gates", command, "--help", LLAMA_CPP_LIB_PATH=str(tmp_path))
        assert done.returncode == 0 and done.stderr == "" and "Example" in done.stdout
    assert run(tmp_path, "gates", "export", source, "o.gguf", LLAMA_CPP_LIB_PATH=str(tmp_path)).returncode == 0
