"""Looking into reports: what a page holds, and what a browser makes of it."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_LOADS = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}


class Page(HTMLParser):
    """A page in parts.

    Attributes
    ----------
    tables : list of list of list of str
        Cells of the rows of every table, the heads too.
    addresses : list of str
        Everything that a tag loads or points to.
    tokens : list of (str, int)
        Text and shade of every token of the coloured texts.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.addresses: list[str] = []
        self.tokens: list[tuple[str, int]] = []
        self._inside: list[str] = []
        self._in_text = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in _LOADS]
        self._inside.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "div":
            self._in_text = given.get("class") == "text"
        elif tag == "i" and self._in_text:
            self.tokens.append(("", int(given["class"][1:])))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._inside):
            self.tables[-1][-1][-1] += data
        elif self._in_text and self._inside[-1:] == ["i"]:
            text, shade = self.tokens[-1]
            self.tokens[-1] = text + data, shade


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document as Chromium has it once all scripts have run, and what it complains of: errors, refused loads.

    Parameters
    ----------
    profile : an empty folder.
    """
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
            "--enable-logging=stderr", "--dump-dom", page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
