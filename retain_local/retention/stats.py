"""What `Retention` tells of a cache: its state, its pinned ranges, and what decides which cells stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


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
    recall : R, the most cells that a token recalls in each cell list; residents : M - R, those that an eviction leaves there
        on average.
    cells_archived, cells_archived_limit : cells in the archive now, and those that it has room for.
    cells_dropped : cells that the full archive let go since the model was loaded.
    bytes_archive, bytes_archived : bytes of K and V that the archive may take, and those of its pages in use.
    archive_seconds : time in archiving what was evicted.
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
    recall: int
    residents: int
    cells_archived: int
    cells_archived_limit: int
    cells_dropped: int
    bytes_archive: int
    bytes_archived: int
    archive_seconds: float


class ArchivedCells(NamedTuple):
    """The archived cells of a layer and KV head, in the order of their list (not sorted); all of shape [n_cells].

    positions, ordinals, log_beta : as of the cells in the pool.
    n_recalled : for how many tokens each was recalled since it was archived, or since the full archive last let cells go,
        uint32.
    """

    positions: npt.NDArray[np.int32]
    ordinals: npt.NDArray[np.int32]
    log_beta: npt.NDArray[np.float32]
    n_recalled: npt.NDArray[np.uint32]


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
