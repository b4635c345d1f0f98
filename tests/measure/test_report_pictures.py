"""Pictures of reports: they draw the numbers that they are given, and come out the same each time."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from retain_local.audit.pictures import divergence_pictures
from retain_local.audit.verdict import Bound
from retain_local.evaluation.pictures import score_picture, text_picture
from retain_local.evaluation.points import Point
from retain_local.evaluation.text_points import TextPoint
from retain_local.report import measures
from retain_local.report.coloured_text import ColouredText
from retain_local.report.coloured_text import text_picture as text_as_picture
from retain_local.report.recorder import HELD, Trace
from retain_local.report.retention_pictures import retention_pictures
from retain_local.report.style import Picture, save_png, to_svg
from support.audits import make_audit, make_budget
from support.divergences import made_up


def point(method: str, budget: str, cells: float, accuracy: tuple[float, float, float]) -> Point:
    difference = None if method == "full" else (0.0, -0.1, 0.1)
    return Point(method, budget, method == "full", 10, accuracy, difference, cells, 1000, 2000, 0, 1.0, 1.0)


FULL = point("full", "", 400, (0.9, 0.8, 0.95))
POINTS = [
    FULL,
    point("gate", "1/2", 200, (0.9, 0.7, 0.95)),
    point("gate", "1/8", 50, (0.6, 0.5, 0.7)),
    point("gate:head", "1/8", 50, (0.4, 0.3, 0.5)),
    point("window", "1/8", 50, (0.1, 0.0, 0.3)),
]
TEXT_POINTS = [
    TextPoint("full", "", True, 90, 100, (0, 0, 0), 0, (1, 1, 1), 5, (1, 1, 1)),
    TextPoint("window", "1/2", False, 90, 50, (0.1, 0.05, 0.15), 1, (0.9, 0.8, 0.95), 6, (1.1, 1, 1.2)),
    TextPoint("window", "1/4", False, 90, 25, (0.3, 0.2, 0.4), 1, (0.7, 0.6, 0.8), 6, (1.1, 1, 1.2)),
]


def make_trace(n_layers: int, n_heads: int, n: int) -> Trace:
    """A trace of random lives."""
    rng = np.random.default_rng(0)
    streams = tuple((layer, head) for layer in range(n_layers) for head in range(n_heads))
    life = 1 + rng.integers(0, 2 * n, (len(streams), n))
    evicted_at = np.where(np.arange(n) + life > n, HELD, np.arange(n) + life).astype(np.int32)
    return Trace(streams, 10, evicted_at, -rng.random((len(streams), n)).astype(np.float32))


def drawn(picture: Picture, at: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The series of one of the axes by name: their y, and the ends of their bars."""
    found = {}
    for series in picture.figure.axes[at].containers:
        ends = np.array([segment[:, 1] for segment in series.lines[2][0].get_segments()])
        found[series.get_label()] = series.lines[0].get_ydata(), ends
    return found


def test_scores() -> None:
    picture = score_picture("two hops!", "two hops", POINTS)
    found = drawn(picture)
    assert picture.name == "quality-two-hops" and set(found) == {"gate", "gate:head", "window"}
    means, ends = found["gate"]
    np.testing.assert_allclose(means, [60, 90])  # by budget
    np.testing.assert_allclose(ends, [[50, 70], [70, 95]])
    (axes,) = picture.figure.axes
    (full,) = (line for line in axes.get_lines() if line.get_label() == "full cache")
    assert set(full.get_ydata()) == {90}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1/8\n(50)", "1/2\n(200)"]


def test_looks_tell_methods_apart_without_colour() -> None:
    def looks(points: list[Point]) -> set[tuple[str, str]]:
        (axes,) = score_picture("x", "x", points).figure.axes
        return {(one.lines[0].get_marker(), one.lines[0].get_linestyle()) for one in axes.containers}

    assert len(looks(POINTS)) == 3
    assert len(looks([FULL, *(replace(POINTS[1], method=f"gate ({label})") for label in "abcdefgh")])) == 8


def test_texts() -> None:
    picture = text_picture("text:a.txt", "a.txt", TEXT_POINTS)
    assert picture.name == "text-a-txt"
    np.testing.assert_allclose(drawn(picture, 0)["window"][0], [0.3, 0.1])
    np.testing.assert_allclose(drawn(picture, 1)["window"][1], [[60, 80], [80, 95]])


def test_divergence_over_budget() -> None:
    audit = make_audit({16: 0.5, 32: 0.25, 128: 0.0}, covered=(128,))
    over_budget, along = divergence_pictures(audit, Bound(0.3, None))
    left, right = over_budget.figure.axes
    lines = {line.get_label(): line for line in left.get_lines()}
    assert lines["mean"].get_xdata().tolist() == [16, 32] and lines["mean"].get_ydata().tolist() == [0.5, 0.25]
    assert set(lines["bound of the mean"].get_ydata()) == {0.3}
    assert right.get_lines()[0].get_ydata().tolist() == [100, 100]
    low, high = left.get_ylim()
    assert sum(low <= tick.get_position()[1] <= high and bool(tick.get_text()) for tick in left.get_yticklabels()) > 1
    assert [line.get_label() for line in along.figure.axes[0].get_lines()] == ["16 (16)", "32 (32)"]
    assert divergence_pictures(make_audit({128: 0.0}, covered=(128,)), Bound(0.3, None)) == []


