"""A PyTorch checkpoint of gates, from its files to a checked `GateSet`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..sidecar.gate_set import GateSet
from .files import open_files
from .kind import About
from .kinds import find_kind


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and checked.

    path : the file with the tensors.
    kind : whose layout it has, a name of `kinds.KINDS`.
    about : what it says about its gates.
    gates : its numbers, in float32.
    remarks : what its user should know about it, a line each.
    """

    path: Path
    kind: str
    about: About
    gates: GateSet
    remarks: tuple[str, ...]


def read_checkpoint(source: Path, base: Path | None = None) -> Checkpoint:
    """Read a checkpoint: a folder, a file of `torch.save`, or safetensors (one file, or the index of several).

    `config.json` lies in the folder, or beside the file. Tensors of the base model are left out.

    Parameters
    ----------
    source : the folder or the file.
    base : the GGUF of the base model, which some kinds need.

    Raises
    ------
    CheckpointError : no such file, one that is damaged, a kind that is not known, a config that does not fit, a tensor of a
        gate that is missing, one that has no place, or a name, shape, type or number that is not what it must be.
    """
    files = open_files(source)
    kind = find_kind(files)
    found = kind.read(files, base)
    return Checkpoint(files.path, kind.name, found.about, found.gates, found.remarks)
