"""The files of a checkpoint: finding them, and the tensors in them, none of which is read before it was checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .layout import CONFIG_FILE, SAFETENSORS_FILE, TORCH_FILE, CheckpointError
from .safetensors import check_ordinary, read_json, read_safetensors, read_shards
from .tensor import StoredTensor
from .torch_file import read_torch

INDEX_SUFFIX = ".safetensors.index.json"
_TORCH_SUFFIXES = (".pth", ".pt", ".bin")
# where the tensors of a folder are, the likeliest first
_WEIGHTS = (TORCH_FILE, SAFETENSORS_FILE, "model.safetensors", "model" + INDEX_SUFFIX)


@dataclass(frozen=True)
class CheckpointFiles:
    """The tensors of a checkpoint, and its `config.json`.

    path : the file with the tensors.
    entries : of `config.json`; None where there is none.
    tensors : by name.
    """

    path: Path
    entries: Mapping[str, Any] | None
    tensors: Mapping[str, StoredTensor]
    _read: dict[StoredTensor, np.ndarray] = field(default_factory=dict)  # once, however many layers share one

    def config(self) -> Mapping[str, Any]:
        """The entries of `config.json`; CheckpointError where there is none."""
        if self.entries is None:
            raise CheckpointError(f"{self.config_path}: not there; a checkpoint needs the file it was saved with")
        return self.entries

    @property
    def config_path(self) -> Path:
        return self.path.with_name(CONFIG_FILE)

    def check_shape(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """A tensor; CheckpointError unless it is there and has this shape."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.path}: tensor '{name[:120]}' is missing")
        if tensor.shape != shape:
            raise CheckpointError(
                f"{self.path}: tensor '{name[:120]}' has shape {list(tensor.shape)}, expected {list(shape)}"
            )
        return tensor

    def check_known(self, names: Iterable[str], known: Collection[str], of: str) -> None:
        """Raise CheckpointError for one of the names that is not known to be a tensor of these gates."""
        for name in names:
            if name not in known:
                raise CheckpointError(f"{self.path}: tensor '{name[:120]}' has no place in {of}")

    def check_bytes(self, tensors: Collection[StoredTensor]) -> None:
        """Raise CheckpointError where a small file names one run of numbers for many tensors, to fill the memory."""
        if sum(tensor.n_bytes for tensor in tensors) > sum(path.stat().st_size for path in {t.path for t in tensors}):
            raise CheckpointError(f"{self.path}: the file is damaged: its tensors have more numbers than it holds")

    def finite(self, name: str, keep: bool = True) -> np.ndarray:
        """A tensor's numbers in float32; CheckpointError unless all are finite there.

        `keep` : for the next that asks for the same tensor, under whatever name.
        """
        tensor = self.tensors[name]
        array = self._read.get(tensor)
        if array is None:
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf
                array = tensor.read().astype(np.float32, copy=False)
        if keep:
            self._read[tensor] = array
        if not np.isfinite(array).all():
            raise CheckpointError(f"{self.path}: tensor '{name[:120]}' has numbers that are not finite")
        return array


def open_files(source: Path) -> CheckpointFiles:
    """Find the files of a checkpoint and look into them: a folder, a file of `torch.save`, or safetensors.

    `config.json` lies in the folder, or beside the file.

    Raises
    ------
    CheckpointError : no such file, or one that is damaged.
    """
    path = _find_weights(source)
    check_ordinary(path)
    config = path.with_name(CONFIG_FILE)
    entries = read_json(config) if config.is_file() else None
    return CheckpointFiles(path, entries, _read_tensors(path))


def _find_weights(source: Path) -> Path:
    """The file with the tensors."""
    if not source.exists():
        raise CheckpointError(f"{source}: no such file or folder")
    if not source.is_dir():
        return source
    try:
        return source / choose_weights([path.name for path in source.iterdir()])
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


def choose_weights(files: Collection[str]) -> str:
    """The file with the tensors among the files of a folder; CheckpointError when there is none, or it is not clear."""
    found = [name for name in _WEIGHTS if name in files][:1]
    found = found or sorted(name for name in files if name.endswith((*_TORCH_SUFFIXES, ".safetensors")))
    if len(found) != 1:
        what = f"more than one ({', '.join(found[:20])}); name the file" if found else "none"
        raise CheckpointError(f"looked for a checkpoint ({', '.join(_WEIGHTS)}), found {what}")
    return found[0]


def _read_tensors(path: Path) -> dict[str, StoredTensor]:
    if path.name.endswith(INDEX_SUFFIX):
        return read_shards(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in _TORCH_SUFFIXES:
        return read_torch(path)
    raise CheckpointError(
        f"{path}: not a checkpoint by its name; name a folder, a .pth, a .safetensors or its {INDEX_SUFFIX[1:]}"
    )
