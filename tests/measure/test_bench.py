"""`retain-local bench` on tiny models: what it counts, and what it refuses. Never how fast."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import psutil
import pytest

from conftest import TinyFiles
from retain_local.bench.measure import OURS, PLAIN, SHALLOW, STOCK, Depth, Measured, Measurement
from retain_local.bench.side import Side
from retain_local.bench.summary import summarise
from retain_local.bindings import library
from retain_local.models.gguf_header import read_header
from support.command_line import run
from support.libraries import STOCK_VARIABLE
from support.tiny_models import TINY_MODELS

ARCH = "qwen3"
BUDGET, BUFFER, UBATCH = 64, 16, 32
OPTIONS = [
    "--anyway", "--depths", "48,300", "--tokens", "12", "--repeat", "2", "--threads", "1", "--ubatch", UBATCH,
    "--budget", BUDGET, "--buffer", BUFFER,
]  # fmt: skip
STOCK_LIBRARIES = os.environ.get(STOCK_VARIABLE)


def bench(tiny: TinyFiles, folder: Path, *more: str) -> dict:
    out = folder / "bench.json"
    done = run(
        folder, "bench", tiny.model(ARCH), "--gates", tiny.gates(ARCH), *OPTIONS, "--json", out, *more, COLUMNS="44"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{OURS}: going to 48\n"), "a log tells what takes long"
    assert "…" not in done.stdout  # a figure that is cut says nothing
    assert "Tokens each second" in done.stdout and "Memory" in done.stdout
    return json.loads(out.read_text())


def weight_bytes(sidecar: Path) -> int:
    """Of all of its tensors, f32 in these tests."""
    header = read_header(sidecar)
    assert all(tensor.type == 0 for tensor in header.tensors.values())
    return sum(4 * math.prod(tensor.shape) for tensor in header.tensors.values())


def test_numbers(tiny: TinyFiles, tmp_path: Path) -> None:
    numbers = bench(tiny, tmp_path)
    assert [depth["depth"] for depth in numbers["depths"]] == [48, 300]
    assert [row["depth"] for row in numbers["rows"]] == [48, 300]
    shape = TINY_MODELS[ARCH]
    n_cell_lists = shape.n_layer * shape.n_head_kv
    for depth in numbers["depths"]:
        assert set(depth["sides"]) == {OURS, PLAIN}
        assert len(depth["shallow_seconds"]) == 2 and min(depth["shallow_seconds"]) > 0
        ours = depth["sides"][OURS]
        assert len(ours["read_seconds"]) == len(ours["write_seconds"]) == 2
        assert min(*ours["read_seconds"], *ours["write_seconds"], ours["first_token_seconds"]) > 0
        assert ours["stats"]["n_cells_peak"] <= n_cell_lists * (BUDGET + max(BUFFER, UBATCH))
        assert ours["stats"]["resident"] > 0
    shallow, deep = (depth["sides"][OURS]["stats"] for depth in numbers["depths"])
    assert shallow["n_evictions"] == 0 and shallow["n_cells"] == n_cell_lists * (48 + 12)  # went back before each time
    assert deep["n_evictions"] > 0 and n_cell_lists * BUDGET <= deep["n_cells"] < n_cell_lists * (BUDGET + BUFFER)
    shares = [row["gate_bytes_share"] * row["write"][OURS] ** -1 * numbers["read_rate"] for row in numbers["rows"]]
    assert shares == pytest.approx([weight_bytes(tiny.gates(ARCH))] * 2)
    assert (
        numbers["read_rate"] > 0 and numbers["rows"][0]["evict_share"] is None and numbers["rows"][1]["evict_share"] > 0
    )
    first = [depth["sides"][OURS]["first_token_seconds"] for depth in numbers["depths"]]
    assert first == sorted(first)


@pytest.mark.skipif(not STOCK_LIBRARIES, reason=f"{STOCK_VARIABLE} names no stock libraries")
def test_beside_stock(tiny: TinyFiles, tmp_path: Path) -> None:
    numbers = bench(tiny, tmp_path, "--vs-stock", "--plot", str(tmp_path / "bench.png"))
    for row in numbers["rows"]:
        assert set(row["read"]) == {OURS, PLAIN, STOCK}
        assert row["read_ratio"]["least"] <= row["read_ratio"]["median"] <= row["read_ratio"]["most"]
        # medians of both sides are as far apart as some of their pairs
        assert row["write_ratio"]["least"] <= row["write"][OURS] / row["write"][STOCK] <= row["write_ratio"]["most"]
    full = numbers["depths"][1]["sides"][STOCK]["stats"]
    assert full["depth"] == 300 + 12 and not numbers["depths"][1]["sides"][STOCK]["is_estimated"]
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not STOCK_LIBRARIES, reason=f"{STOCK_VARIABLE} names no stock libraries")
def test_a_filled_cache_is_as_deep_as_a_read_one(tiny: TinyFiles) -> None:
    side = Side(STOCK, Path(STOCK_LIBRARIES))
    try:
        side.ask("open", retention=None, model=str(tiny.model(ARCH)), n_ctx=1024, n_ubatch=64, n_threads=1, type_k=1,
                 type_v=1, n_gpu_layers=0, seed=0)  # fmt: skip
        side.ask("read", n=700)
        read = side.ask("stats")["state_bytes"]
        side.ask("back", depth=0)
        side.ask("fill", depth=700)
        assert side.ask("stats")["state_bytes"] == read
        side.ask("read", n=20)
        side.ask("write", n=5)
        assert side.ask("stats")["depth"] == 725
    finally:
        side.close()


class Clock:
    """A side whose tokens take 1 ms and another for each 1,000 before them; it is asked, and reads nothing."""

    def __init__(self, name: str) -> None:
        self.name, self.depth, self.n_read = name, 0, 0

    def ask(self, command: str, **arguments: int) -> object:
        if command in ("read", "write"):
            seconds = sum(1e-3 + 1e-6 * (self.depth + i) for i in range(arguments["n"]))
            self.depth += arguments["n"]
            self.n_read += arguments["n"]
            return [seconds] if command == "read" else seconds
        if command in ("fill", "back"):
            self.depth = arguments["depth"]
            return True
        return {"n_evictions": 0, "n_cells": 8 * self.depth, "n_cell_lists": 8, "bytes_cell": 100, "bytes_archived": 0}


@pytest.mark.parametrize("depths", [[20_000], [1_000, 20_000], [1_000, 8_192, 20_000]])
def test_a_deep_cache_of_stock_is_estimated(depths: list[int]) -> None:
    sides = [Clock(OURS), Clock(PLAIN), Clock(STOCK)]
    found = Measurement(sides, Clock(SHALLOW), 512, 10, 2, lambda what, n_steps: None).run(depths)
    assert set(found[-1].sides) == {OURS, STOCK} and found[-1].sides[STOCK].is_estimated
    assert sides[2].n_read < 12_000  # of 20,000
    true = 20_000 * 1e-3 + 1e-6 * 20_000**2 / 2
    for side in found[-1].sides.values():
        assert side.first_token_seconds == pytest.approx(true, rel=0.03)


def test_what_a_long_reading_tells() -> None:
    told: list[tuple[str, int]] = []
    Measurement([Clock(OURS)], Clock(SHALLOW), 512, 10, 2, lambda *step: told.append(step)).run([20_000])
    going = [what for what, n_steps in told if not n_steps]
    assert going == [f"retain-local: {n:,} of 19,488 tokens read" for n in (0, 8_192, 16_384)]
    assert sum(n_steps for _, n_steps in told) == 1 + 2 * 2


def test_shares_and_rates() -> None:
    clock = {name: Measured([0.5], seconds, 1.0, stats={"n_cells": 8_000, "n_cell_lists": 8, "bytes_cell": 100, "bytes_archived": 0})
             for name, seconds in ((OURS, [0.02, 0.03]), (PLAIN, [0.019, 0.0285]), (STOCK, [0.04, 0.09]))}  # fmt: skip
    (row,) = summarise([Depth(1_000, 512, clock, shallow_seconds=[0.01, 0.01])], gate_seconds=0.001)
    assert row.write_ratio.median == pytest.approx(2.5) and row.write_ratio.most == pytest.approx(3.0)
    assert row.gate_share.median == pytest.approx(0.05) and row.gate_bytes_share == pytest.approx(0.001 / 0.025)
    assert row.kv_rate == pytest.approx((8_000 - 16 * 8) * 100 / 0.015)
    assert row.evict_share is None and row.read[OURS] == 1024


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--depths", "512,x"], 2, "depths '512,x' are not numbers of tokens above 16"),
        (["--depths", "8"], 2, "depths '8' are not numbers"),
        (["--depths", "9" * 5000], 2, "are not numbers of tokens"),
        (["--gates", "absent.gguf"], 1, "absent.gguf: no such gate sidecar"),
        (["--json", "absent/out.json"], 2, "its folder is missing"),
        (["--plot", "absent/out.png"], 2, "its folder is missing"),
        (["--plot", "out.txt"], 2, "out.txt: a picture cannot be a .txt; it can be one of"),
        (["--depths", "9999999999999"], 2, " tokens; 2,147,483,647 is the most"),
        (["--type-k", "q5"], 2, "KV type 'q5' is not one of"),
        (["--repeat", "0"], 2, "repeat is 0; it must be a whole number from 1"),
    ],
)
def test_mistakes(tiny: TinyFiles, tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    done = run(tmp_path, "bench", tiny.model(ARCH), *OPTIONS, *arguments)
    assert done.returncode == status and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_model_whose_name_is_no_utf_8(tiny: TinyFiles, tmp_path: Path) -> None:
    model = tmp_path / "caf\udce9.gguf"
    model.symlink_to(tiny.model(ARCH))
    done = run(tmp_path, "bench", model, *OPTIONS)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_is_left_to_the_process_that_asks() -> None:
    side = Side("one", library.directory())
    try:
        side.ask("read_rate", n_bytes=1 << 16, repeat=1, n_threads=1)
        side._process.send_signal(signal.SIGINT)
        assert side.ask("read_rate", n_bytes=1 << 16, repeat=1, n_threads=1) > 0
    finally:
        side.close()


def test_gates_of_another_model(tiny: TinyFiles, tmp_path: Path) -> None:
    done = run(tmp_path, "bench", tiny.model(ARCH), "--gates", tiny.gates("llama"), *OPTIONS)
    assert done.returncode == 1 and "the gates are for a llama model, this one is qwen3" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from retain_local.bench.machine import check_idle
    from retain_local.errors import RetainError

    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds: 50.0)
    with pytest.raises(RetainError, match="this machine is busy"):
        check_idle(0.1)
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds: 0.1)
    check_idle(0.1)


def test_stock_libraries_that_are_named_but_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retain_local.bench.stock import VARIABLE, stock_libraries
    from retain_local.errors import RetainError

    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(RetainError, match="holds no"):
        stock_libraries()
