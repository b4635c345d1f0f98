"""What a model file says about itself, read before llama.cpp is asked to load it.

Refusing here costs milliseconds and names the reason; the native loader refuses the same models after their weights
were read.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import RetainError
from ..kv_types import KVType
from .gguf_header import BOOL, STRING, Header, read_header

SIDECAR_SUFFIX = ".gates.gguf"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_SAMPLE_BYTES = 1 << 20

_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_HYBRID = {
    "bailingmoe3", "falcon-h1", "glm5-next", "granitehybrid", "jamba", "kimi-k3", "kimi-linear", "lfm2", "lfm2moe",
    "minimax-01", "nemotron_h", "nemotron_h_moe", "plamo2", "qwen35", "qwen35moe", "qwen3next", "qwen4exp",
}  # fmt: skip
_NOT_CAUSAL = {
    "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe",
    "llama-embed", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "t5encoder",
    "wavtokenizer-dec",
}  # fmt: skip
# architectures whose layers slide unless the file says that the window is 0, and those that slide if it names a window
_SLIDES = {
    "cohere2", "cohere2moe", "deepseek4", "dots3note", "exaone-moe", "gemma2", "gemma3n", "gemma4",
    "gemma4-assistant", "gpt-oss", "granite_swa", "llama4", "maple", "mimo2", "muse-glimmer", "spark2_5", "step35",
}  # fmt: skip
_MAY_SLIDE = {"afmoe", "exaone4", "gemma3", "laguna", "mellum", "olmo2", "plamo3", "smallthinker"}


@dataclass(frozen=True)
class ModelFile:
    """A model file that was looked into, and is of a kind that the cache can serve.

    path : the file; of a split model its first part.
    architecture, name : as in the metadata.
    n_ctx_train : tokens of context in training; 0 when the file does not say.
    n_embd : embedding length.
    n_head_kv : KV heads of each layer, [n_layer].
    head_k, head_v : numbers in a K row and a V row of one head.
    size : bytes of the file.
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

    @property
    def stem(self) -> str:
        """File name without `.gguf` and, for a split model, without the number of the part."""
        return _SHARD.sub("", self.path.stem)

    def sidecar_path(self) -> Path:
        """Where the gates of this model are looked for when none are named."""
        return self.path.with_name(self.stem + SIDECAR_SUFFIX)

    def bytes_per_token(self, type_k: KVType, type_v: KVType) -> int:
        """Bytes that the K and V rows of one token take in all layers and heads."""
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
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(str(size).encode())
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read())
    except OSError as error:
        raise RetainError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Look into a model file.

    Raises
    ------
    RetainError : no such file, a folder, not a GGUF, truncated header, not a language model (a gate sidecar, an
        adapter, a vision projector), a later part of a split model, a part that is missing, or an attention that the
        cache does not serve.
    """
    path = Path(path)
    if path.is_dir():
        raise RetainError(f"{path} is a folder; name the model file in it")
    if not path.exists():
        raise RetainError(f"{path}: no such file")
    header = read_header(path)
    arch = header.get("general.architecture", STRING)
    if arch is None:
        raise RetainError(f"{path}: the file names no architecture, so it is not a language model")
    _check_kind(header, arch)
    _check_parts(header)
    _check_attention(header, arch)
    return _describe(header, arch)


def _check_kind(header: Header, arch: str) -> None:
    kind = header.get("general.type", STRING, "model")
    if header.get("adapter.type", STRING) == "retention_gate":
        raise RetainError(f"{header.path} is a gate sidecar, not a model; name the model, and this file with --gates")
    if kind == "mmproj" or arch == "clip":
        raise RetainError(f"{header.path} is a vision or audio projector, not a language model")
    if kind != "model":
        raise RetainError(f"{header.path} is not a model but a GGUF of type '{kind}'")


def _check_parts(header: Header) -> None:
    match = _SHARD.search(header.path.stem)
    if match is None:
        return
    number, count = int(match[1]), int(match[2])
    base = header.path.stem[: match.start()]
    names = [f"{base}-{i:05d}-of-{count:05d}{header.path.suffix}" for i in range(1, count + 1)]
    if number != 1:
        raise RetainError(f"{header.path} is part {number} of a split model; name its first part, {names[0]}")
    for name in names:
        if not header.path.with_name(name).exists():
            raise RetainError(f"{header.path.with_name(name)}: this part of the split model is missing")


def _check_attention(header: Header, arch: str) -> None:
    window = _count(header, f"{arch}.attention.sliding_window")
    if arch in _RECURRENT:
        reason = "is recurrent: it has no KV cache to keep in a budget"
    elif arch in _HYBRID:
        reason = "mixes attention with recurrent layers, which is not supported yet"
    elif arch in _NOT_CAUSAL or header.get(f"{arch}.attention.causal", BOOL) is False:
        reason = "is an encoder, embedding or diffusion model: it does not generate token by token from a KV cache"
    elif arch == "t5":
        reason = "is an encoder-decoder model, which is not supported"
    elif _count(header, f"{arch}.attention.key_length_mla"):
        reason = "uses multi-head latent attention (MLA), which is not supported"
    elif (arch in _SLIDES and window != 0) or (arch in _MAY_SLIDE and window):
        reason = "uses sliding-window attention in some layers (iSWA), which is not supported yet"
    else:
        return
    raise RetainError(f"{header.path}: the architecture '{arch}' {reason}")


def _describe(header: Header, arch: str) -> ModelFile:
    n_layer = _count(header, f"{arch}.block_count") or 0
    n_head = _per_layer(header, f"{arch}.attention.head_count", n_layer, (0,) * n_layer)
    n_head_kv = _per_layer(header, f"{arch}.attention.head_count_kv", n_layer, n_head)
    n_embd = _count(header, f"{arch}.embedding_length") or 0
    head = n_embd // max(1, *n_head, 1)
    head_k = _count(header, f"{arch}.attention.key_length") or head
    head_v = _count(header, f"{arch}.attention.value_length") or head
    if not sum(n_head_kv) * head_k * head_v:
        raise RetainError(f"{header.path}: the file does not say how many layers and heads the model has")
    return ModelFile(
        path=header.path,
        architecture=arch,
        name=header.get("general.name", STRING, header.path.stem),
        n_ctx_train=_count(header, f"{arch}.context_length") or 0,
        n_embd=n_embd,
        n_head_kv=n_head_kv,
        head_k=head_k,
        head_v=head_v,
        size=header.size,
    )


def _count(header: Header, key: str) -> int | None:
    """A count given as one number of any integer type; None when absent."""
    field = header.fields.get(key)
    if field is None or field.is_array:
        return None
    if not isinstance(field.value, int) or not 0 <= field.value < 2**32:
        raise RetainError(f"{header.path}: metadata key '{key}' is not a count")
    return field.value


def _per_layer(header: Header, key: str, n_layer: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """A count that a file gives once or once per layer."""
    field = header.fields.get(key)
    if field is None:
        return default
    if not field.is_array:
        return (_count(header, key) or 0,) * n_layer
    values = tuple(field.value)
    if len(values) != n_layer or not all(isinstance(value, int) and value >= 0 for value in values):
        raise RetainError(f"{header.path}: metadata key '{key}' is not a count per layer")
    return values
