"""`retain-local bench`: from what was asked for to tables, numbers and a picture."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gguf
from rich.console import Console
from rich.markup import escape

from ..bench.machine import check_idle, describe
from ..bench.measure import OURS, PLAIN, SHALLOW, SHALLOW_DEPTH, STOCK, Depth, Measurement, sides_at
from ..bench.options import BenchOptions
from ..bench.plot import check_plot, save_plot
from ..bench.side import Side
from ..bench.stock import stock_libraries
from ..bench.summary import summarise
from ..bench.table import print_tables
from ..bindings import library
from ..errors import UsageError
from ..files import check_writable, write_text
from ..kv_types import kv_type
from ..models.model_file import read_model_file
from ..options.archive import share_text, size_text
from ..options.budget import AUTO_BUDGET, LONGEST, Budget
from ..options.model_options import ModelOptions
from ..options.retention_options import RetentionOptions
from ..terminal.progress import BenchProgress
from .loading import gates_to_load
from .model_name import find_model

_READ_RATE_BYTES, _READ_RATE_REPEAT = 512 << 20, 5
_SEED = 0
_LONGEST = 2**31 - 1  # tokens of a context


def run_bench(model: str, options: BenchOptions, retention: RetentionOptions, loading: ModelOptions) -> None:
    """Measure, with progress, and print the tables.

    Raises
    ------
    UsageError : depths or numbers that are out of range.
    RetainError : the machine is busy, the model or a library cannot be loaded, or a file cannot be written.
    """
    depths = _depths(options.depths)
    if options.plot is not None:
        check_plot(options.plot)
    if options.json is not None:
        check_writable(options.json)
    path, fetched_gates = find_model(model)
    arguments = _arguments(path, depths, options, retention, loading)
    retention = replace(retention, gates=gates_to_load(retention, fetched_gates))
    fields = _fields(path, retention, loading, arguments["n_ctx"], depths[-1])
    stock = stock_libraries() if options.vs_stock else None
    if not options.anyway:
        check_idle()
    console = Console(highlight=False, emoji=False)
    with ExitStack() as stack:
        read_rate = _read_rate(arguments["n_threads"])
        processes = _start(stack, fields, arguments, stock)
        found = _measure(stack, processes, depths, options, arguments["n_ubatch"])
    rows = summarise(found, _gate_bytes(fields["gates"]) / read_rate)
    threads = f"{arguments['n_threads']} threads"
    heading = f"{path.name} on {describe()}; {threads}, ubatch {arguments['n_ubatch']}, {_words(fields)}"
    console.print(escape(heading))
    print_tables(console, found, rows, read_rate)
    settings = arguments | {"model": path.name, "machine": describe(), "retention": fields}
    if options.json is not None:
        numbers = {"settings": settings, "read_rate": read_rate, "rows": [asdict(row) for row in rows]}
        each = [asdict(depth) for depth in found]
        write_text(options.json, json.dumps(numbers | {"depths": each}, indent=1) + "\n")
    if options.plot is not None:
        save_plot(options.plot, rows, f"{path.name}, budget {fields['budget']:,}")


def _depths(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= LONGEST and int(part) > SHALLOW_DEPTH for part in parts):
        raise UsageError(f"depths {text[:80]!r} are not numbers of tokens above {SHALLOW_DEPTH}, as in 512,2048,8192")
    return sorted({int(part) for part in parts})


def _fields(
    model: Path, retention: RetentionOptions, loading: ModelOptions, n_ctx: int, deepest: int
) -> dict[str, Any]:
    """What is resolved of the retention options: the fields that a side needs, as JSON takes them."""
    if retention.budget != AUTO_BUDGET:
        budget = Budget.parse(retention.budget, sizes=True)
        if budget.share is not None:
            retention = replace(retention, budget=budget.of(deepest))
    resolved = retention.resolve(
        read_model_file(model), n_ctx=n_ctx, type_k=kv_type(loading.type_k), type_v=kv_type(loading.type_v)
    )
    gates = None if resolved.gates is None else str(Path(resolved.gates).absolute())
    fields = {"budget": resolved.budget, "buffer": resolved.buffer, "gates": gates, "policy": resolved.policy}
    if resolved.recall_share:
        fields |= {name: getattr(resolved, name) for name in ("recall", "archive", "archive_type")}
    return fields


def _words(retention: dict[str, Any]) -> str:
    """The options as a line; gates by the name of their file."""
    shown = {name: Path(value).name if name == "gates" and value else value for name, value in retention.items()}
    if "archive" in shown:
        shown |= {"archive": size_text(retention["archive"]), "recall": share_text(retention["recall"])}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)


def _arguments(
    model: Path, depths: list[int], options: BenchOptions, retention: RetentionOptions, loading: ModelOptions
) -> dict[str, Any]:
    """How every side loads the model. A cache that evicted cannot go back, so there is room for all that is read."""
    n_ubatch = retention.n_ubatch or 0
    n_ctx = depths[-1] + options.repeat * (n_ubatch + options.tokens) * (len(depths) + 1)
    if n_ctx > _LONGEST:
        raise UsageError(
            f"these depths, tokens and repeats take a context of {n_ctx:,} tokens; {_LONGEST:,} is the most"
        )
    n_threads = loading.n_threads or os.cpu_count() or 1
    return {
        "model": str(model.absolute()), "n_ctx": n_ctx, "n_ubatch": n_ubatch, "n_threads": n_threads,
        "type_k": kv_type(loading.type_k).ggml, "type_v": kv_type(loading.type_v).ggml,
        "n_gpu_layers": loading.n_gpu_layers, "seed": _SEED,
    }  # fmt: skip


def _read_rate(n_threads: int) -> float:
    """In a process of its own: the numbers that it reads would count as memory of a side."""
    side = Side("the memory's rate", library.directory())
    try:
        return side.ask("read_rate", n_bytes=_READ_RATE_BYTES, repeat=_READ_RATE_REPEAT, n_threads=n_threads)
    finally:
        side.close()


def _gate_bytes(gates: str | None) -> int:
    """Bytes of the gates' weights, all of which are read for each token."""
    return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(gates).tensors) if gates else 0


def _start(stack: ExitStack, retention: dict[str, Any], arguments: dict[str, Any], stock: Path | None) -> list[Side]:
    """The processes of `Measurement`: its sides, then the shallow one."""
    wanted: list[tuple[str, Path, dict[str, Any] | None]] = [(OURS, library.directory(), retention)]
    if retention["gates"] is not None:
        wanted.append((PLAIN, library.directory(), retention | {"gates": None, "policy": "window"}))
    if stock is not None:
        wanted.append((STOCK, stock, None))
    wanted.append((SHALLOW, library.directory(), retention))
    sides = []
    for name, libraries, fields in wanted:
        side = Side(name, libraries)
        stack.callback(side.close)
        side.ask("open", retention=fields, **arguments)
        sides.append(side)
    return sides


def _measure(
    stack: ExitStack, processes: list[Side], depths: list[int], options: BenchOptions, n_ubatch: int
) -> list[Depth]:
    *sides, shallow = processes
    n_steps = sum(len(sides_at(depth, sides)) for depth in depths) * (1 + 2 * options.repeat)
    progress = stack.enter_context(BenchProgress(n_steps))
    return Measurement(sides, shallow, n_ubatch, options.tokens, options.repeat, progress.step).run(depths)
