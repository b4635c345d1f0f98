"""What a gate sidecar holds, as a dict for programs and as a table for people."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ...terminal.safe_text import safe_line
from .file import read_sidecar
from .parts import KVzipGate, LayerGate, Linear
from .variants import STATIC


def describe_sidecar(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read, check and summarise a gate sidecar.

    Returns
    -------
    dict that `json.dumps` takes: the metadata, `n_bytes` and `n_params`, `types` (tensors of each type), `score` (the
    tied final projection, or None) and `layers`, a list with the Frobenius norms and the bias range of each layer's
    projections.

    Raises
    ------
    GateFileError : as `read_sidecar`.
    """
    sidecar = read_sidecar(path)
    info, gates = sidecar.info, sidecar.gates
    types = list(sidecar.types.values())
    return {
        "path": os.fspath(path),
        "name": info.name,
        "architecture": info.architecture,
        "variant": gates.variant,
        "score_kind": gates.score_kind,
        "window": gates.window,
        "tied": gates.tied,
        "activation": gates.activation if gates.has_activation else None,
        "block_count": gates.n_layer,
        "embedding_length": gates.n_embd,
        "feed_forward_length": gates.n_ff or None,
        "gated_layers": list(gates.layer_indices),
        "head_count_kv": list(gates.heads),
        "trained_budget": info.trained_budget,
        "trained_context_length": info.trained_context_length,
        "base_name": info.base_name,
        "base_fingerprint": info.base_fingerprint,
        "source": info.source,
        "license": info.license,
        "trained_on": info.trained_on,
        "date": info.date,
        "n_bytes": sidecar.n_bytes,
        "n_params": sum(array.size for _, array in gates.tensors()),
        "types": {type: types.count(type) for type in sorted(set(types))},
        "score": _describe_linear(gates.score),
        "layers": [_describe_layer(il, gate) for il, gate in zip(gates.layer_indices, gates.layers)],
    }


def _describe_layer(il: int, gate: LayerGate | KVzipGate) -> dict[str, Any]:
    parts: dict[str, Linear | None]
    if isinstance(gate, KVzipGate):
        parts = {"q": gate.q, "k": Linear(gate.k, np.zeros(1)), "score": Linear(gate.base, gate.bias)}
    else:
        parts = {"in": gate.hidden, "mid": gate.mid, "score": gate.score}
    return {"layer": il} | {name: _describe_linear(linear) for name, linear in parts.items()}


def _describe_linear(linear: Linear | None) -> dict[str, Any] | None:
    if linear is None:
        return None
    return {
        "shape": list(linear.weight.shape),
        "norm": float(np.linalg.norm(linear.weight)),
        "bias_min": float(linear.bias.min()),
        "bias_max": float(linear.bias.max()),
    }


def sidecar_table(description: dict[str, Any]) -> Group:
    """The dict of `describe_sidecar` as a rich renderable: a list of facts and a table of layers."""
    parts = [part for part, value in description["layers"][0].items() if isinstance(value, dict)]
    layers = Table("layer", *(f"{part} {what}" for part in parts for what in ("norm", "bias")))
    for layer in description["layers"]:
        layers.add_row(str(layer["layer"]), *(cell for part in parts for cell in _cells(layer[part])))
    if description["score"] is not None:
        layers.add_section()
        layers.add_row("score of all", *_cells(description["score"]))
    return Group(facts_table(description), layers)


def facts_table(description: dict[str, Any]) -> Table:
    """The facts of the dict of `describe_sidecar`, without its layers, as a rich renderable."""
    facts = Table.grid(padding=(0, 2))
    for label, value in _facts(description):
        facts.add_row(f"[bold]{label}", Text(safe_line(str(value))))
    return facts


def _facts(description: dict[str, Any]) -> list[tuple[str, Any]]:
    types = ", ".join(f"{count} {type}" for type, count in description["types"].items())
    rows = [
        ("name", description["name"]),
        ("variant", _variant(description)),
        ("scores", _scores(description)),
        ("shape", _shape(description)),
        ("tensors", f"{types}; {description['n_params']:,} parameters, {description['n_bytes']:,} bytes"),
        ("base", f"{description['base_name'] or 'unnamed'} ({description['architecture']})"),
        ("fingerprint", description["base_fingerprint"] or "none: fits any model of this shape"),
        ("trained budget", description["trained_budget"]),
        ("trained context", description["trained_context_length"]),
        ("trained on", description["trained_on"]),
        ("date", description["date"]),
        ("source", description["source"]),
        ("license", description["license"]),
    ]
    return [(label, value) for label, value in rows if value is not None]


def _variant(description: dict[str, Any]) -> str:
    if description["activation"] is None:
        return description["variant"]
    final = "tied" if description["tied"] else "own per layer"
    return f"{description['variant']}, final projection {final}, {description['activation']}"


def _scores(description: dict[str, Any]) -> str:
    what = "static: the gate's output" if description["score_kind"] == STATIC else "decay with age: age * log beta"
    window = f"; the newest {description['window']} cells are kept" if description["window"] else ""
    return what + window


def _shape(description: dict[str, Any]) -> str:
    heads, gated, n_layer = description["head_count_kv"], description["gated_layers"], description["block_count"]
    layers = f"{n_layer} layers" if len(gated) == n_layer else f"{len(gated)} of {n_layer} layers"
    hidden = f" -> F {description['feed_forward_length']}" if description["feed_forward_length"] else ""
    n_heads = str(heads[0]) if len(set(heads)) == 1 else f"{min(heads)} to {max(heads)}"
    return f"{layers}, {description['embedding_length']}{hidden} -> {n_heads} KV heads"


def _cells(linear: dict[str, Any]) -> tuple[str, str]:
    return f"{linear['norm']:.3g}", f"{linear['bias_min']:.3g} to {linear['bias_max']:.3g}"