def test_names_below_a_picture_are_not_cut_off() -> None:
    audit = make_audit({16: 0.5, 32: 0.25})
    recalled = [replace(one, recall=0.25) for one in audit.budgets]
    for picture in divergence_pictures(replace(audit, budgets=(*audit.budgets, *recalled)), Bound(0.3, None)):
        (legend,) = picture.figure.legends
        assert len(legend.get_texts()) in (7, 4) and legend.get_window_extent().width <= picture.figure.bbox.width


def test_not_every_one_of_many_layers_is_numbered() -> None:
    shares = retention_pictures(make_trace(30, 3, 40), "kept")[0].figure.axes[0]
    assert [label.get_text() for label in shares.get_xticklabels()] == [str(layer) for layer in range(0, 30, 2)]


def test_divergence_along_texts() -> None:
    kl = np.arange(480) % 7 / 7
    audit = make_audit({16: 0.0})
    budget = make_budget("16", [made_up(kl.tolist(), cells=16), made_up(kl[:240].tolist(), cells=16)])
    audit = replace(audit, budgets=(budget,), texts=budget.texts)
    line, border = divergence_pictures(audit, Bound(1, None))[1].figure.axes[0].get_lines()
    np.testing.assert_allclose(line.get_ydata(), np.concatenate([kl, kl[:240]]).reshape(240, 3).mean(axis=1))
    assert set(border.get_xdata()) == {480}


@pytest.mark.parametrize("n_layers", [2, 12])
def test_what_is_kept(n_layers: int) -> None:
    trace = make_trace(n_layers, 3, 300)
    shares, curves, over_time = retention_pictures(trace, "kept")
    cells = measures.by_layer_and_head(trace, measures.cells_of(trace))
    np.testing.assert_allclose(shares.figure.axes[0].images[0].get_array(), cells / cells.mean())
    assert sorted(text.get_text() for text in shares.figure.axes[0].texts) == sorted(f"{n:.0f}" for n in cells.ravel())
    share = over_time.figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(share, 100 * measures.held_over_time(trace, 256, 256))
    at = measures.ages(trace, 60)
    for axes, values in zip(curves.figure.axes, (measures.kept_at_age(trace, at), measures.beta_at_age(trace, at))):
        *layers, every = axes.get_lines()
        np.testing.assert_allclose([line.get_ydata() for line in layers], 100 * values)
        np.testing.assert_allclose(every.get_ydata(), 100 * values.mean(axis=0))


@pytest.mark.parametrize("n_tokens", [1, 2, 3])
def test_the_shortest_texts(n_tokens: int) -> None:
    trace = Trace(((0, 0),), 1, np.full((1, n_tokens), HELD, np.int32), np.zeros((1, n_tokens), np.float32))
    with warnings.catch_warnings():
        for category in (RuntimeWarning, UserWarning):
            warnings.simplefilter("error", category)
        assert len([to_svg(picture) for picture in retention_pictures(trace, "kept")]) == 3


def everything() -> list[Picture]:
    return [
        score_picture("x", "x", [*POINTS, point(r"window ($\x$ $)", "64", 64, (0.5, 0.4, 0.6))]),
        *divergence_pictures(make_audit({16: 0.5}), Bound(0.3, 0.9)),
        *retention_pictures(make_trace(2, 2, 50), "kept"),
    ]


def test_pictures_of_one_page_do_not_share_names() -> None:
    svgs = [to_svg(picture) for picture in everything()]
    assert [to_svg(picture) for picture in everything()] == svgs, "the same numbers, the same bytes"
    ids = [name for svg in svgs for name in re.findall(r' id="([^"]*)"', svg)]
    assert len(set(ids)) == len(ids)
    for svg in svgs:
        inside = set(re.findall(r' id="([^"]*)"', svg))
        assert set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', svg)) <= inside
        assert "#1b1e23" not in svg and "var(--ink)" in svg, "it follows the colours of the page"


def test_text_in_any_script(tmp_path: Any) -> None:
    pieces = ["·", "$x$ ", "漢字", "\n", "\x1b[31m", "word " * 40, "end\n"]
    picture = text_as_picture(ColouredText(pieces, np.arange(7), 6), "text")
    with warnings.catch_warnings():
        for category in (RuntimeWarning, UserWarning):
            warnings.simplefilter("error", category)
        save_png(picture, tmp_path)
    written = "".join(text.get_text() for text in picture.figure.axes[0].texts)
    assert "$x$ 漢字⏎" in written and "\x1b" not in written and written.endswith("end⏎")
    assert (tmp_path / "text.png").stat().st_size > 1000
