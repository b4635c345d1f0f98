"""Recall from the archive of evicted cells, as Python sees it: what is promised, told, and equal to the full cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from conftest import TinyFiles
from retain_local.errors import RetainError
from support.llamas import greedy, kept, load, prompt

ARCHIVE = {"budget": 64, "recall": 0.25, "archive": "1MiB"}
N_CELL_LISTS = 3 * 2  # of the tiny llama


def cache(tiny: TinyFiles, **options: Any) -> Any:
    return load(tiny.model("llama"), **{"gates": tiny.gates("llama")} | ARCHIVE | options)


def lists(llm: Any) -> list[tuple[int, int]]:
    return [(layer, head) for layer in llm.retention.layers for head in range(llm.retention.heads(layer))]


def archived(llm: Any) -> list[Any]:
    return [llm.retention.archived(*cell_list) for cell_list in lists(llm)]


@pytest.mark.parametrize("n", [40, 300, 700])
def test_no_cell_is_lost_while_the_archive_has_room(tiny: TinyFiles, n: int) -> None:
    """Each cell is in the pool or in the archive, and in one of them alone."""
    llm = cache(tiny)
    llm.eval(prompt(llm, n))
    stats = llm.retention.stats()
    assert (stats.recall, stats.residents, stats.budget) == (16, 48, 64)
    assert stats.cells_kept + stats.cells_archived == stats.cells_seen == n * N_CELL_LISTS
    assert stats.cells_dropped == 0 and stats.cells_archived <= stats.cells_archived_limit
    assert 0 <= stats.bytes_archived <= stats.bytes_archive <= 2**20
    assert stats.cells_peak <= stats.cells_limit <= N_CELL_LISTS * (48 + 32), "residents and a ubatch"
    for cell_list, cells in zip(lists(llm), archived(llm)):
        both = [*llm.retention.ordinals(*cell_list), *cells.ordinals]
        assert sorted(both) == list(range(n)) and (cells.positions == cells.ordinals).all()
        assert (cells.log_beta <= 0).all()
    llm.close()


def test_a_full_archive_drops_the_lowest_scores(tiny: TinyFiles) -> None:
    llm = cache(tiny, archive="128KiB", policy="window", gates=None, sinks=0)
    llm.eval(prompt(llm, 900))
    stats = llm.retention.stats()
    assert stats.cells_dropped > 0 and stats.cells_kept + stats.cells_archived + stats.cells_dropped == stats.cells_seen
    assert stats.cells_archived <= stats.cells_archived_limit and stats.bytes_archive <= 2**17
    for cells in archived(llm):
        newest = np.sort(cells.ordinals)
        assert (np.diff(newest) == 1).all(), "under the policy window the newest of what was evicted stay"
    llm.close()


@pytest.mark.parametrize("n_ubatch", [1, 32])
def test_where_all_that_was_evicted_is_recalled_nothing_is_lost(tiny: TinyFiles, n_ubatch: int) -> None:
    """A text of fewer tokens than the budget: what is not resident fits among the recalled cells."""
    usual = {"n_ubatch": n_ubatch, "buffer": n_ubatch, "gates": None, "logits_all": True, "sinks": 0}
    full = load(tiny.model("llama"), policy="none", **usual)
    llm = load(
        tiny.model("llama"), policy="window", budget=240, recall=0.8, archive="4MiB", archive_type="q8_0", **usual
    )
    gone = load(tiny.model("llama"), policy="window", budget=48, **usual)
    tokens = prompt(full, 200)
    for one in (full, llm, gone):
        one.eval(tokens)
    assert llm.retention.stats().cells_archived > 0
    wanted, found, other = (np.array(one.scores[:200], np.float64) for one in (full, llm, gone))
    error, error_gone = (np.square(one - wanted).sum() / np.square(wanted).sum() for one in (found, other))
    assert error < 1e-4 and error < error_gone / 100, (error, error_gone)
    for one in (full, llm, gone):
        one.close()


def test_recalled_cells_are_counted_for_each_token(tiny: TinyFiles) -> None:
    """A token recalls R cells of each list, or all that there are."""
    llm = cache(tiny)
    llm.eval(prompt(llm, 400))
    before = [cells.n_recalled.astype(np.int64).sum() for cells in archived(llm)]
    held = [len(cells.ordinals) for cells in archived(llm)]
    evictions = llm.retention.stats().evictions
    llm.eval(prompt(llm, 2, seed=1)[1:])
    assert llm.retention.stats().evictions == evictions, "or counts of cells that just came would be among them"
    for n_before, n_held, cells in zip(before, held, archived(llm)):
        assert cells.n_recalled.astype(np.int64).sum() - n_before == min(16, n_held)
    llm.close()


def test_without_eviction_nothing_changes(tiny: TinyFiles) -> None:
    plain, llm = (load(tiny.model("llama"), budget=1024, gates=None, archive=n) for n in (0, "1MiB"))
    tokens = prompt(plain, 300)
    assert greedy(plain, tokens, 8) == greedy(llm, tokens, 8)
    stats = llm.retention.stats()
    assert (stats.recall, stats.residents, stats.cells_archived) == (0, 1024, 0)
    plain.close()
    llm.close()


def test_what_was_asked_before_changes_nothing(tiny: TinyFiles) -> None:
    used, fresh = cache(tiny), cache(tiny)
    shared = prompt(used, 300)
    for seed in (1, 2):
        greedy(used, shared[: 100 * seed] + prompt(used, 40, seed=seed)[1:], 30)
    tokens = shared[:250] + prompt(used, 60, seed=3)[1:]
    assert greedy(used, tokens, 24) == greedy(fresh, tokens, 24) and kept(used) == kept(fresh)
    for one, other in zip(archived(used), archived(fresh)):
        assert sorted(one.ordinals) == sorted(other.ordinals)
    used.close()
    fresh.close()


def test_a_state_brings_the_archive(tiny: TinyFiles) -> None:
    llm = cache(tiny)
    tokens = prompt(llm, 400)
    llm.eval(tokens)
    state = llm.save_state()
    expected = greedy(llm, [*tokens, 5], 12)
    cells = [sorted(one.ordinals) for one in archived(llm)]
    greedy(llm, prompt(llm, 200, seed=3), 4)
    llm.load_state(state)
    assert greedy(llm, [*tokens, 5], 12) == expected
    assert [sorted(one.ordinals) for one in archived(llm)] == cells
    llm.close()


def test_a_smaller_budget_recalls_less(tiny: TinyFiles) -> None:
    llm = cache(tiny)
    llm.eval(prompt(llm, 300))
    llm.retention.set_budget(32)
    stats = llm.retention.stats()
    assert (stats.recall, stats.residents) == (8, 24) and stats.cells_kept <= 24 * N_CELL_LISTS
    assert stats.cells_kept + stats.cells_archived == stats.cells_seen
    llm.close()


def test_an_archive_in_a_file(tiny: TinyFiles, tmp_path: Path) -> None:
    path = tmp_path / "cells"
    in_memory, llm = cache(tiny), cache(tiny, archive_file=path)
    tokens = prompt(llm, 400)
    assert greedy(llm, tokens, 12) == greedy(in_memory, tokens, 12)
    assert not path.exists(), "it has no name while it is used"
    again = cache(tiny, archive_file=path)
    assert again.retention.stats().cells_archived == 0, "each has its own"
    again.close()
    llm.close()
    in_memory.close()
    path.write_bytes(b"a letter to a friend")
    with pytest.raises(RetainError, match="cells: not an archive, or a damaged one"):
        cache(tiny, archive_file=path)
    assert path.read_bytes() == b"a letter to a friend"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RetainError, match="link: a symbolic link; an archive needs the name of the file itself"):
        cache(tiny, archive_file=link)
    assert link.is_symlink() and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("options", "said"), [({"recall": 0}, "recalled"), ({"budget": 512, "n_ctx": 512}, "evicted from this cache")]
)
def test_an_archive_that_would_stay_empty_is_not_made(tiny: TinyFiles, caplog, options: dict, said: str) -> None:
    with caplog.at_level("INFO", logger="retain_local"):
        llm = cache(tiny, **options)
    assert f"nothing is {said}, so there is no archive" in caplog.text and not llm.retention.stats().bytes_archive
    llm.close()


def test_no_such_list(tiny: TinyFiles) -> None:
    llm = cache(tiny)
    with pytest.raises(RetainError, match="layer 0 has 2 KV heads; there is no head 2"):
        llm.retention.archived(0, 2)
    assert len(llm.retention.archived(0, 0).n_recalled) == 0
    llm.close()


def test_drafts_change_neither_text_nor_cells(tiny: TinyFiles) -> None:
    plain = cache(tiny)
    drafting = cache(tiny, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=10, max_ngram_size=2))
    tokens = prompt(plain, 150) * 2
    assert greedy(drafting, tokens, 80) == greedy(plain, tokens, 80) and kept(drafting) == kept(plain)
    for one, other in zip(archived(drafting), archived(plain)):
        assert sorted(one.ordinals) == sorted(other.ordinals)
    plain.close()
    drafting.close()


def test_a_prompt_that_is_held_is_archived_once(tiny: TinyFiles) -> None:
    llm = cache(tiny, prefill="full")
    tokens = prompt(llm, 300)
    greedy(llm, tokens, 2)
    stats = llm.retention.stats()
    assert stats.evictions == 1 and stats.cells_archived == N_CELL_LISTS * (300 - 48)
    llm.close()


@pytest.mark.parametrize("architecture", ["gemma2", "lfm2"])
def test_models_that_mix(tiny: TinyFiles, architecture: str) -> None:
    """The layers with full attention recall."""
    llm = load(tiny.model(architecture), gates=None, **ARCHIVE)
    llm.eval(prompt(llm, 300))
    stats = llm.retention.stats()
    assert stats.cells_archived > 0 and stats.cells_kept + stats.cells_archived == stats.cells_seen
    state, expected = llm.save_state(), greedy(llm, [*prompt(llm, 300), 5, 6], 8)
    llm.load_state(state)
    assert greedy(llm, [*prompt(llm, 300), 5, 6], 8) == expected
    llm.close()
