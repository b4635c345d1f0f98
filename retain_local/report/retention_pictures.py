"""Pictures of what a cache kept of one text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import measures
from .recorder import Trace
from .style import INK, SHARES, Picture, add_legend, new_figure, series, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RESOLUTION = 256  # columns and rows of the map over time
_AGES = 60
_NUMBERED = 64  # most cells of the heat map that have their number written in
_LABELLED = 16  # most layers that have their number below the heat map
_NAMED = 6  # most layers that a legend names; more get a scale


def retention_pictures(trace: Trace, name: str) -> list[Picture]:
    """The pictures of a trace; `name` begins the names of their files."""
    return [
        _budget_shares(trace, f"{name}-budget-shares"),
        _curves(trace, f"{name}-curves"),
        _over_time(trace, f"{name}-over-time"),
    ]


def _budget_shares(trace: Trace, name: str) -> Picture:
    cells = measures.by_layer_and_head(trace, measures.cells_of(trace))
    mean = np.nanmean(cells)
    n_heads, _n_layers = cells.shape
    with styled(**{"axes.grid": False}):
        figure = new_figure(height=float(np.clip(1.4 + 0.3 * n_heads, 1.8, 5.5)))
        axes = figure.add_subplot()
        image = axes.imshow(cells / mean, cmap="cividis", vmin=0, vmax=max(2, np.nanmax(cells / mean)), aspect="auto")
        _whole_numbers(axes, trace, n_heads)
        if cells.size <= _NUMBERED:
            for (head, layer), n in np.ndenumerate(cells):
                if np.isfinite(n):
                    shade = np.mean(image.cmap(image.norm(np.asarray(n / mean)))[:3])
                    colour = "black" if shade > 0.45 else "white"
                    axes.text(layer, head, f"{n:,.0f}", ha="center", va="center", color=colour, fontsize=9)
        _scale(figure, axes, image, "× the mean")
    caption = (
        f"Cells that each layer and KV head holds at the end, as a multiple of their mean, {mean:,.1f} (the budget, and"
        " what came in since the last eviction). One pool serves all of the model unless the scope is layer or head, so"
        " heads that need more get more."
    )
    return Picture(name, "Who gets the budget", caption, figure)


def _whole_numbers(axes: Axes, trace: Trace, n_heads: int) -> None:
    step = -(-len(trace.layers) // _LABELLED)
    axes.set_xticks(range(0, len(trace.layers), step), list(map(str, trace.layers[::step])))
    axes.set_yticks(range(0, n_heads, max(1, n_heads // 8)))
    axes.set(xlabel="layer", ylabel="KV head")
    axes.spines[:].set_visible(False)


def _over_time(trace: Trace, name: str) -> Picture:
    n = trace.n_tokens
    size = min(_RESOLUTION, n)
    share = 100 * measures.held_over_time(trace, size, size)
    with styled(**{"axes.grid": False}):
        figure = new_figure(height=4.4)
        axes = figure.add_subplot()
        image = axes.imshow(share, cmap=SHARES, vmin=0, vmax=100, origin="lower", extent=(0, n, 0, n), aspect="auto")
        axes.set(xlabel="tokens read", ylabel="position")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        _scale(figure, axes, image, "% of the heads that hold it")
    caption = (
        "Each column is a moment of the reading, each row a stretch of the text: the colour is how many of the heads of"
        " all layers still held it. The diagonal is what had just been read; a row that stays light was kept to the end."
    )
    return Picture(name, "What was kept while the text was read", caption, figure)


def _curves(trace: Trace, name: str) -> Picture:
    at = measures.ages(trace, _AGES)
    kept = measures.kept_at_age(trace, at)
    panels = [("cells still kept, %", kept)]
    if trace.log_beta is not None:
        panels.append(("mean of β to the power of age, %", measures.beta_at_age(trace, at)))
    with styled():
        figure = new_figure(width=6.4, height=3.6)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for one, (label, values) in zip(axes, panels):
            _draw_layers(one, at, values, trace)
            one.set(xscale="log", ylim=(-3, 103), xlabel="age, tokens", title=label)
            one.xaxis.set_major_formatter("{x:,.0f}")
        _name_layers(figure, axes, trace)
    caption = (
        "Of the cells of each layer, the share that was still there so many tokens after they had entered; only cells"
        " that entered long enough before the end count. The thick line is all layers together."
    )
    if trace.log_beta is not None:
        caption += " Beside it what the gates promised: the mean of β^age, which the budget then cuts off."
    return Picture(name, "How long cells stay", caption, figure)


def _draw_layers(axes: Axes, at: npt.NDArray[np.int64], values: measures.Array, trace: Trace) -> None:
    for number, row in enumerate(values):
        axes.plot(at, 100 * row, linewidth=1.1, **_layer_look(number, len(values)))
    heads = [sum(layer == one for one, _ in trace.cell_lists) for layer in trace.layers]
    axes.plot(at, 100 * np.average(values, axis=0, weights=heads), color=INK, linewidth=2.4, label="all")


def _layer_look(number: int, count: int) -> dict:
    if count <= _NAMED:
        return {key: value for key, value in series(number).items() if key != "marker"}
    import matplotlib

    # without the ends of the scale, which are hard to see on white and on black
    return {"color": matplotlib.colormaps[SHARES](0.15 + 0.7 * number / (count - 1))}


def _name_layers(figure: Figure, axes: npt.NDArray, trace: Trace) -> None:
    lines = axes[0].get_lines()
    if len(trace.layers) <= _NAMED:
        for line, layer in zip(lines, trace.layers):
            line.set_label(f"layer {layer}")
        add_legend(figure, axes[0])
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap([line.get_color() for line in lines[:-1]])
    scale = ScalarMappable(Normalize(trace.layers[0], trace.layers[-1]), colours)
    _scale(figure, list(axes), scale, "layer")
    add_legend(figure, axes[0])


def _scale(figure: Figure, axes: Axes | list[Axes], mappable, label: str) -> None:
    bar = figure.colorbar(mappable, ax=axes, label=label)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)  # one small image instead of 256 shapes
