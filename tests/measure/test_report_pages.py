"""Reports: pages that hold what was measured and need nothing from outside, and their pictures as files."""

from __future__ import annotations

import json
import re
import sys
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from conftest import TinyFiles
from retain_local.errors import RetainError, UsageError
from retain_local.report.coloured_text import LEVELS, ColouredText
from retain_local.report.files import ReportFiles
from support.command_line import run
from support.llamas import kept, load, text
from support.pages import CHROMIUM, Page, browse

N_UBATCH = 16
COMMON = ["--threads", "1", "--ubatch", str(N_UBATCH), "--buffer", "16", "--report", "page.html", "--png", "pictures"]
HOSTILE = "<script>document.title = 'taken'</script> & \"quoted\" </script>"
SHOWN = "1/4"  # the budget that the audit recommends
TASKS = ["--tasks", "single,changes", "--tokens", "60", "--facts", "3", "--decoys", "1", "--items", "4"]
ARMS = ["--policies", "gate,window", "--budgets", "1/2,1/4,1/8"]


class Report(NamedTuple):
    """What a command left in its folder."""

    home: Path
    html: str
    page: Page
    screen: str


def make(home: Path, *arguments: Any) -> Report:
    done = run(home, *arguments)
    assert done.returncode == 0 and not done.stderr, done.stderr
    html = (home / "page.html").read_text(encoding="utf-8")
    return Report(home, html, Page(html), done.stdout)


@pytest.fixture(scope="module")
def audited(tiny: TinyFiles, tmp_path_factory: pytest.TempPathFactory) -> Report:
    home = tmp_path_factory.mktemp("audit")
    (home / "a.txt").write_text(text(300) + "\n" + HOSTILE)
    (home / "b.txt").write_text(text(150, 1))
    options = ["--budgets", f"1/2,{SHOWN}", "--max-kl", "100", "--json", "audit.json", "--gates", tiny.gates("qwen3")]
    return make(home, "audit", tiny.model("qwen3"), "--text", "a.txt", "b.txt", *options, *COMMON)


@pytest.fixture(scope="module")
def evaluated(tiny: TinyFiles, tmp_path_factory: pytest.TempPathFactory) -> Report:
    home = tmp_path_factory.mktemp("eval")
    options = ["--gates", tiny.gates("qwen3"), "--json", "results.jsonl"]
    return make(home, "eval", tiny.model("qwen3"), *TASKS, *ARMS, *options, *COMMON)


@pytest.fixture(params=["audited", "evaluated"])
def report(request: pytest.FixtureRequest) -> Report:
    return request.getfixturevalue(request.param)


def rows(report: Report, *heads: str) -> list[dict[str, str]]:
    """The rows of all tables with these heads, by head."""
    tables = [table for table in report.page.tables if table[0][: len(heads)] == list(heads)]
    assert tables
    return [dict(zip(heads, row)) for table in tables for row in table[1:]]


# pages


def test_nothing_is_loaded_from_outside(report: Report) -> None:
    assert all(re.match(r"#|data:", address) for address in report.page.addresses), report.page.addresses
    assert all(target.startswith(("#", "data:")) for target in re.findall(r"url\(['\"]?([^)]*)", report.html))
    assert not re.search(r"@import|<link|<iframe|fetch\(|XMLHttpRequest", report.html)
    assert "default-src 'none'" in report.html


def test_pictures_are_files_too(report: Report) -> None:
    found = {path.stem for path in (report.home / "pictures").iterdir()}
    kinds = {"budget-shares", "over-time", "curves", "text"}
    if (report.home / "audit.json").exists():
        assert found == {"divergence-over-budget", "divergence-along-text", *(f"kept-{kind}" for kind in kinds)}
    else:
        quality = {f"quality-{task}" for task in ("together", "single", "changes")}
        assert found == quality | {f"kept-{method}-{kind}" for method in ("gate", "window") for kind in kinds}
    for path in (report.home / "pictures").iterdir():
        assert path.suffix == ".png" and path.read_bytes().startswith(b"\x89PNG")
    texts = {stem for stem in found if stem.startswith("kept-") and stem.endswith("-text")}
    assert report.html.count("<svg") == len(found - texts)


