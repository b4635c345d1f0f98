"""Where a report goes, and whether it can be made at all."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import RetainError, UsageError
from .style import Picture, save_png


@dataclass(frozen=True)
class ReportFiles:
    """A page and a folder for its pictures as PNG; None where it is not wanted."""

    page: Path | None = None
    png: Path | None = None

    @property
    def wanted(self) -> bool:
        return self.page is not None or self.png is not None

    def check(self) -> None:
        """Find out before anything is measured whether the report can be made.

        Raises
        ------
        UsageError : a path that cannot be written.
        RetainError : matplotlib is missing.
        """
        if self.page is not None:
            _check_writable(self.page)
            if self.page.is_dir():
                raise UsageError(f"{self.page} cannot be written: it is a folder")
        if self.png is not None:
            _check_writable(self.png)
            if self.png.exists() and not self.png.is_dir():
                raise UsageError(f"{self.png} is not a folder; name one for the pictures")
        if self.wanted and importlib.util.find_spec("matplotlib") is None:
            raise RetainError("a report needs matplotlib: pip install 'retain-local[report]'")

    def write(self, html: str, pictures: Iterable[Picture]) -> None:
        """Write the page and the pictures, those that are wanted.

        Raises
        ------
        RetainError : a file cannot be written.
        """
        try:
            if self.page is not None:
                self.page.write_text(html, encoding="utf-8", errors="replace")
            if self.png is not None:
                self.png.mkdir(exist_ok=True)
                for picture in pictures:
                    save_png(picture, self.png)
        except OSError as error:
            raise RetainError(f"{error.filename or self.page} cannot be written: {error.strerror or error}") from None


def _check_writable(path: Path) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{path} cannot be written: its folder is missing")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"{path} cannot be written: no permission")
