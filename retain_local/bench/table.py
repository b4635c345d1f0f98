"""The tables of `retain-local bench`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..terminal.byte_format import format_bytes
from ..terminal.whole_table import print_whole
from .measure import OURS, STOCK, Depth
from .summary import Row, Spread


def print_tables(console: Console, found: Sequence[Depth], rows: Sequence[Row], read_rate: float) -> None:
    """Speeds by depth, what the cache takes, and where the time goes.

    Parameters
    ----------
    read_rate : bytes a second that the machine reads in one run.
    """
    has_stock = STOCK in rows[0].read
    print_whole(console, _speeds(rows, has_stock))
    print_whole(console, _memory(found, has_stock))
    print_whole(console, _shares(rows, read_rate))
    if any(depth.sides[STOCK].is_estimated for depth in found if has_stock):
        console.print("[dim]≈ from ubatches at each depth, of a cache that was filled without prefill[/]")


def _speeds(rows: Sequence[Row], has_stock: bool) -> Table:
    beside = ": stock llama.cpp in brackets, ratio as median (least to most of the pairs)" if has_stock else ""
    table = Table(title=f"Tokens each second{beside}")
    table.add_column("depth", justify="right")
    for name in ("prefill", "decode", "time to first token"):
        table.add_column(name, justify="right")
        if has_stock:
            table.add_column("ratio", justify="right")
    for row in rows:
        cells = [f"{row.depth:,}"]
        for rates, ratio in ((row.read, row.read_ratio), (row.write, row.write_ratio)):
            cells.append(f"{rates[OURS]:,.1f}" + (f" ({rates[STOCK]:,.1f})" if has_stock else ""))
            cells += [_spread(ratio)] if ratio else []
        seconds = row.first_token
        cells.append(f"{seconds[OURS]:,.1f} s" + (f" ({seconds[STOCK]:,.1f} s)" if has_stock else ""))
        cells += [f"{row.first_token_ratio:.2f}"] if row.first_token_ratio else []
        table.add_row(*cells)
    return table


def _gates(row: Row) -> str:
    if not row.gate_bytes_share:
        return "none"
    whole = f"{row.gate_share.median:.1%}" if row.gate_share else "not measured"
    return f"{whole}; {row.gate_bytes_share:.1%}"


def _spread(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.least:.2f} to {spread.most:.2f})"


def _memory(found: Sequence[Depth], has_stock: bool) -> Table:
    is_mixed = any(depth.sides[OURS].stats["bytes_fixed"] for depth in found)
    has_archive = any(depth.sides[OURS].stats["bytes_archived"] for depth in found)
    table = Table("depth", "cells", "K and V", "most so far", "allocated", "on", title="Memory")
    if has_archive:
        table.add_column("archived")
    if is_mixed:
        table.add_column("windows and states")
    table.add_column("peak memory")
    if has_stock:
        table.add_column("stock: K and V")
        table.add_column("peak memory")
    for depth in found:
        stats = depth.sides[OURS].stats
        cells = [
            f"{depth.depth:,}", f"{stats['n_cells']:,}", format_bytes(stats["n_cells"] * stats["bytes_cell"]),
            format_bytes(stats["n_cells_peak"] * stats["bytes_cell"]), format_bytes(stats["bytes_pool"]), stats["device"],
            *([format_bytes(stats["bytes_archived"])] if has_archive else []),
            *([format_bytes(stats["bytes_fixed"])] if is_mixed else []), format_bytes(stats["resident"]),
        ]  # fmt: skip
        if has_stock:
            stock = depth.sides[STOCK].stats
            cells += [format_bytes(stock["state_bytes"]), format_bytes(stock["resident"])]
        table.add_row(*cells)
    return table


def _shares(rows: Sequence[Row], read_rate: float) -> Table:
    table = Table(
        "depth", "gates; reading their weights alone", "choosing, moving, archiving cells", "K and V are read at",
        title="Where the time of decoding a token goes",
    )  # fmt: skip
    for row in rows:
        rate = "lost in the noise"
        if row.kv_rate is not None:
            rate = f"{row.kv_rate / 1e9:.1f} GB/s, {row.kv_rate / read_rate:.0%} of {read_rate / 1e9:.1f}"
        evicting = "nothing was evicted" if row.evict_share is None else f"{row.evict_share:.2%}"
        table.add_row(f"{row.depth:,}", _gates(row), evicting, rate)
    return table
