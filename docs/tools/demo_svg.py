"""Write docs/demo.svg from what the demo prints: ``.venv/bin/python docs/tools/demo_svg.py``."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from retain_local.demo.show import run_demo

PICTURE = Path(__file__).parents[1] / "demo.svg"
WIDTH = 96  # columns
COMMAND = "$ retain-local demo"
FIRST_LINE, MAP = "Every cache reads it once", "What is kept"

# Rich's own template loads a font from a server, which a picture in a README cannot.
_TEMPLATE = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="retain-local demo">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
.{unique_id}-title {{ font: 16px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def record() -> list[Text]:
    """Run the demo and return the lines that it printed, without the conversation before them."""
    printed = io.StringIO()
    console = Console(
        file=printed,
        width=WIDTH,
        force_terminal=True,
        force_interactive=False,
        color_system="truecolor",
        highlight=False,
    )
    run_demo(64, 768, 0, console)
    lines = Text.from_ansi(printed.getvalue()).split("\n")
    start = next(i for i, line in enumerate(lines) if line.plain.startswith(FIRST_LINE))
    return [Text(COMMAND), Text("…"), *lines[start:]]


def same_everywhere(text: str) -> str:
    """What is printed but for the speeds, which are another machine's, and the map, where rounding moves single cells.

    The columns of a table are as wide as the speeds in it.
    """
    without_speeds = re.sub(r"[\d,]+ tok/s", "", text[: text.index(MAP)])
    return re.sub(r" *([┃│]) *", r"\1", re.sub(r"([━─])\1+", r"\1", without_speeds))


def texts_of(svg: str) -> str:
    """The characters of a picture, line by line."""
    lines: dict[str, list[str]] = {}
    for y, text in re.findall(r'<text[^>]*? y="([\d.]+)"[^>]*>([^<]*)</text>', svg):
        lines.setdefault(y, []).append(text)
    return "\n".join(" ".join("".join(parts).replace("&#160;", " ").split()) for parts in lines.values())


def render(lines: list[Text]) -> str:
    """The picture of these lines."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(line)
    return console.export_svg(title="retain-local", theme=SVG_EXPORT_THEME, code_format=_TEMPLATE, unique_id="demo")


if __name__ == "__main__":
    PICTURE.write_text(render(record()), encoding="utf-8")
