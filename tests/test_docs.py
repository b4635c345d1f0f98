"""The documentation says what the program does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_command_line_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "docs" / "command_line.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), "run docs/command_line.py"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(r"`((?:native|retain_local|gates|tests|docs)/[\w./-]*)`", text):
        assert (ROOT / target).exists() or (ROOT / target.rstrip("/")).exists(), target


def test_patch_size_is_as_documented() -> None:
    changed = sum(
        bool(re.match(r"[+-](?![+-])", line))
        for patch in (ROOT / "native" / "patches").glob("*.patch")
        for line in patch.read_text(encoding="utf-8").splitlines()
    )
    assert f"{changed} changed lines" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
