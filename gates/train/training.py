"""From a base model and data to a folder with trained gates: checkpoint, configuration, sidecar."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file

from ...errors import RetainError
from ...models.model_file import read_model_file
from ..checkpoint.layout import CONFIG_FILE, SAFETENSORS_FILE, CheckpointConfig, state_dict
from ..export import Export, architecture_of, check_pair, export_checkpoint
from .base import BaseModel
from .documents import read_documents
from .gguf_base import is_gguf
from .loading import gate_activation, load_base
from .modules import RetentionGates
from .options import TrainOptions
from .rows import Rows
from .trainer import Progress, Training

STATE_FILE = "training.pt"
LOG_FILE = "losses.jsonl"
SIDECAR_FILE = "gates.gguf"


@dataclass(frozen=True)
class Prepared:
    """What a training starts from, for those who want to say so before it runs."""

    n_rows: int
    n_tokens: int
    n_skipped: int
    n_parameters: int
    device: str
    dtype: str
    step: int


def train_gates(
    source: str,
    out: Path,
    data: Iterable[str],
    options: TrainOptions,
    base_gguf: Path | None = None,
    weight_type: str = "f16",
    on_start: Callable[[Prepared], None] = lambda prepared: None,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> Export:
    """Train gates for a base model, or go on with a training that was stopped, and write them.

    Parameters
    ----------
    source : the base model, as `load_base` takes it; a GGUF file is also `base_gguf`.
    out : folder for `gates.safetensors`, `config.json`, the sidecar, `losses.jsonl` and, until it is done, the state.
    data : sources as `read_documents` takes them.
    base_gguf : the same model as a GGUF; the sidecar is then checked against it, tied to its vocabulary, and named after
        it.
    weight_type : of the sidecar: f32, f16 or q8_0.

    Raises
    ------
    RetainError : the base model or the data cannot be used, the folder holds another training, or the disk is full.
    """
    data = tuple(data)
    state_path, weights_path = out / STATE_FILE, out / SAFETENSORS_FILE
    if weights_path.exists() and not state_path.exists():
        raise RetainError(f"{out} holds trained gates already; name another folder")
    documents = list(map(read_documents, data))  # before the model: a name that is wrong should not take minutes
    torch.manual_seed(options.seed)
    base, tokenizer = load_base(source, options)
    if is_gguf(source):
        base_gguf = Path(source)
    gates = RetentionGates(
        len(base.gated_layers), base.n_embd, base.n_head_kv, options.gate_size, options.variant, options.is_tied,
        gate_activation(base), options.bias,
    )  # fmt: skip
    _check_base(base, gates, base_gguf, source)
    assistant_only = options.loss == "assistant"
    n_needed = options.steps * options.batch
    rows = Rows(
        chain(*documents), tokenizer, options.context, n_needed, options.seed, assistant_only, base.packs_documents
    )
    identity = {**options.as_dict(), "base": _digest(base), "data": rows.digest()}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetainError(f"{out}: {error.strerror}") from None
    training = Training(base, gates, rows, options, state_path, identity)
    n_parameters = sum(parameter.numel() for parameter in gates.parameters())
    on_start(
        Prepared(
            len(rows), rows.n_tokens, rows.n_skipped, n_parameters, base.device.type,
            str(base.model.dtype).removeprefix("torch."), training.step,
        )
    )  # fmt: skip
    training.run(_logged(out / LOG_FILE, training.step, on_step))
    export = _write(out, source, base, gates, options, base_gguf, weight_type, data)
    state_path.unlink()
    return export


def _check_base(base: BaseModel, gates: RetentionGates, base_gguf: Path | None, source: str) -> None:
    """Refuse before hours of training what no sidecar can be written for."""
    model = None if base_gguf is None else read_model_file(base_gguf)
    architecture_of(base.config.model_type, model, source, "--base-gguf")
    if model is not None:
        check_pair(gates.gate_set(base.gated_layers, base.n_layer), model, source)


def _logged(path: Path, step: int, on_step: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Also append every step to a file, which is cut back to the step that a run goes on from."""
    lines = path.read_text().splitlines(keepends=True)[:step] if step and path.exists() else []
    path.write_text("".join(lines))

    def log(progress: Progress) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"step": progress.step, **progress.losses}) + "\n")
        on_step(progress)

    return log


def _write(
    out: Path, source: str, base: BaseModel, gates: RetentionGates, options: TrainOptions, base_gguf: Path | None,
    weight_type: str, data: tuple[str, ...],
) -> Export:  # fmt: skip
    name = _public_name(source)
    config = CheckpointConfig(
        variant=options.variant,
        tied=options.is_tied,
        n_ff=options.gate_size,
        n_embd=base.n_embd,
        n_layer=base.n_layer,
        gated_layers=base.gated_layers,
        n_head_kv=base.n_head_kv,
        hidden_act=base.config.hidden_act if hasattr(base.config, "hidden_act") else base.config.hidden_activation,
        model_type=base.config.model_type,
        base_model=name,
        trained_budget=options.budget,
        trained_context_length=options.context,
    )
    try:
        partial = out / (SAFETENSORS_FILE + ".partial")
        save_file(state_dict(gates.gate_set(base.gated_layers, base.n_layer)), partial)
        (out / CONFIG_FILE).write_text(json.dumps(_config_entries(config, options), indent=2) + "\n")
        partial.replace(out / SAFETENSORS_FILE)
    except OSError as error:
        raise RetainError(f"{out}: the gates could not be written: {error.strerror or error}") from None
    sidecar = read_model_file(base_gguf).sidecar_path().name if base_gguf is not None else SIDECAR_FILE
    return export_checkpoint(
        out,
        out / sidecar,
        weight_type,
        base_gguf,
        source_name=f"trained for {name}",
        trained_on=", ".join(map(_public_name, data)),
        date=datetime.date.today().isoformat(),
    )


def _public_name(source: str) -> str:
    """A model or data set by its name alone: where it lies on this machine is nobody's business."""
    return Path(source).resolve().name if Path(source).exists() else source


def _config_entries(config: CheckpointConfig, options: TrainOptions) -> dict[str, Any]:
    return config.to_dict() | {"training": options.as_dict()}


def _digest(base: BaseModel) -> str:
    """A checksum of the base model's weights, by a few numbers of each."""
    digest = hashlib.sha256()
    for name, parameter in base.model.named_parameters():
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)].float().cpu().numpy()
        digest.update(name.encode() + sample.tobytes())
    return digest.hexdigest()
