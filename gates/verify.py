"""Whether the native gates compute what the gates in NumPy do, on real hidden states of the base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ..bindings.capture import Capture
from ..errors import RetainError
from ..llama import Llama
from ..models.model_file import read_model_file
from .checkpoint.read import read_checkpoint
from .export import check_pair
from .sidecar.file import Sidecar, read_sidecar
from .sidecar.forward import gate_output
from .sidecar.gate_set import GateSet
from .watched import WatchedLlama

# The largest relative difference that rounding explains: of float32 sums; of weights and inputs in f16, as which ggml
# also computes gelu; of both in blocks of 8 bits. Log beta is compared with itself, static scores with their range.
TOLERANCES = {"f32": 1e-4, "f16": 2e-2, "q8_0": 5e-1}
STATIC_TOLERANCES = {"f32": 1e-4, "f16": 1e-2, "q8_0": 1e-1}

DEFAULT_TEXT = Path(__file__).with_name("verify.txt")
N_BATCH = 128

_GATE_INPUT, _RESIDUAL, _EMBEDDING, _OUTPUT = "attn_norm", "l_out", "embd", "retention_log_beta"
_TINY = np.finfo(np.float32).tiny  # below it float32 loses digits: such a log beta never decides anything


@dataclass
class LayerDifference:
    """How far the native output of one layer's gate is from the one in NumPy, over all tokens and KV heads.

    is_static : the output is the score itself, and not log beta.
    lowest, highest : of the output in NumPy.
    difference : the largest absolute difference.
    relative : the largest difference relative to log beta. Where beta is close to 1, log beta is -exp(-u), so this is
        the difference of the gate's output u itself. Of static scores: relative to their range, as only differences
        between scores decide.
    """

    layer: int
    is_static: bool = False
    lowest: float = np.inf
    highest: float = -np.inf
    difference: float = 0.0
    relative: float = 0.0

    def add(self, computed: np.ndarray, expected: np.ndarray) -> None:
        """Take in some tokens: outputs [n_tokens, H_kv], native and in NumPy."""
        difference = np.abs(computed - expected)
        self.lowest = min(self.lowest, float(expected.min()))
        self.highest = max(self.highest, float(expected.max()))
        self.difference = max(self.difference, float(difference.max()))
        if self.is_static:
            self.relative = self.difference / max(self.highest - self.lowest, float(_TINY))
        else:
            self.relative = max(self.relative, float((difference / np.maximum(np.abs(expected), _TINY)).max()))


@dataclass
class Verification:
    """What a comparison found.

    against : the file whose weights NumPy used.
    is_static : whether the gates give the score itself, and not log beta.
    weight_type : the coarsest type among the sidecar's weights.
    tolerance : of the relative difference.
    n_tokens : tokens compared.
    """

    sidecar: str
    base: str
    against: str
    is_static: bool
    weight_type: str
    tolerance: float
    n_tokens: int = 0
    layers: list[LayerDifference] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(layer.relative <= self.tolerance for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """A dict that `json.dumps` takes."""
        return asdict(self) | {"passed": self.passed}


def verify_sidecar(
    path: Path,
    base: Path,
    text: str,
    n_tokens: int,
    checkpoint: Path | None = None,
    tolerance: float | None = None,
    **options: Any,
) -> Verification:
    """Compare native gates with those in NumPy, on the hidden states that the base model has for a text.

    Parameters
    ----------
    path, base : the sidecar and its model.
    text, n_tokens : the beginning of the text is read, as many tokens of it.
    checkpoint : the weights for NumPy, as `read_checkpoint` takes it; None: the sidecar's own.
    tolerance : None: the one in `TOLERANCES` or `STATIC_TOLERANCES`.
    options : of `Llama`, such as n_threads.

    Raises
    ------
    RetainError : a file cannot be used, the gates are for another model, the checkpoint for another than the sidecar,
        the vocabulary cannot express the text, or what a gate gives is not a number.
    """
    sidecar, model = read_sidecar(path), read_model_file(base)
    check_pair(sidecar.gates, model, str(path))
    gates, against = sidecar.gates, path
    if checkpoint is not None:
        found = read_checkpoint(checkpoint, base)
        _check_same_kind(found.gates, str(found.path), sidecar.gates, str(path))
        gates, against = found.gates, found.path
    weight_type, is_static = _weight_type(sidecar), gates.is_static
    if tolerance is None:
        tolerance = (STATIC_TOLERANCES if is_static else TOLERANCES)[weight_type]
    result = Verification(str(path), str(base), str(against), is_static, weight_type, tolerance)
    tokens = _tokenize(base, text)[: min(n_tokens, model.n_ctx_train or n_tokens)]
    result.n_tokens = len(tokens)
    widths = {_OUTPUT: 1} | dict.fromkeys((_GATE_INPUT, _RESIDUAL, _EMBEDDING), gates.n_embd)
    capture = Capture(widths)
    llm = WatchedLlama(
        base, capture.callback, gates=path, policy="gate", budget=len(tokens), sinks=0, n_ctx=len(tokens), n_batch=N_BATCH,
        n_ubatch=N_BATCH, **options,
    )  # fmt: skip
    # gates of layers that keep a cache of their own outside the pool are never computed
    result.layers = [LayerDifference(il, is_static) for il in gates.layer_indices if il in llm.retention.layers]
    try:
        for start in range(0, len(tokens), N_BATCH):
            llm.eval(tokens[start : start + N_BATCH])
            capture.check()
            _compare(result, gates, capture.values)
            capture.values.clear()
    finally:
        llm.close()
    return result


def _tokenize(base: Path, text: str) -> list[int]:
    """The tokens of a text, before the weights are loaded: their number is the size of the cache."""
    vocabulary = Llama(base, vocab_only=True)
    try:
        tokens = vocabulary.tokenize(text.encode(), special=False)
    finally:
        vocabulary.close()
    if not tokens:
        raise RetainError("the text has no tokens")
    return tokens


def _compare(result: Verification, gates: GateSet, values: Mapping[str, list[np.ndarray]]) -> None:
    for layer in result.layers:
        il = layer.layer
        expected = gate_output(gates, il, np.concatenate(_gate_input(values, il)))
        computed = np.concatenate(values[f"{_OUTPUT}-{il}"]).reshape(expected.shape)  # layers may differ in their heads
        if not np.isfinite(computed).all() or not np.isfinite(expected).all():
            what = "the score" if gates.is_static else "log beta"
            raise RetainError(f"layer {il}: {what} is not a number, natively or in NumPy; is the base model damaged?")
        layer.add(computed, expected)


def _gate_input(values: Mapping[str, list[np.ndarray]], il: int) -> list[np.ndarray]:
    """What q, k and v of a layer read: its input norm, or the residual stream in models that have none."""
    names = f"{_GATE_INPUT}-{il}", f"{_RESIDUAL}-{il - 1}" if il else _EMBEDDING
    found = [values[name] for name in names if name in values]
    if not found:
        raise RetainError(f"layer {il}: llama.cpp does not name what its attention reads, so nothing can be compared")
    return found[0]


def _check_same_kind(gates: GateSet, name: str, others: GateSet, other_name: str) -> None:
    for what in ("variant", "score_kind", "activation", "n_layer", "layer_indices", "n_embd", "n_ff", "heads"):
        have, needed = getattr(gates, what), getattr(others, what)
        if have != needed:
            raise RetainError(f"{name} is not what {other_name} was made from: {what} is {have}, not {needed}")


def _weight_type(sidecar: Sidecar) -> str:
    """The coarsest type of the weights; gelu is computed in f16."""
    types = {*sidecar.types.values(), "f16" if sidecar.gates.activation == "gelu" else "f32"}
    return max(types, key=list(TOLERANCES).index)


def verification_table(result: Verification) -> Table:
    """The layers of a `Verification` as a rich table."""
    what = ("score", "relative to its range") if result.is_static else ("log β", "relative to log β")
    table = Table("layer", what[0], "largest difference", what[1], "")
    for layer in result.layers:
        is_right = layer.relative <= result.tolerance
        table.add_row(
            str(layer.layer),
            f"{layer.lowest:.3g} to {layer.highest:.3g}",
            f"{layer.difference:.2g}",
            f"{layer.relative:.2g}",
            "[green]ok[/]" if is_right else "[red]too large[/]",
        )
    return table
