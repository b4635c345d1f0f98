"""Printing tables on narrow terminals."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement, measure_renderables
from rich.table import Table


def print_whole(console: Console, table: Table) -> None:
    """Print a table whose figures and words are all whole, where rich would cut those of its widest columns.

    Lines that do not fit the terminal even so are broken by the terminal.
    """
    options = console.options.update(max_width=1 << 16)
    natural = Measurement.get(console, options, table).maximum
    if natural > console.width:
        sizes = [measure_renderables(console, options, [column.header, *column.cells]) for column in table.columns]
        least = [size.maximum if column.no_wrap else size.minimum for column, size in zip(table.columns, sizes)]
        widths = [size.maximum for size in sizes]
        for _ in range(natural - console.width):  # the widest gives a character, as long as one has some to give
            number = max(range(len(widths)), key=lambda at: (widths[at] > least[at], widths[at]))
            widths[number] = max(widths[number] - 1, least[number])
        for column, width in zip(table.columns, widths):
            column.width = width
        table.width = natural - sum(size.maximum for size in sizes) + sum(widths)
    console.print(table, crop=False)
