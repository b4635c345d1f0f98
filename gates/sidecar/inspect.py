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
from .gate_set import GateSet, Linear


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
        "tied": gates.tied,
        "activation": gates.activation,
        "block_count": gates.n_layer,
        "embedding_length": gates.n_embd,
        "feed_forward_length": gates.n_ff,
        "head_count_kv": gates.n_head_kv,
        "trained_budget": info.trained_budget,
        "trained_context_length": info.trained_context_length,
        "base_name": info.base_name,
        "base_fingerprint": info.base_fingerprint,
        "source": info.source,
        "license": info.license,
        "n_bytes": sidecar.n_bytes,
        "n_params": sum(array.size for _, array in gates.tensors()),
        "types": {type: types.count(type) for type in sorted(set(types))},
        "score": _describe_linear(gates.score),
        "layers": [_describe_layer(gates, il) for il in range(gates.n_layer)],
    }


def _describe_layer(gates: GateSet, il: int) -> dict[str, Any]:
    layer = gates.layers[il]
    return {
        "layer": il,
        "in": _describe_linear(layer.hidden),
        "mid": _describe_linear(layer.mid),
        "score": _describe_linear(layer.score),
    }


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
    parts = [part for part in ("in", "mid", "score") if description["layers"][0][part] is not None]
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
    n_layer, n_embd, n_ff, n_head_kv = (
        description[key] for key in ("block_count", "embedding_length", "feed_forward_length", "head_count_kv")
    )
    final = "tied" if description["tied"] else "own per layer"
    types = ", ".join(f"{count} {type}" for type, count in description["types"].items())
    rows = [
        ("name", description["name"]),
        ("variant", f"{description['variant']}, final projection {final}, {description['activation']}"),
        ("shape", f"{n_layer} layers, {n_embd} -> F {n_ff} -> {n_head_kv} KV heads"),
        ("tensors", f"{types}; {description['n_params']:,} parameters, {description['n_bytes']:,} bytes"),
        ("base", f"{description['base_name'] or 'unnamed'} ({description['architecture']})"),
        ("fingerprint", description["base_fingerprint"] or "none: fits any model of this shape"),
        ("trained budget", description["trained_budget"]),
        ("trained context", description["trained_context_length"]),
        ("source", description["source"]),
        ("license", description["license"]),
    ]
    return [(label, value) for label, value in rows if value is not None]


def _cells(linear: dict[str, Any]) -> tuple[str, str]:
    return f"{linear['norm']:.3g}", f"{linear['bias_min']:.3g} to {linear['bias_max']:.3g}"