def test_audit_tables_hold_what_was_measured(audited: Report) -> None:
    found = json.loads((audited.home / "audit.json").read_text(encoding="utf-8"))
    shown = rows(audited, "budget", "cells", "KL mean", "95%", "99%", "agrees")
    for one, row in zip(found["budgets"], shown):
        summary = one["summary"]
        assert row == {
            "budget": one["budget"],
            "cells": str(one["cells"]),
            "KL mean": f"{summary['kl_mean']:.4f}",
            "95%": f"{summary['kl_95']:.4f}",
            "99%": f"{summary['kl_99']:.4f}",
            "agrees": f"{summary['agreement']:.1%}",
        }
    assert [row["budget"] for row in shown] == ["1/2", SHOWN, "full"]
    worst = rows(audited, "KL, nats", "where", "the text before", "came")
    assert [row["KL, nats"] for row in worst] == [f"{place['kl']:.2f}" for place in found["budgets"][1]["worst"]]
    assert worst[0]["came"] == found["budgets"][1]["worst"][0]["came"]


def test_every_token_is_coloured_by_the_heads_that_hold_it(audited: Report, tiny: TinyFiles) -> None:
    """Against a direct count of the positions that a cache of this budget is left with."""
    found = json.loads((audited.home / "audit.json").read_text(encoding="utf-8"))
    one, (whole, _) = found["budgets"][1], found["texts"]
    llm = load(
        tiny.model("qwen3"), policy="gate", gates=tiny.gates("qwen3"), budget=one["texts"][0]["cells"], buffer=16,
        n_ctx=0, n_ubatch=N_UBATCH, n_batch=N_UBATCH, type_k="f16", type_v="f16",
    )  # fmt: skip
    tokens = llm.tokenize((audited.home / "a.txt").read_bytes(), add_bos=True)[:-1]
    for start in range(0, len(tokens), N_UBATCH):
        llm.eval(tokens[start : start + N_UBATCH])
    streams = kept(llm)
    llm.close()
    held = [sum(position in stream for stream in map(set, streams)) for position in range(len(tokens))]
    assert 0 < held.count(0) < len(held)
    drawn = audited.page.tokens
    assert "".join(piece for piece, _ in drawn).replace("⏎", "") == "·" + "".join(whole["tokens"][:-1])
    for (_, shade), n in zip(drawn, held):
        assert (shade == 0) == (n == 0) and (shade == LEVELS) == (n == len(streams))
    numbers = json.loads(re.search(r'<script type="application/json">(.*?)</script>', audited.html, re.DOTALL)[1])
    assert numbers["held"] == held and numbers["of"] == len(streams)
    assert numbers["kl"][1:] == pytest.approx(one["texts"][0]["kl"][:-1], rel=0.01, abs=1e-9)


def test_eval_tables_hold_what_the_terminal_shows(evaluated: Report) -> None:
    shown, screen = rows(evaluated, "policy", "budget", "score %", "95%"), " ".join(evaluated.screen.split())
    assert {row["policy"] for row in shown} == {"full", "gate", "window"}
    for row in shown:
        assert row["score %"] in screen and row["95%"] in screen
    records = [json.loads(line) for line in (evaluated.home / "results.jsonl").read_text().splitlines()[1:]]
    for task in ("single", "changes"):
        answered = [one["scores"] for one in records if (one["task"], one["arm"]) == (task, "gate 1/4")]
        scores = list(chain(*answered))
        wanted = ("gate", "1/4", f"{100 * sum(scores) / len(scores):.1f}")
        assert wanted in [tuple(row.values()) for row in rows(evaluated, "policy", "budget", "score %")]


