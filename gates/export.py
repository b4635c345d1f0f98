"""From a PyTorch checkpoint to a gate sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import RetainError
from ..models.model_file import ModelFile, read_model_file
from .checkpoint.architecture import gguf_architecture
from .checkpoint.layout import CheckpointError
from .checkpoint.license import checkpoint_license
from .checkpoint.read import Checkpoint, read_checkpoint
from .sidecar.file import Sidecar, write_sidecar
from .sidecar.fingerprint import base_fingerprint
from .sidecar.gate_set import GateSet
from .sidecar.metadata import GateInfo


@dataclass(frozen=True)
class Export:
    """A sidecar that was written to a path, the checkpoint it was made from, and what its user should know about it."""

    path: Path
    checkpoint: Checkpoint
    sidecar: Sidecar
    remarks: tuple[str, ...]


def export_checkpoint(
    source: Path,
    out: Path,
    weight_type: str = "f16",
    base: Path | None = None,
    source_name: str | None = None,
    license: str | None = "",
    trained_on: str | None = None,
    date: str | None = None,
) -> Export:
    """Write the gates of a checkpoint to a sidecar. Nothing is written unless all of the checkpoint is right.

    Parameters
    ----------
    source : as `read_checkpoint` takes it.
    out : the sidecar; replaced if it is there.
    weight_type : f32, f16 or q8_0.
    base : the GGUF of the base model, to check the pair and to tie the sidecar to its vocabulary. Some kinds of checkpoint
        need it, because they say nothing of their base, or read what it computes.
    source_name : where the checkpoint came from, for the sidecar; None: the name of its file.
    license : what the sidecar names as such; "": what the checkpoint's card states.
    trained_on, date : the texts that the gates were trained on, and when that was, for the sidecar.

    Raises
    ------
    RetainError : the checkpoint or the base model cannot be used, they do not fit each other, the base model's
        architecture is unknown, or the sidecar cannot be written.
    """
    checkpoint = read_checkpoint(source, base)
    model = read_model_file(base) if base is not None else None
    gates = checkpoint.gates
    if model is not None:
        check_pair(gates, model, str(checkpoint.path))
    license, problem = _license(checkpoint) if license == "" else (license, None)
    budget = checkpoint.about.trained_budget
    info = GateInfo(
        architecture=architecture_of(checkpoint.about.model_type, model, str(checkpoint.path)),
        name=f"retention gates for {_base_name(checkpoint, model) or 'an unnamed model'}",
        trained_budget=int(budget) if budget is not None and budget == int(budget) else None,
        trained_context_length=checkpoint.about.trained_context_length,
        base_name=_base_name(checkpoint, model),
        base_fingerprint=None if base is None else base_fingerprint(base),
        source=source_name or checkpoint.path.name,
        license=license,
        trained_on=trained_on,
        date=date,
    )
    sidecar = write_sidecar(out, gates, info, weight_type)
    remarks = (*checkpoint.remarks, *([problem] if problem else []), *_remarks(checkpoint, info))
    return Export(out, checkpoint, sidecar, remarks)


def _license(checkpoint: Checkpoint) -> tuple[str | None, str | None]:
    """The licence that is stated, and what to say when it cannot be read."""
    try:
        return checkpoint_license(checkpoint), None
    except RetainError as error:
        return None, f"{error}; the sidecar names none"


def check_pair(gates: GateSet, model: ModelFile, name: str) -> None:
    """Raise RetainError unless gates have the sizes of a model; `name` says whose gates they are."""
    sizes = [("layers", gates.n_layer, len(model.n_head_kv)), ("an embedding length", gates.n_embd, model.n_embd)]
    if gates.n_layer == len(model.n_head_kv):
        sizes += [
            (f"KV heads of layer {il}", n_head, model.n_head_kv[il])
            for il, n_head in zip(gates.layer_indices, gates.heads)
        ]
    for what, have, needed in sizes:
        if have != needed:
            raise RetainError(f"{name} is for another model: its gates have {have} as {what}, {model.path} {needed}")


def architecture_of(model_type: str, model: ModelFile | None, name: str, option: str = "--base") -> str:
    """The GGUF architecture of the model that gates are for; `name` says whose gates they are.

    option : what names the model's GGUF on the command line.

    Raises
    ------
    CheckpointError : the model type is not that of the GGUF, or there is no GGUF and the type is not known.
    """
    known = gguf_architecture(model_type)
    if model is None and known is None:
        problem = (
            f"model type {model_type!r:.60} has no GGUF architecture in our table"
            if model_type
            else "it does not say which model it is for"
        )
        raise CheckpointError(f"{name}: {problem}; name the base model with {option}")
    if model is not None and known not in (None, model.architecture):
        raise CheckpointError(f"{name} is for another model: {known}, and {model.path} is {model.architecture}")
    return model.architecture if model is not None else str(known)


def _base_name(checkpoint: Checkpoint, model: ModelFile | None) -> str | None:
    return model.name if model is not None else checkpoint.about.base_model


def _remarks(checkpoint: Checkpoint, info: GateInfo) -> Iterator[str]:
    budget = checkpoint.about.trained_budget
    if info.base_fingerprint is None:
        yield "without the base model's GGUF the gates are neither tied to a vocabulary nor checked against a model"
    if budget is not None and info.trained_budget is None:
        yield f"trained with a budget of {budget:g} of the sequence, which a sidecar has no place for"
