"""The line after a reply."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

from retain_local.chat.stats import stats_line, stats_rows
from retain_local.retention.stats import RetentionStats

REPLY = SimpleNamespace(n_prompt=1234, prompt_rate=512.3, tokens=[1] * 56, generation_rate=20.04)
ZEROS = RetentionStats(**{field.name: 0 for field in fields(RetentionStats)} | {"device": "CPU"})
# 2 streams of 1,290 tokens, cells of 1,000 bytes; pages take more than the cells in them
FULL = replace(
    ZEROS,
    tokens_seen=1290,
    cells_seen=2580,
    cells_kept=2580,
    bytes_cell=1000,
    bytes_used=2_700_000,
    bytes_full=2_580_000,
)
EVICTED = replace(FULL, cells_kept=500, bytes_used=600_000)


def test_the_cache_is_named_once_something_was_evicted() -> None:
    assert stats_line(REPLY, FULL, n_ctx=8192) == "prompt 1,234 tok, 512 tok/s · reply 56 tok, 20.0 tok/s"
    assert stats_line(REPLY, EVICTED, n_ctx=8192).endswith("· KV 500 KB of 2.6 MB")


def test_what_does_not_grow_is_told_apart() -> None:
    mixed = replace(EVICTED, bytes_fixed=3_000_000)
    assert stats_line(REPLY, mixed, n_ctx=8192).endswith("· KV 500 KB of 2.6 MB + 3.0 MB fixed")
    assert dict(stats_rows(mixed, "gate"))["beside it"].startswith("3.0 MB of sliding windows and recurrent states")
    assert "beside it" not in dict(stats_rows(EVICTED, "gate"))


def test_the_context_is_named_when_it_is_nearly_full() -> None:
    assert "context" not in stats_line(REPLY, FULL, n_ctx=2048)
    assert stats_line(REPLY, FULL, n_ctx=1536).endswith("· context 1,290 of 1,536")


def test_what_matters_least_goes_first() -> None:
    lines = [stats_line(REPLY, EVICTED, n_ctx=1536, width=width) for width in (110, 80, 60, 20)]
    assert lines[0].startswith("prompt 1,234 tok") and "KV" in lines[0] and "context" in lines[0]
    assert lines[1] == "reply 56 tok, 20.0 tok/s · context 1,290 of 1,536 · KV 500 KB of 2.6 MB"
    assert lines[2] == "reply 56 tok, 20.0 tok/s · context 1,290 of 1,536"
    assert lines[3] == "reply 56 tok, 20.0 tok/s"


def test_no_speed_of_a_single_token() -> None:
    single = SimpleNamespace(**vars(REPLY) | {"tokens": [1], "generation_rate": 0.0})
    assert stats_line(single, FULL, n_ctx=8192).endswith("· reply 1 tok")


def test_no_speeds_without_times() -> None:
    assert stats_line(REPLY, FULL, n_ctx=8192, is_timed=False) == "prompt 1,234 tok · reply 56 tok"