def test_a_text_task(tiny: TinyFiles, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text(150))
    options = ["--tasks", "text:a.txt", "--tokens", "100", "--policies", "window", "--budgets", "1/4,1/8"]
    found = make(tmp_path, "eval", tiny.model("qwen3"), *options, *COMMON)
    shown = rows(found, "policy", "budget", "KL mean", "KL 99%", "agrees %")
    assert [row["budget"] for row in shown] == ["", "1/4", "1/8"]
    assert all(row["KL 99%"] in found.screen for row in shown)
    assert found.html.count("<svg") == 4 and len(found.page.tokens) == 75, "the first of two windows"
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} > {"text-a-txt", "kept-window-text"}


def test_results_are_drawn_again_without_the_model(evaluated: Report, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes((evaluated.home / "results.jsonl").read_bytes())
    again = make(tmp_path, "results", "r.jsonl", "--report", "page.html")
    assert rows(again, "policy", "budget", "score %") == rows(evaluated, "policy", "budget", "score %")
    assert not again.page.tokens and again.html.count("<svg") == 3


def test_a_text_cannot_end_its_element(audited: Report) -> None:
    assert "<script>document" not in audited.html and "&lt;" in audited.html
    assert audited.html.count("<script") == audited.html.count("</script>") == 2


# what a browser makes of them


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_has_nothing_to_complain_of(report: Report, tmp_path: Path) -> None:
    document, complaints = browse(report.home / "page.html", tmp_path / "profile")
    assert not complaints and "<title>What eviction costs" in document
    assert document.count("<svg") == report.html.count("<svg") and Page(document).tokens == report.page.tokens


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_complains_of_what_a_report_must_not_do(tmp_path: Path) -> None:
    for name, content in ("throws", "<script>missing()</script>"), ("loads", "<img src='http://127.0.0.1:9/a.png'>"):
        page = tmp_path / f"{name}.html"
        page.write_text(f"<meta http-equiv='Content-Security-Policy' content=\"img-src data:\">{content}")
        assert browse(page, tmp_path / f"{name}-profile")[1], name


# colours


def test_shades_tell_none_and_all_from_the_rest() -> None:
    n_cell_lists = 1000
    shades = ColouredText("", np.array([0, 1, 500, 999, 1000]), n_cell_lists).levels.tolist()
    assert shades == sorted(shades) and shades[0] == 0 and shades[-1] == LEVELS and 0 < shades[1] <= shades[3] < LEVELS


@pytest.mark.parametrize("n_tokens", [1, 256, 257, 5000])
def test_runs_of_a_text_are_all_of_it(n_tokens: int) -> None:
    pieces = [f"w{i}" + ("\n" if i % 7 == 0 else " ") for i in range(n_tokens)]
    whole = ColouredText(pieces, np.zeros(n_tokens, int), 4)
    runs = list(whole.chunks())
    assert [piece.replace("⏎", "") for _, run in runs for piece, _ in run] == pieces
    assert [start for start, _ in runs] == [0, *accumulate(len(run) for _, run in runs)][:-1]
    assert max(len(run) for _, run in runs) <= 512, "a browser lays out one at a time"


# mistakes


def test_mistakes_are_found_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for files, message in [
        (ReportFiles(page=tmp_path / "absent" / "page.html"), "page.html cannot be written: its folder is missing"),
        (ReportFiles(page=tmp_path), "cannot be written: it is a folder"),
        (ReportFiles(png=tmp_path / "absent" / "pictures"), "pictures cannot be written: its folder is missing"),
        (ReportFiles(png=tmp_path / "file"), "file is not a folder"),
    ]:
        with pytest.raises(UsageError, match=message):
            files.check()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RetainError, match=r"a report needs matplotlib: pip install 'retain-local\[report\]'"):
        ReportFiles(page=tmp_path / "page.html").check()
    ReportFiles().check()


@pytest.mark.parametrize("command", ["audit absent.gguf --text absent.txt", "eval absent.gguf", "results absent.jsonl"])
def test_commands_check_first(command: str, tmp_path: Path) -> None:
    done = run(tmp_path, *command.split(), "--report", "absent/page.html")
    assert done.returncode == 2 and "absent/page.html cannot be written: its folder is missing" in done.stderr
