"""Calibrating: from a GGUF and texts to a gate sidecar."""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RetainError, UsageError
from ...models.model_file import ModelFile
from ..sidecar.file import Sidecar, write_sidecar
from ..sidecar.fingerprint import base_fingerprint
from ..sidecar.forward import gate_output
from ..sidecar.gate_set import GateSet
from ..sidecar.metadata import GateInfo
from .documents import Document, Plan, cut, take_turns
from .fit import Fit, Setting, log_importance
from .importance import TEXT_WEIGHT
from .options import CalibrateOptions
from .own_texts import own_streams
from .reading import Layer, Reader
from .state import load_state, remove_state, save_state, state_path

HELD_OUT = 1024  # tokens of a held-out document at most
_SAVE_EVERY_S = 60

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Material:
    """The documents of a calibration: those that are learned from, and one of each kind that is not."""

    plan: Plan
    learned: list[Document]
    held_plan: Plan
    held: list[Document]

    @property
    def n_tokens(self) -> int:
        """Tokens that are read in all, repetitions too."""
        return len(self.learned) * self.plan.n_all + len(self.held) * self.held_plan.n_all


@dataclass(frozen=True)
class Calibration:
    """Gates that were written, and how well they foresee.

    correlation : of the gate's output with log importance on the held-out document of each kind, over all layers, heads
        and cells.
    held : those documents.
    n_documents, n_resumed : documents that were learned from, and those of them whose sums were taken over from a run that was stopped.
    """

    path: Path
    sidecar: Sidecar
    correlation: dict[str, float]
    held: list[Document]
    n_documents: int
    n_resumed: int


def calibrate(
    model: ModelFile,
    out: Path,
    texts: Mapping[str, str],
    options: CalibrateOptions,
    weight_type: str,
    on_progress: Progress | None = None,
    **loading: Any,
) -> Calibration:
    """Make gates for a model from its own forward passes, and write them.

    Parameters
    ----------
    model : the base model.
    out : the sidecar to write; while this runs, what was read so far lies beside it (`state_path`).
    texts : by name; empty: the program's own.
    weight_type : f32, f16 or q8_0.
    on_progress : called with what is done, and (tokens read, tokens to read).
    loading : of `Llama`, such as n_threads and n_gpu_layers.

    Raises
    ------
    UsageError : fewer tokens than one piece of text has.
    RetainError : the model cannot be loaded or watched, the texts are too short or of another vocabulary, or a file
        cannot be written.
    KeyboardInterrupt : Ctrl-C was pressed; the same call goes on from there.
    """
    plan = Plan.fitting(options.window, model.n_ctx_train)
    state = state_path(out)
    with ExitStack() as stack:
        reader = stack.enter_context(Reader(model.path, plan.n_all, **loading))
        material = _material(reader, texts, options, plan)
        setting = Setting(
            model.n_embd, tuple(reader.layers), tuple(reader.n_heads), len(model.n_head_kv),
            options.features if options.kind == "mlp" else 0, options.seed,
        )  # fmt: skip
        fit = Fit(setting)
        key = _key(model, material, options)
        n_resumed = load_state(state, key, fit)
        tell = _Teller(on_progress, material, n_resumed)
        _learn(reader, material, fit, n_resumed, state, key, tell)
        gates = fit.gates(options.ridge, options.decay)
        correlation = {
            document.kind: _correlation(gates, reader.read(document, material.held_plan, tell.reading("checking")))
            for document in tell.each(material.held, material.held_plan)
        }
    sidecar = write_sidecar(out, gates, _info(model, material, texts), weight_type)
    remove_state(state)
    return Calibration(out, sidecar, correlation, material.held, len(material.learned), n_resumed)


