"""What a model file says about itself, read before llama.cpp is asked to load it.

Refusing here costs milliseconds and names the reason; the native loader refuses the same models after their weights
were read.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import RetainError
from ..files import opened
from ..kv_types import KVType
from .architectures import IS_ENCODER, IS_LATENT, is_mixed, refusal
from .gguf_header import BOOL, STRING, U16, Header, TensorInfo, read_header, text
from .model_checks import check_model, count, half_vector, per_layer

SIDECAR_SUFFIX = ".gates.gguf"
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelFile:
    """A model file that was looked into, and is of a kind that the cache can serve.

    path : the file; of a split model its first part.
    architecture, name : as in the metadata.
    n_ctx_train : tokens of context in training; 0 when the file does not say.
    n_embd : embedding length.
    n_head_kv : KV heads of each layer, [n_layer], as the file gives them.
    head_k, head_v : numbers in a K row and a V row of one head.
    is_mixed : whether some of its layers may have a sliding window or be recurrent, so that they have no cells in the pool.
    size : bytes of the file.
    n_parts : files that the model is split into, as its header says.
    half_vector : name of a norm or bias in half precision, which llama.cpp computes with on GPUs alone; "" for none.
    """

    path: Path
    architecture: str
    name: str
    n_ctx_train: int
    n_embd: int
    n_head_kv: tuple[int, ...]
    head_k: int
    head_v: int
    size: int
    n_parts: int = 1
    half_vector: str = ""
    is_mixed: bool = False

    @property
    def stem(self) -> str:
        """File name without `.gguf` and, for a split model, without the number of the part."""
        return _PART.sub("", self.path.stem) if self.n_parts > 1 else self.path.stem

    def sidecar_path(self) -> Path:
        """Where the gates of this model are looked for when none are named."""
        return self.path.with_name(self.stem + SIDECAR_SUFFIX)

    def bytes_per_token(self, type_k: KVType, type_v: KVType) -> int:
        """Bytes that the K and V rows of one token take in all layers and heads; not for a model that `is_mixed`."""
        return sum(self.n_head_kv) * (type_k.row_bytes(self.head_k) + type_v.row_bytes(self.head_v))

    def fingerprint(self) -> str:
        """64 hex digits that tell this model file from any other."""
        return file_fingerprint(self.path)


def file_fingerprint(path: str | os.PathLike[str]) -> str:
    """64 hex digits that tell a large file from others: a digest of its size, beginning and end.

    Raises
    ------
    RetainError : it cannot be read.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read())
    return digest.hexdigest()


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Look into a model file.

    Raises
    ------
    RetainError : no such file, a folder, not a GGUF, truncated header, not a language model (a gate sidecar, an
        adapter, a vision projector), a later part of a split model, a part that is missing or damaged, sizes that
        llama.cpp cannot take, or an attention that the cache does not serve.
    """
    path = Path(path)
    if path.is_dir():
        raise RetainError(f"{path} is a folder; name the model file in it")
    if not path.exists():
        raise RetainError(f"{path}: no such file")
    header = read_header(path)
    parts = _parts(header)
    arch = _architecture(header)
    _check_kind(header, arch)
    tensors = {name: info for part in parts for name, info in part.tensors.items()}
    check_model(header, arch, tensors)
    _check_attention(header, arch)
    return replace(_describe(header, arch), n_parts=len(parts), half_vector=half_vector(tensors))


def tensor_places(path: str | os.PathLike[str]) -> dict[str, tuple[Path, TensorInfo]]:
    """The tensors of a model by name, each with the file that it is in: a model may be split into several.

    Raises
    ------
    RetainError : see `read_model_file`.
    """
    return {name: (part.path, info) for part in _parts(read_header(path)) for name, info in part.tensors.items()}


def _architecture(header: Header) -> str:
    arch = header.get("general.architecture", STRING)
    if arch is None:
        raise RetainError(f"{header.path}: the file names no architecture, so it is not a language model")
    return arch


def _check_kind(header: Header, arch: str) -> None:
    """Say what a file is that is no model. llama.cpp does not look at its kind, so one with layers is left to it."""
    if arch == "clip":
        raise RetainError(f"{header.path} is a vision or audio projector, not a language model")
    if f"{arch}.block_count" in header.fields:
        return
    if _text(header, "adapter.type") == "retention_gate":
        raise RetainError(f"{header.path} is a gate sidecar, not a model; name the model, and this file with --gates")
    kind = _text(header, "general.type")
    if kind not in (None, "model"):
        raise RetainError(f"{header.path} is not a model but a GGUF of type '{kind}'")


def _text(header: Header, key: str) -> str | None:
    """A text that decides nothing for llama.cpp; None when absent, or when it is something else."""
    field = header.fields.get(key)
    return text(field.value) if field is not None and field.type == STRING and not field.is_array else None


def _parts(header: Header) -> list[Header]:
    """The headers of all files that the model is in; the first is the one given.

    That decides its header, as for llama.cpp, and not the file's name.
    """
    count = header.get("split.count", U16, 0)
    if count <= 1:
        return [header]
    number = header.get("split.no", U16, 0) + 1
    match = _PART.search(header.path.stem)
    if match is None or (int(match[1]), int(match[2]), header.path.suffix) != (number, count, ".gguf"):
        raise RetainError(
            f"{header.path} is part {number} of a model split into {count}, and must be named so:"
            f" NAME-{number:05d}-of-{count:05d}.gguf"
        )
    base = header.path.stem[: match.start()]
    paths = [header.path.with_name(f"{base}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    if number != 1:
        raise RetainError(f"{header.path} is part {number} of a split model; name its first part, {paths[0].name}")
    parts = [header]
    for path in paths[1:]:
        if not path.exists():
            raise RetainError(f"{path}: this part of the split model is missing")
        part = read_header(path)
        if part.get("split.no", U16) != len(parts):
            raise RetainError(f"{path} is another part of a split model than its name says, or of none")
        parts.append(part)
    return parts


def _check_attention(header: Header, arch: str) -> None:
    reason = refusal(arch)
    if not reason and _is_false(header, f"{arch}.attention.causal"):
        reason = IS_ENCODER
    if not reason and _has_count(header, f"{arch}.attention.key_length_mla"):
        reason = IS_LATENT
    if reason:
        raise RetainError(f"{header.path}: the architecture '{arch}' {reason}")


def _has_count(header: Header, key: str) -> bool:
    field = header.fields.get(key)
    return field is not None and isinstance(field.value, int) and field.value > 0


def _is_false(header: Header, key: str) -> bool:
    field = header.fields.get(key)
    return field is not None and field.type == BOOL and field.value is False


def _describe(header: Header, arch: str) -> ModelFile:
    n_layer = count(header, f"{arch}.block_count") or 0
    n_head = per_layer(header, f"{arch}.attention.head_count", n_layer, (0,) * n_layer)
    n_head_kv = per_layer(header, f"{arch}.attention.head_count_kv", n_layer, n_head)
    n_embd = count(header, f"{arch}.embedding_length") or 0
    head = n_embd // max(1, *n_head, 1)
    head_k = count(header, f"{arch}.attention.key_length") or head
    head_v = count(header, f"{arch}.attention.value_length") or head
    if not sum(n_head_kv) * head_k * head_v:
        raise RetainError(f"{header.path}: the file does not say how many layers and heads the model has")
    return ModelFile(
        path=header.path,
        architecture=arch,
        name=_text(header, "general.name") or header.path.stem,
        n_ctx_train=count(header, f"{arch}.context_length") or 0,
        n_embd=n_embd,
        n_head_kv=n_head_kv,
        head_k=head_k,
        head_v=head_v,
        size=header.size,
        is_mixed=is_mixed(arch),
    )
