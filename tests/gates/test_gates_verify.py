"""Native gates against NumPy and PyTorch: what `gates verify` finds right is right, and what is wrong it finds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TinyFiles
from retain_local.bindings.capture import Capture
from retain_local.errors import RetainError
from retain_local.gates import GateSet, LayerGate, Linear, read_sidecar, write_sidecar
from retain_local.gates.checkpoint.layout import state_dict
from retain_local.gates.export import export_checkpoint
from retain_local.gates.verify import DEFAULT_TEXT, TOLERANCES, verify_sidecar
from retain_local.models.gguf_header import read_header
from support.checkpoints import GatedModel, config_for, save_checkpoint
from support.command_line import run
from support.llama_session import Model
from support.retained import RetainedSession
from support.tiny_gates import write_tiny_gates
from support.tiny_models import N_VOCAB, TINY_MODELS, write_tiny_model

KINDS = [("rg10", True), ("rg10", False), ("rg", False)]
SHAPE = TINY_MODELS["qwen3"]
TEXT = DEFAULT_TEXT.read_text(encoding="utf-8")
ONE_THREAD = {"n_threads": 1, "n_threads_batch": 1}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("variant", "tied"), KINDS)
def test_an_exported_sidecar_scores_as_its_checkpoint_in_torch(
    tmp_path: Path, tiny: TinyFiles, variant: str, tied: bool, dtype: str
) -> None:
    """log beta through llama.cpp, against the modules that the checkpoint was saved from."""
    gated = GatedModel(SHAPE, variant, tied, dtype)
    source = save_checkpoint(tmp_path / "c", gated, config_for(SHAPE, variant, tied), "torch")
    out = tmp_path / "out.gguf"
    export_checkpoint(source, out, "f32", base=tiny.model("qwen3"))

    capture = Capture({"retention_log_beta": SHAPE.n_head_kv, "attn_norm": SHAPE.n_embd})
    model = Model(tiny.model("qwen3"))
    with RetainedSession(model, {"budget": 64, "gates": out}, capture=capture, n_ubatch=32) as session:
        session.decode(np.random.default_rng(0).integers(3, N_VOCAB, 64).tolist())
    model.close()
    hidden = torch.tensor(capture.take("attn_norm", SHAPE.n_layer)).double()
    computed = capture.take("retention_log_beta", SHAPE.n_layer)
    with torch.no_grad():
        for il, gate in enumerate(gated.double().gates):
            expected = gate(hidden[il]).numpy()
            np.testing.assert_allclose(computed[il], expected, rtol=1e-4)
            assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("weight_type", TOLERANCES)
@pytest.mark.parametrize(("variant", "tied"), KINDS)
def test_right_sidecars_pass(tmp_path: Path, tiny: TinyFiles, variant: str, tied: bool, weight_type: str) -> None:
    gated = GatedModel(SHAPE, variant, tied, "bf16")
    source = save_checkpoint(tmp_path / "c", gated, config_for(SHAPE, variant, tied), "safetensors")
    out = tmp_path / "out.gguf"
    export_checkpoint(source, out, weight_type)
    for checkpoint in (None, source):
        result = verify_sidecar(out, tiny.model("qwen3"), TEXT, 150, checkpoint, **ONE_THREAD)
        assert result.passed and result.weight_type == weight_type and result.n_tokens == 150
        assert len(result.layers) == SHAPE.n_layer
        assert all(layer.difference > 0 for layer in result.layers)
        assert all(layer.lowest < layer.highest <= 0 for layer in result.layers)


@pytest.mark.parametrize("arch", TINY_MODELS)
def test_every_architecture(tiny: TinyFiles, arch: str) -> None:
    """Norms, post-norms and models without an input norm: the gates read what q, k and v read."""
    assert verify_sidecar(tiny.gates(arch), tiny.model(arch), TEXT, 140, **ONE_THREAD).passed


def biased(gates: GateSet, bias: float) -> GateSet:
    """Gates whose final bias is larger, as training starts them."""
    return replace(gates, score=Linear(gates.score.weight, gates.score.bias + bias))


def changed(gates: GateSet, il: int) -> GateSet:
    """Gates with a few numbers of one layer changed a little."""
    layer = gates.layers[il]
    weight = layer.hidden.weight.copy()
    weight[:4] *= 1.2
    layers = list(gates.layers)
    layers[il] = LayerGate(Linear(weight, layer.hidden.bias), layer.mid, layer.score)
    return replace(gates, layers=tuple(layers))


@pytest.mark.parametrize("bias", [0, 18, 60])
def test_a_small_change_is_found_however_close_beta_is_to_1(tmp_path: Path, tiny: TinyFiles, bias: float) -> None:
    """With a large bias every log beta is nearly 0, and so is every absolute difference."""
    right = biased(read_sidecar(tiny.gates("qwen3")).gates, bias)
    model = tiny.model("qwen3")
    tensors = {name: torch.tensor(array) for name, array in state_dict(right).items()}
    source = save_checkpoint(tmp_path / "c", tensors, config_for(SHAPE), "torch")
    path = write_tiny_gates(tmp_path / "right.gguf", model, SHAPE, right, "f16")
    assert verify_sidecar(path, model, TEXT, 100, source, **ONE_THREAD).passed
    wrong = write_tiny_gates(tmp_path / "wrong.gguf", model, SHAPE, changed(right, 1), "f16")
    result = verify_sidecar(wrong, model, TEXT, 100, source, **ONE_THREAD)
    assert not result.passed
    first, second = result.layers
    assert first.relative <= result.tolerance < second.relative
    assert verify_sidecar(wrong, model, TEXT, 100, **ONE_THREAD).passed  # it computes what it holds


def test_the_command(tmp_path: Path, tiny: TinyFiles) -> None:
    gates, model = tiny.gates("qwen3", weight_type="f16"), tiny.model("qwen3")
    (tmp_path / "book.txt").write_text("Once upon a time. " * 20)
    common = ["gates", "verify", gates, "--base", model, "--threads", "1"]
    done = run(tmp_path, *common)
    assert done.returncode == 0 and "the gates agree: over 256 tokens" in done.stdout, done.stderr
    assert "tolerance 0.02 for f16" in done.stdout
    done = run(tmp_path, *common, "--text", "book.txt", "--tokens", "33", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["passed"] and report["n_tokens"] == 33
    assert [layer["layer"] for layer in report["layers"]] == [0, 1]
    done = run(tmp_path, *common, "--tolerance", "0", "--text", "-", stdin="a few words")
    assert done.returncode == 1 and "do NOT agree" in done.stdout and "too large" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["GATES"], 2, "Missing option '--base'"),
        (["GATES", "--base", "MODEL", "--tokens", "0"], 2, "Invalid value for '--tokens'"),
        (["GATES", "--base", "MODEL", "--tolerance", "-1"], 2, "Invalid value for '--tolerance'"),
        (["absent.gguf", "--base", "MODEL"], 1, "absent.gguf: No such file"),
        (["MODEL", "--base", "MODEL"], 1, "not a gate sidecar"),
        (["GATES", "--base", "absent.gguf"], 1, "absent.gguf: no such file"),
        (["GATES", "--base", "GATES"], 1, "is a gate sidecar, not a model"),
        (["GATES", "--base", "LLAMA"], 1, "as layers"),
        (["GATES", "--base", "OTHER_ARCH"], 1, "qwen3"),
        (["GATES", "--base", "OTHER_VOCABULARY"], 1, "fingerprint"),
        (["GATES", "--base", "MODEL", "--checkpoint", "absent"], 1, "absent: no such file or folder"),
        (["GATES", "--base", "MODEL", "--checkpoint", "rg"], 1, "variant is rg, not rg10"),
        (["GATES", "--base", "MODEL", "--checkpoint", "wide"], 1, "n_embd is 256, not 128"),
        (["GATES", "--base", "MODEL", "--text", "absent.txt"], 1, "absent.txt cannot be read"),
        (["GATES", "--base", "MODEL", "--text", "latin1.txt"], 1, "not UTF-8 text"),
        (["GATES", "--base", "MODEL", "--text", "empty.txt"], 1, "the prompt is empty"),
    ],
)
def test_mistakes(tmp_path: Path, tiny: TinyFiles, arguments: list[str], status: int, message: str) -> None:
    (tmp_path / "latin1.txt").write_bytes(b"h\xe9llo")
    (tmp_path / "empty.txt").write_bytes(b"")
    save_checkpoint(tmp_path / "rg", GatedModel(SHAPE, "rg", False), config_for(SHAPE, "rg", False), "torch")
    wide = replace(SHAPE, n_embd=256)
    save_checkpoint(tmp_path / "wide", GatedModel(wide), config_for(wide), "torch")
    files = {
        "GATES": tiny.gates("qwen3"),
        "MODEL": tiny.model("qwen3"),
        "LLAMA": tiny.model("llama"),
        "OTHER_ARCH": write_tiny_model(tmp_path / "arch.gguf", replace(SHAPE, arch="llama", qk_norm=None)),
        "OTHER_VOCABULARY": write_tiny_model(tmp_path / "vocabulary.gguf", SHAPE, vocabulary_seed=1),
    }
    done = run(tmp_path, "gates", "verify", *(files.get(argument, argument) for argument in arguments))
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("policy ")]
    assert done.stdout == "" and len(lines) == 1 and message in lines[0], done.stderr


def test_a_text_that_the_vocabulary_cannot_express(tmp_path: Path, tiny: TinyFiles) -> None:
    """llama.cpp's tokenizer would end the process."""
    bare = tmp_path / "bare.gguf"
    bare.write_bytes(tiny.model("qwen3").read_bytes().replace(b"<0xE6>", b"<!xE6>"))
    gates = write_tiny_gates(tmp_path / "g.gguf", bare, SHAPE, read_sidecar(tiny.gates("qwen3")).gates)
    assert verify_sidecar(gates, bare, TEXT, 20, **ONE_THREAD).passed
    with pytest.raises(RetainError, match="cannot express the character '日'"):
        verify_sidecar(gates, bare, "日", 20, **ONE_THREAD)


def test_a_base_model_that_computes_no_numbers(tmp_path: Path, tiny: TinyFiles) -> None:
    data = bytearray(tiny.model("qwen3").read_bytes())
    norm = read_header(tiny.model("qwen3")).tensors["blk.1.attn_norm.weight"]
    data[norm.offset : norm.offset + 4] = b"\xff" * 4  # not a number
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data)
    gates = read_sidecar(tiny.gates("qwen3"))
    path = tmp_path / "g.gguf"
    write_sidecar(path, gates.gates, gates.info)
    with pytest.raises(RetainError, match="layer 1: log beta is not a number"):
        verify_sidecar(path, broken, TEXT, 20, **ONE_THREAD)


def test_ctrl_c_while_tensors_are_taken_is_no_other_error(tiny: TinyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(capture: Capture, tensor: int, ask: bool) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(Capture, "_look", press)
    with pytest.raises(KeyboardInterrupt):
        verify_sidecar(tiny.gates("llama"), tiny.model("llama"), DEFAULT_TEXT.read_text(), 40)
