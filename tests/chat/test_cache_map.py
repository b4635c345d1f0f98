"""The picture of the cache, and the numbers of a run."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from retain_local.chat.cache_map import kept_share, render_cache_map
from retain_local.retention.retention import Retention
from retain_local.retention.stats import ArchivedCells


class Streams:
    """Stands for a `Retention` with the ordinals it is given, [layer][head]."""

    count = Retention.count

    def __init__(
        self, ordinals: list[list[list[int]]], n_seen: int, archived: list[list[list[int]]] | None = None
    ) -> None:
        self._ordinals, self._n_seen, self._archived = ordinals, n_seen, archived
        self.layers = tuple(range(len(ordinals)))

    def heads(self, layer: int) -> int:
        return len(self._ordinals[layer])

    def ordinals(self, layer: int, head: int) -> np.ndarray:
        return np.array(self._ordinals[layer][head], np.int32)

    def archived(self, layer: int, head: int) -> ArchivedCells:
        ordinals = np.array(self._archived[layer][head] if self._archived else [], np.int32)
        return ArchivedCells(
            ordinals, ordinals, np.zeros(len(ordinals), np.float32), np.zeros(len(ordinals), np.uint32)
        )

    def stats(self):
        n_archived = sum(len(cells) for of_layer in self._archived or [] for cells in of_layer)
        return type("Stats", (), {"tokens_seen": self._n_seen, "cells_archived": n_archived})


def draw(streams: Streams, width: int, height: int, pictures: list[tuple[int, int]] | None = None) -> list[str]:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(render_cache_map(streams, width, height, pictures or []))
    return console.export_text().splitlines()


def test_shares() -> None:
    streams = Streams([[[9, 0, 1, 5]]], 10)
    assert kept_share(streams, 0, 0, np.array([0, 2, 6, 10])).tolist() == [1, 0.25, 0.25]


def test_one_column_for_each_token() -> None:
    lines = draw(Streams([[[0, 1, 5], [2]]], 6), 80, 20)
    assert lines[0] == "    0    5 cells"
    assert lines[1] == "0.0 ██   █     3" and lines[2] == "0.1   █        1"
    assert "layer.head" in lines[-1] and "1.0 tokens" in lines[-1]


def test_what_is_archived_is_told_apart() -> None:
    """Where a list keeps nothing but the archive has a cell, and how many it has."""
    lines = draw(Streams([[[0, 1, 5], [2]]], 6, [[[2, 3, 4], [0]]]), 80, 20)
    assert lines[0] == "    0    5 cells archived"
    assert lines[1] == "0.0 ██···█     3        3" and lines[2] == "0.1 · █        1        1"
    assert lines[-1].endswith("· archived only")


@pytest.mark.parametrize("width", [40, 80, 100, 140])
def test_the_legend_breaks_between_its_parts(width: int) -> None:
    many = [[[0], [0]] for _ in range(30)]
    lines = draw(Streams(many, 12_345, many), width, 24)
    assert all(len(line) <= width for line in lines), lines
    legend = next(i for i, line in enumerate(lines) if line.startswith("rows: layer (mean of heads)"))
    parts = ", ".join(lines[legend:]).split(", ")
    assert parts[1].startswith("columns: ") and parts[2:] == ["░ some kept to █ all kept", "· archived only"]


def test_pictures_are_marked() -> None:
    """Above their columns, also where those are text in part, and in numbers."""
    lines = draw(Streams([[[0, 1, 5, 7], [2, 4]]], 8), 80, 20, [(2, 4), (5, 6)])
    assert lines[1].rstrip() == "      ▔▔ ▔"
    assert lines[2] == "0.0 ██   █ █     4" and lines[3] == "0.1   █ █        2"
    assert lines[-1] == "▔ of a picture: 2 of 6 cells kept"
    assert draw(Streams([[[0, 1, 5, 7]]], 8), 14, 20, [(7, 8)])[1].endswith("▔")


def test_buckets() -> None:
    row = draw(Streams([[[*range(25), 25, 26, 99]]], 100), 14, 20)[1]
    assert row == "0.0 █░ ░    28"


def test_layers_stand_for_their_heads_where_there_are_many() -> None:
    lines = draw(Streams([[[0], [0], [1], [1]] for _ in range(10)], 2), 80, 14)
    assert len(lines) == 12 and lines[1] == "0 ▒▒     4" and "mean of heads" in lines[-1]


def test_an_empty_cache() -> None:
    assert draw(Streams([[[]]], 0), 80, 20) == ["the cache is empty"]


@pytest.mark.parametrize(
    "n, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 KB"),
        (2_000_000, "2.0 MB"),
        (123_400_000, "123 MB"),
        (5e9, "5.0 GB"),
        (2e12, "2,000 GB"),
    ],
)
def test_bytes_for_people(n: float, text: str) -> None:
    from retain_local.terminal.byte_format import format_bytes

    assert format_bytes(n) == text
