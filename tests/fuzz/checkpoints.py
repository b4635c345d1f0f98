"""Damaged and made-up checkpoints of gates: each is read or refused with one error, runs nothing and fills no memory."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from fuzz.mutate import mutate
from fuzz.run import main
from retain_local.gates.checkpoint.layout import CheckpointError
from retain_local.gates.checkpoint.license import checkpoint_license
from retain_local.gates.checkpoint.read import read_checkpoint
from support.checkpoints import GatedModel, config_for, save_checkpoint
from support.tiny_models import TinyModel, write_tiny_model

MODEL = TinyModel("llama", n_layer=2, n_embd=16, n_head=2, n_head_kv=1, head_size=8, n_ff=16)
FORMATS = ("torch", "safetensors", "shards")
MAX_MEMORY = 64 << 20  # bytes; the files have some 20,000
VALUES: list[Any] = [
    None, True, 0, 1, -1, 3, 16, 2**31, 2**63, 10**300, 0.5, 1e308, float("nan"), "", "rg", "F64", "BF16", "U8", "silu",
    "a\x1b[2J", "../x.safetensors", [], [0], [16, 16], [0, 2**60], [[1]], {}, {"dtype": "F32"}, "x" * 10_000,
]  # fmt: skip
README = b"---\nlicense: mit\ntags: [a, b]\n---\n# Gates\n"


def other_kinds(folder: Path) -> Iterator[dict[str, bytes]]:
    """Checkpoints of KVzap, Locret and Fast KVzip."""
    draw = np.random.default_rng(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.tensor(draw.normal(0, 1, shape), dtype=torch.float32)

    layers = range(MODEL.n_layer)
    n_embd, n_head, n_qkv = MODEL.n_embd, MODEL.n_head_kv, MODEL.n_embd_q + 2 * MODEL.n_embd_kv
    kvzap = {f"layers.{il}.{part}": tensor(*shape) for il in layers
             for part, shape in (("weight", (n_head, n_embd)), ("bias", (n_head,)))}  # fmt: skip
    save_file(kvzap, folder / "kvzap.safetensors")
    config = {"model_type": "kvzap", "input_dim": n_embd, "output_dim": n_head, "n_modules": MODEL.n_layer}
    yield {
        "model.safetensors": (folder / "kvzap.safetensors").read_bytes(),
        "config.json": json.dumps(config).encode(),
    }
    locret = {f"model.layers.{il}.self_attn.{part}.weight": tensor(*shape) for il in layers
              for part, shape in (("fc1", (8, n_qkv)), ("fc2", (n_head, 8)))}  # fmt: skip
    torch.save(locret, folder / "locret.pth")
    yield {"locret.pth": (folder / "locret.pth").read_bytes()}
    parts = {"q_proj.weight": (4 * 2 * n_head, n_embd), "q_proj.bias": (4 * 2 * n_head,), "q_norm.weight": (4,),
             "k_proj.weight": (4 * n_head, n_embd), "k_norm.weight": (4,), "k_base": (n_head, 1, 3, 4),
             "b": (n_head, 1, 2)}  # fmt: skip
    kvzip = {"module": [{part: tensor(*shape) for part, shape in parts.items()} for _ in layers], "loss": np.ones(9)}
    torch.save(kvzip, folder / "kvzip.pth")
    yield {"kvzip.pth": (folder / "kvzip.pth").read_bytes()}


class CheckpointFuzzer:
    """Checkpoints of every format: one of their files is changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoint"
        self.wholes: list[dict[str, bytes]] = []
        for format in FORMATS:
            made = folder / format
            save_checkpoint(made, GatedModel(MODEL), config_for(MODEL), format)
            self.wholes.append({path.name: path.read_bytes() for path in made.iterdir()} | {"README.md": README})
        self.base = write_tiny_model(folder / "base.gguf", MODEL)
        self.wholes += [files | {"README.md": README} for files in other_kinds(folder)]

    def case(self, rng: np.random.Generator) -> None:
        chooser = random.Random(int(rng.integers(2**63)))
        files = dict(chooser.choice(self.wholes))
        for _ in range(chooser.choice([1, 1, 2])):
            name = chooser.choice(list(files))
            files[name] = changed(rng, chooser, name, files[name])
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            path.unlink()
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        before = sorted(path.name for path in self.folder.parent.iterdir())
        tracemalloc.start()
        try:
            checkpoint = read_checkpoint(self.folder, self.base)
            checkpoint.gates.checked()
            license = checkpoint_license(checkpoint)
            assert license is None or isinstance(license, str)
        except CheckpointError as error:
            assert len(str(error).splitlines()) == 1
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MAX_MEMORY, f"{peak:,} bytes were taken"
        assert sorted(path.name for path in self.folder.parent.iterdir()) == before


def changed(rng: np.random.Generator, chooser: random.Random, name: str, content: bytes) -> bytes:
    """A file with its bytes changed, or what is in it and the rest put right again."""
    try:
        if chooser.random() < 0.3:
            return mutate(rng, content)
        if name.endswith(".json"):
            return json.dumps(changed_json(chooser, json.loads(content))).encode()
        if name.endswith(".safetensors"):
            length = int.from_bytes(content[:8], "little")
            header = json.dumps(changed_json(chooser, json.loads(content[8 : 8 + length]))).encode()
            return len(header).to_bytes(8, "little") + header + content[8 + length :]
        if name.endswith(".pth"):
            return changed_archive(rng, chooser, content)
    except (ValueError, zipfile.BadZipFile):  # what an earlier change left
        pass
    return mutate(rng, content)


def changed_json(chooser: random.Random, value: Any) -> Any:
    """One value somewhere in it is another, is there no more, or has another name."""
    inner = value
    while isinstance(inner, (dict, list)) and inner:
        key = chooser.choice(list(inner)) if isinstance(inner, dict) else chooser.randrange(len(inner))
        if not isinstance(inner[key], (dict, list)) or not inner[key] or chooser.random() < 0.3:
            kind = chooser.randrange(4)
            if kind == 0:
                del inner[key]
            elif kind == 1 and isinstance(inner, dict):
                inner[chooser.choice([*inner, "x", "__metadata__", "text_config"])] = inner[key]
            else:
                inner[key] = chooser.choice([*VALUES, nested()])
            break
        inner = inner[key]
    return value


def nested() -> Any:
    """Lists in lists, as deep as can be written."""
    value: Any = 1
    for _ in range(900):
        value = [value]
    return value


def changed_archive(rng: np.random.Generator, chooser: random.Random, content: bytes) -> bytes:
    """A file of torch's with one of its members changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w") as target:
        members = {name: source.read(name) for name in source.namelist()}
        name = chooser.choice(
            [chooser.choice(list(members)), next(name for name in members if name.endswith("data.pkl"))]
        )
        members[name] = mutate(rng, members[name])
        if chooser.random() < 0.1:
            members.pop(chooser.choice(list(members)))
        for name, member in members.items():
            target.writestr(name, member, zipfile.ZIP_DEFLATED if chooser.random() < 0.02 else zipfile.ZIP_STORED)
    return out.getvalue()


if __name__ == "__main__":
    main(CheckpointFuzzer)