def _material(reader: Reader, texts: Mapping[str, str], options: CalibrateOptions, plan: Plan) -> Material:
    llm = reader.llm
    n_held = min(HELD_OUT, plan.n_text)
    held_plan = Plan.fitting(n_held, plan.n_all)
    n_most = options.tokens + n_held
    if texts:
        streams = {
            name: llm.tokenize(text.encode(), add_bos=False, special=False)[:n_most] for name, text in texts.items()
        }
    else:
        streams = own_streams(llm, n_most)
    bos = [llm.token_bos()] if llm._model.add_bos_token() and llm.token_bos() >= 0 else []
    n_piece = plan.n_text - len(bos)
    if options.tokens < n_piece:
        raise UsageError(
            f"tokens is {options.tokens}, and a piece of text has {plan.n_text} at this window: give more, or a smaller"
            " --window"
        )
    # the end of each stream is held out
    n_own = held_plan.n_text - len(bos)
    held = [
        Document(kind, [*bos, *tokens[-n_own:]]) for kind, tokens in streams.items() if len(tokens) >= n_own + n_piece
    ]
    learned = cut({document.kind: streams[document.kind][:-n_own] for document in held}, plan.n_text, bos)
    documents = take_turns(learned, max(1, options.tokens // plan.n_text))
    if not documents:
        n = max(map(len, streams.values()), default=0)
        raise RetainError(
            f"the longest text has {n:,} tokens, and calibrating needs {n_own + n_piece:,}: give a longer one, or a"
            " smaller --window" if texts else "the model's vocabulary cannot express the program's texts: give others with --text"
        )  # fmt: skip
    return Material(plan, documents, held_plan, held)


def _learn(reader: Reader, material: Material, fit: Fit, n_done: int, state: Path, key: str, tell: _Teller) -> None:
    saved, is_adding = time.monotonic(), False
    try:
        for document in tell.each(material.learned[n_done:], material.plan):
            layers = reader.read(document, material.plan, tell.reading(f"reading {document.kind}"))
            _check_finite(reader, layers)
            is_adding = True
            fit.add(layers)
            n_done, is_adding = n_done + 1, False
            if time.monotonic() - saved > _SAVE_EVERY_S:
                save_state(state, key, n_done, fit)
                saved = time.monotonic()
    except KeyboardInterrupt:
        if n_done and not is_adding:
            save_state(state, key, n_done, fit)
        raise


def _check_finite(reader: Reader, layers: Sequence[Layer]) -> None:
    for il, (hidden, importance) in zip(reader.layers, layers):
        if not np.isfinite(hidden).all() or not np.isfinite(importance).all():
            raise RetainError(f"layer {il} computes numbers that are none: is the model damaged?")


def _correlation(gates: GateSet, layers: Sequence[Layer]) -> float:
    """Correlation of -log(-log beta), about the gate's output, with log importance."""
    foreseen, found = [], []
    for il, (hidden, importance) in zip(gates.layer_indices, layers):
        log_beta = gate_output(gates, il, hidden)
        foreseen.append(-np.log(np.maximum(-log_beta, 1e-30)).ravel())
        found.append(log_importance(importance).ravel())
    return float(np.corrcoef(np.concatenate(foreseen), np.concatenate(found))[0, 1])


def _key(model: ModelFile, material: Material, options: CalibrateOptions) -> str:
    settings = {
        "model": model.fingerprint(),
        "plan": [material.plan.n_text, material.plan.n_pause],
        "text_weight": TEXT_WEIGHT,
        "documents": [document.tokens for document in material.learned],
        "options": {name: value for name, value in options.as_dict().items() if name in ("kind", "features", "seed")},
    }
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _info(model: ModelFile, material: Material, texts: Mapping[str, str]) -> GateInfo:
    kinds = dict.fromkeys(document.kind for document in material.learned)
    n_tokens = len(material.learned) * material.plan.n_text
    what = ", ".join(Path(kind).name for kind in kinds) if texts else f"the program's own {', '.join(kinds)}"
    return GateInfo(
        architecture=model.architecture,
        name=f"calibrated gates for {model.name}",
        base_name=model.name,
        base_fingerprint=base_fingerprint(model.path),
        source="retain-local gates calibrate",
        trained_on=f"{n_tokens:,} tokens: {what}",
        trained_context_length=material.plan.n_text,
        date=datetime.date.today().isoformat(),
    )


class _Teller:
    """Adds the tokens of all documents up for the caller's progress."""

    def __init__(self, on_progress: Progress | None, material: Material, n_resumed: int) -> None:
        self._on_progress = on_progress
        self._total = material.n_tokens
        self._before = n_resumed * material.plan.n_all

    def each(self, documents: Sequence[Document], plan: Plan) -> Any:
        for document in documents:
            yield document
            self._before += plan.n_all

    def reading(self, label: str) -> Callable[[int], None]:
        before = self._before

        def tell(n_read: int) -> None:
            if self._on_progress is not None:
                self._on_progress(label, before + n_read, self._total)

        tell(0)
        return tell
