"""Where a report is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..options.table import check, option

if TYPE_CHECKING:
    from .files import ReportFiles

_OUTPUT = "Output"


@dataclass(frozen=True)
class ReportOptions:
    """Files of a report; each field's `Option` says what it is."""

    report: Path | None = option(
        None,
        "Write an HTML page with tables and pictures to this file. It needs pip install 'retain-local[report]'.",
        _OUTPUT,
        Path,
    )
    png: Path | None = option(None, "Write the pictures of the report to this folder.", _OUTPUT, Path, rare=True)

    def __post_init__(self) -> None:
        check(self)

    def files(self) -> ReportFiles:
        """The same as what writes them."""
        from .files import ReportFiles

        return ReportFiles(self.report, self.png)
