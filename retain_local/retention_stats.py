"""What `Retention` tells of a cache: its state, its pinned ranges, and what decides which cells stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class RetentionStats:
    """The state of a cache, and what keeping it so took.

    tokens_seen : tokens that entered the cache and were not taken back.
    cells_seen : cells of those tokens: tokens times cell lists.
    cells_kept, cells_peak : cells held now, and the most ever held at once.
    cells_limit : cells that the pool promises never to exceed.
    cells_evicted, cells_moved, evictions : cells evicted and moved, and evictions run, since the model was loaded.
    cell_lists : (layer, KV head) pairs, each with a list of cells.
    budget : M, cells per cell list on average.
    page_size, pages, pages_used : cells of a page, pages of the pool, pages in use.
    bytes_pool : bytes allocated for K and V.
    device : the device in whose memory they are, as CPU or CUDA0; several are separated by commas.
    bytes_used : bytes of the pages in use.
    bytes_cell : bytes of the K row and V row of a cell.
    bytes_full : bytes that a full cache of `tokens_seen` tokens takes, in the layers that the pool holds.
    bytes_fixed : bytes of sliding windows and recurrent states, which the pool does not hold; they do not grow.
    select_seconds, move_seconds, input_seconds : time in scoring and selecting cells, in moving them, and in filling
        page tables and other graph inputs.
    """

    tokens_seen: int
    cells_seen: int
    cells_kept: int
    cells_peak: int
    cells_limit: int
    cells_evicted: int
    cells_moved: int
    evictions: int
    cell_lists: int
    budget: int
    page_size: int
    pages: int
    pages_used: int
    bytes_pool: int
    device: str
    bytes_used: int
    bytes_cell: int
    bytes_full: int
    bytes_fixed: int
    select_seconds: float
    move_seconds: float
    input_seconds: float


class PinnedRange(NamedTuple):
    """Positions [start, stop) that are never evicted."""

    start: int
    stop: int


class Steering(NamedTuple):
    """What decides which cells an eviction keeps, beside the options that a model is loaded with."""

    budget: int
    policy: str
    pins: tuple[PinnedRange, ...]
    scorer: Any
