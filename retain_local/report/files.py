"""Where a report goes, and whether it can be made at all."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import RetainError, UsageError
from ..files import check_writable, write_text
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
            check_writable(self.page)
        if self.png is not None:
            if self.png.exists() and not self.png.is_dir():
                raise UsageError(f"{self.png} is not a folder; name one for the pictures")
            check_writable(self.png / "picture" if self.png.is_dir() else self.png)
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
                write_text(self.page, html)
            if self.png is not None:
                self.png.mkdir(exist_ok=True)
                for picture in pictures:
                    save_png(picture, self.png)
        except OSError as error:
            raise RetainError(f"{error.filename or self.page} cannot be written: {error.strerror or error}") from None
