"""Checkpoints of gates as the authors' code and our training write them, made with PyTorch itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from retain_local.gates import read_sidecar
from support.tiny_models import TinyModel

N_FF = 64
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# torch: a plain dict of views, as the authors save it; state_dict: with the attributes of a state dict
FORMATS = ("torch", "state_dict", "parameters", "protocol 4", "safetensors", "sharded")


class Gate(nn.Module):
    """The gate of one layer, with the names of the authors' modules."""

    def __init__(self, n_embd: int, n_head_kv: int, variant: str) -> None:
        super().__init__()
        self.linear1 = nn.Linear(n_embd, N_FF)
        self.linear2 = nn.Linear(N_FF, N_FF if variant == "rg10" else n_head_kv, bias=variant == "rg10")
        if variant == "rg10":
            self.linear3 = nn.Linear(N_FF, n_head_kv, bias=False)
        self.bias = nn.Parameter(torch.empty(n_head_kv))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.linear1(hidden))
        x = self.linear2(x)
        if hasattr(self, "linear3"):
            x = self.linear3(nn.functional.silu(x))
        return nn.functional.logsigmoid(x + self.bias)


class _Tree(nn.Module):
    """A module with given children."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class GatedModel(nn.Module):
    """What a checkpoint is the state dict of: gates at their place in a model, and nothing else of the model.

    Parameters
    ----------
    tied : one `linear3` and one `bias`, shared by all layers as the authors share them.
    path : of the module that has the layers.
    """

    def __init__(
        self,
        model: TinyModel,
        variant: str = "rg10",
        tied: bool = True,
        dtype: str = "fp32",
        path: str = "model",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.gates = [Gate(model.n_embd, model.n_head_kv, variant) for _ in range(model.n_layer)]
        generator = torch.Generator().manual_seed(seed)
        for gate in self.gates:
            for name, parameter in gate.named_parameters():
                if name == "bias":
                    parameter.data.normal_(0, 1, generator=generator)
                else:
                    gain = 1.5 / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 0.3
                    parameter.data.normal_(0, gain, generator=generator)
        if tied:
            for gate in self.gates[1:]:
                gate.linear3, gate.bias = self.gates[0].linear3, self.gates[0].bias
        tree: nn.Module = nn.ModuleList([_Tree(self_attn=_Tree(retention_gate=gate)) for gate in self.gates])
        for name in reversed([*path.split("."), "layers"]):
            tree = _Tree(**{name: tree})
        self.add_module(path.split(".")[0], tree.get_submodule(path.split(".")[0]))
        self.to(DTYPES[dtype])


def config_for(model: TinyModel, variant: str = "rg10", tied: bool = True, **changes: Any) -> dict[str, Any]:
    """The `config.json` of a checkpoint for a tiny model; a change to None leaves an entry out."""
    config = {
        "model_type": model.arch,
        "architectures": ["SomeForCausalLM"],
        "hidden_size": model.n_embd,
        "num_hidden_layers": model.n_layer,
        "num_attention_heads": model.n_head,
        "num_key_value_heads": model.n_head_kv,
        "hidden_act": "silu",
        "retention_gate": variant,
        "retention_gate_intermediate_size": N_FF,
        "retention_gate_bias_init": 18.0,
        "tie_retention_gate_layers": tied,
        "memory_size": 128,
        "max_seq_len": 32768,
        "base_model": "somebody/Tiny",
        **changes,
    }
    return {key: value for key, value in config.items() if value is not None}


def nested(config: dict[str, Any], model_type: str) -> dict[str, Any]:
    """The configuration of a vision-language model, whose language model and gates are in `text_config`."""
    outside = {key: config.pop(key) for key in ("memory_size", "base_model", "architectures") if key in config}
    text = {**config, "model_type": f"{model_type}_text"}
    return {**outside, "model_type": model_type, "text_config": text, "vision_config": {"hidden_size": 7}}


def save_checkpoint(folder: Path, tensors: nn.Module | dict[str, Any], config: dict[str, Any], format: str) -> Path:
    """Write a checkpoint in one of `FORMATS` into a folder, which is made."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    is_module = isinstance(tensors, nn.Module)
    state = tensors.state_dict() if is_module else tensors
    pth = folder / "trimkv_weights.pth"
    if format == "torch":
        torch.save(dict(state), pth)
    elif format == "state_dict":
        torch.save(state, pth)
    elif format == "parameters":
        torch.save({name: nn.Parameter(tensor) for name, tensor in state.items()}, pth)
    elif format == "protocol 4":
        torch.save(state, pth, pickle_protocol=4)
    elif format == "safetensors":
        save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "gates.safetensors")
    else:
        _save_shards(folder, state)
    return folder


def _save_shards(folder: Path, state: dict[str, torch.Tensor]) -> None:
    files = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    weight_map = {name: files[i % 2] for i, name in enumerate(state)}
    for file in files[:2]:
        save_file({name: state[name].clone() for name in weight_map if weight_map[name] == file}, folder / file)
    # the third part is of the base model, and not there: nothing in it is needed
    index = {"metadata": {}, "weight_map": {**weight_map, "model.embed_tokens.weight": files[2]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def expected_tensors(gated: GatedModel) -> dict[str, np.ndarray]:
    """What the sidecar must hold, by the names of sidecars, from the modules."""
    arrays: dict[str, np.ndarray] = {}
    gates = gated.gates
    is_tied = all(gate.bias is gates[0].bias for gate in gates) and len(gates) > 1
    for il, gate in enumerate(gates):
        has_mid = hasattr(gate, "linear3")
        final = gate.linear3 if has_mid else gate.linear2
        parts = {"in.weight": gate.linear1.weight, "in.bias": gate.linear1.bias}
        if has_mid:
            parts |= {"mid.weight": gate.linear2.weight, "mid.bias": gate.linear2.bias}
        arrays |= {f"blk.{il}.retention_{part}": array for part, array in parts.items()}
        prefix = "" if is_tied else f"blk.{il}."
        arrays |= {f"{prefix}retention_score.weight": final.weight, f"{prefix}retention_score.bias": gate.bias}
    return {name: tensor.detach().to(torch.float32).numpy() for name, tensor in arrays.items()}


def assert_holds(out: Path, gated: GatedModel) -> None:
    """A sidecar in f32 has exactly the numbers of a checkpoint."""
    found, expected = dict(read_sidecar(out).gates.tensors()), expected_tensors(gated)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
