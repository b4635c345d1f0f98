"""Exporting gates: what is wrong with a checkpoint, a base model or the disk is one line, and nothing is written."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import TinyFiles
from retain_local.errors import RetainError
from retain_local.gates.checkpoint.layout import CheckpointError
from retain_local.gates.checkpoint.read import read_checkpoint
from retain_local.gates.export import export_checkpoint
from support.checkpoints import GatedModel, config_for, save_checkpoint
from support.command_line import COMMAND, TIMEOUT_S, environment, run
from support.tiny_models import TINY_MODELS, TinyModel, write_tiny_model

MODEL = TINY_MODELS["qwen3"]

# what is wrong: a change to (config, tensors), and what the message says

GATE = "model.layers.1.self_attn.retention_gate."


def _config(**changes: Any) -> Callable[[dict, dict], None]:
    return lambda config, tensors: config.update(changes)


def _tensor(part: str, change: Callable[[Any], Any]) -> Callable[[dict, dict], None]:
    def apply(config: dict, tensors: dict) -> None:
        tensors[GATE + part] = change(tensors.get(GATE + part))

    return apply


def _rename(old: str, new: str) -> Callable[[dict, dict], None]:
    return lambda config, tensors: tensors.update({new: tensors.pop(old)})


def _spoiled(value: float) -> Callable[[Any], Any]:
    def spoil(tensor: Any) -> Any:
        tensor = tensor.clone()
        tensor.flatten()[3] = value
        return tensor

    return spoil


WRONG = [
    (_config(retention_gate="rg3"), "'retention_gate' is 'rg3', which is not one of rg10, rg"),
    (_config(retention_gate=None), "'retention_gate' is missing"),
    (_config(retention_gate="rg"), "'model.layers.0.self_attn.retention_gate.linear2.bias' has no place"),
    (_config(retention_gate_intermediate_size=None), "'retention_gate_intermediate_size' is missing"),
    (_config(retention_gate_intermediate_size=32), "has shape [64, 128], config.json says [32, 128]"),
    (_config(hidden_size=64), "has shape [64, 128], config.json says [64, 64]"),
    (_config(hidden_size=2**40), "'hidden_size' is 1099511627776"),
    (_config(hidden_size="128"), "'hidden_size' is '128'"),
    (_config(num_hidden_layers=3), "'model.layers.2.self_attn.retention_gate.linear1.weight' is missing"),
    (_config(num_hidden_layers=1), "has no place in gates of variant rg10 for 1 layers"),
    (_config(num_hidden_layers=True), "'num_hidden_layers' is True"),
    (_config(num_key_value_heads=4), "config.json says [4, 64]"),
    (_config(num_key_value_heads=None), "config.json says [4, 64]"),  # as many as query heads
    (_config(hidden_act="tanh"), "'hidden_act' is 'tanh', not one of"),
    (_config(hidden_act=["silu"]), "'hidden_act' is ['silu']"),
    (_config(memory_size=-1), "'memory_size' is -1"),
    (_config(tie_retention_gate_layers="yes"), "'tie_retention_gate_layers' is 'yes'"),
    (_config(model_type="mamba3"), "'mamba3' has no GGUF architecture in our table; name the base model with --base"),
    (_rename(GATE + "linear2.weight", "x"), f"'{GATE}linear2.weight' is missing"),
    (_rename(GATE + "linear3.weight", "x"), f"'{GATE}linear3.weight' is missing"),
    (_rename(GATE + "bias", GATE + "linear3.bias"), f"'{GATE}linear3.bias' has no place"),
    (_tensor("input_norm.weight", lambda _: torch.ones(128)), f"'{GATE}input_norm.weight' has no place"),
    (_rename(GATE + "bias", "model.retention_gate.bias"), "'model.retention_gate.bias' has no place"),
    (_rename(GATE + "bias", GATE.replace("model", "other") + "bias"), "gates of two models"),
    (_rename(GATE + "bias", GATE.replace("1", "01") + "bias"), "layers.01.self_attn.retention_gate.bias' has no place"),
    (_tensor("linear1.weight", lambda t: t.T.contiguous()), "has shape [128, 64]"),
    (_tensor("linear1.weight", lambda t: t[None]), "has shape [1, 64, 128]"),
    (_tensor("linear1.weight", _spoiled(float("nan"))), f"'{GATE}linear1.weight' has numbers that are not finite"),
    (_tensor("linear2.bias", _spoiled(float("inf"))), f"'{GATE}linear2.bias' has numbers that are not finite"),
    (_tensor("linear2.bias", lambda t: t.double().fill_(1e300)), f"'{GATE}linear2.bias' has numbers that are not"),
    (_tensor("linear2.bias", lambda t: t.long()), "numbers of int64, not one of"),
    (lambda config, tensors: tensors.clear() or tensors.update(x=torch.ones(2)), "no retention gates"),
]  # fmt: skip


@pytest.mark.parametrize("format", ["torch", "safetensors"])
@pytest.mark.parametrize("change, message", WRONG, ids=[message[:50] for _, message in WRONG])
def test_a_wrong_checkpoint_makes_nothing(
    tmp_path: Path, change: Callable[[dict, dict], None], message: str, format: str
) -> None:
    config, tensors = config_for(MODEL), dict(GatedModel(MODEL).state_dict())
    change(config, tensors)
    config = {key: value for key, value in config.items() if value is not None}
    source = save_checkpoint(tmp_path / "c", tensors, config, format)
    with pytest.raises(RetainError) as caught:
        export_checkpoint(source, tmp_path / "out.gguf")
    text = str(caught.value)
    assert message in text and str(source) in text and "\n" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_layer_is_named_in_one_way_alone(tmp_path: Path) -> None:
    tensors = dict(GatedModel(MODEL).state_dict())
    renamed = {name.replace("layers.1.", "layers.01."): tensor for name, tensor in tensors.items()}
    source = save_checkpoint(tmp_path / "c", renamed, config_for(MODEL), "torch")
    with pytest.raises(CheckpointError, match="has no place in gates"):
        read_checkpoint(source)


def test_texts_that_utf_8_cannot_write_do_not_stop_an_export(tmp_path: Path) -> None:
    config = config_for(MODEL) | {"base_model": "half \ud83d", "license": "\udc80"}
    source = save_checkpoint(tmp_path / "c\udcff", GatedModel(MODEL), config, "torch")
    named = source / "weights\udcff.pth"
    (source / "trimkv_weights.pth").rename(named)
    info = export_checkpoint(named, tmp_path / "out.gguf").sidecar.info
    assert (info.source, info.base_name, info.license) == ("weights?.pth", "half ?", "?")


def test_one_tensor_for_every_layer_does_not_fill_the_memory(tmp_path: Path) -> None:
    model = TinyModel("qwen3", n_layer=200, n_embd=128, n_head=2, n_head_kv=1)
    one = GatedModel(MODEL).state_dict()
    tensors = {
        f"model.layers.{il}.self_attn.retention_gate.{part}": one[f"model.layers.0.self_attn.retention_gate.{part}"]
        for il in range(200)
        for part in ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias", "linear3.weight", "bias")
    }
    flat = torch.zeros(128 * 64 + 200)
    for il in range(200):  # windows of one storage, each a little further
        tensors[f"model.layers.{il}.self_attn.retention_gate.linear1.weight"] = flat[il : il + 128 * 64].view(64, 128)
    source = save_checkpoint(tmp_path / "c", tensors, config_for(model), "torch")
    with pytest.raises(CheckpointError, match="more numbers than it holds"):
        read_checkpoint(source)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "c", GatedModel(MODEL), config_for(MODEL), "torch")


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["c", "out.gguf", "--outtype", "q4_0"], 2, "outtype 'q4_0' is not one of f32, f16, q8_0"),
        (["c", "out.gguf", "--revision", "main"], 2, "a revision is of a repository on the Hub, and c is none"),
        (["absent", "out.gguf"], 1, "absent: no such file or folder"),
        (["absent/x.pth", "out.gguf"], 1, "absent/x.pth: no such file or folder"),
        (["c/config.json", "out.gguf"], 1, "not a checkpoint by its name"),
        (["empty", "out.gguf"], 1, "found none"),
        (["two", "out.gguf"], 1, "found more than one (a.pth, b.pth); name the file"),
        (["two/a.pth", "out.gguf"], 1, "two/config.json: not there"),
        (["c", "there.gguf"], 1, "there.gguf is there already; --force replaces it"),
        (["c", "there.gguf", "--base", "there.gguf", "--force"], 2, "there.gguf is the base model"),
        (["c", "absent/out.gguf"], 2, "absent/out.gguf cannot be written: its folder is missing"),
        (["c", "empty"], 2, "empty cannot be written: it is a folder"),
        (["c", "out.gguf", "--base", "absent.gguf"], 1, "absent.gguf: no such file"),
        (["c", "out.gguf", "--base", ""], 2, "the model's name is empty"),
        (["c", "out.gguf", "--base", "LLAMA"], 1, "as layers"),
        (["c", "out.gguf", "--base", "there.gguf"], 1, "not a GGUF file"),
        (["c", "out.gguf", "--base", "TWIN"], 1, "is for another model: qwen3, and"),
        (["c"], 2, "Missing argument 'OUT'"),
    ],
)
def test_mistakes(
    tmp_path: Path, tiny: TinyFiles, source: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.pth", "b.pth"):
        shutil.copy(source / "trimkv_weights.pth", tmp_path / "two" / name)
    (tmp_path / "there.gguf").write_bytes(b"something")
    twin = write_tiny_model(tmp_path / "twin.model", TinyModel("llama", n_layer=2, n_embd=128, n_head=4, n_head_kv=1))
    files = {"LLAMA": tiny.model("llama"), "TWIN": twin}
    before = sorted(tmp_path.rglob("*"))
    done = run(tmp_path, "gates", "export", *(files.get(argument, argument) for argument in arguments))
    assert done.returncode == status, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.gguf").read_bytes() == b"something"


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "[" * 100_000, '{"a": NaN', "\x00"])
def test_a_config_that_is_none(tmp_path: Path, source: Path, text: str) -> None:
    (source / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="config.json: not a JSON"):
        read_checkpoint(source)


def assert_no_room(home: Path, folder: Path, **options: Any) -> None:
    """The export fails in one line, and leaves nothing."""
    done = subprocess.run(
        [*COMMAND, "gates", "export", str(home / "c"), str(folder / "out.gguf")],
        cwd=home, env=environment(home), capture_output=True, text=True, timeout=TIMEOUT_S, **options,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "out.gguf cannot be written: " in done.stderr, done.stderr
    reasons = ("No space left on device", "File too large", "is the disk full?")
    assert any(reason in done.stderr for reason in reasons), done.stderr
    assert list(folder.iterdir()) == []


def test_a_limit_on_files(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out").mkdir()
    n_bytes = export_checkpoint(source, tmp_path / "whole.gguf").sidecar.n_bytes
    for limit in (100, 1_000, n_bytes // 2, n_bytes - 1):

        def limited(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        assert_no_room(tmp_path, tmp_path / "out", preexec_fn=limited)


def test_a_full_disk(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        assert_no_room(tmp_path, folder)
    finally:
        subprocess.run(["umount", folder], check=True)
