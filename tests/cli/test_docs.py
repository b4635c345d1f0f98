"""The documentation says what the program does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def load_script(name: str) -> ModuleType:
    """A script of docs/tools as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "tools" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture(scope="module")
def command_line() -> ModuleType:
    """The script that writes the page."""
    return load_script("command_line")


def test_command_line_page_is_current(command_line: ModuleType) -> None:
    assert command_line.PAGE.read_text(encoding="utf-8") == command_line.render(), "run docs/tools/command_line.py"


def test_page_of_python_options_is_current() -> None:
    script = load_script("python_options")
    assert script.PAGE.read_text(encoding="utf-8") == script.render(), "run docs/tools/python_options.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_rows_of_a_table_have_as_many_cells_as_its_head(page: Path) -> None:
    n_cells = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            n_cells = None
            continue
        found = len(re.findall(r"(?<!\\)\|", line)) - 1
        n_cells = n_cells or found
        assert found == n_cells, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        heads = re.findall(r"^#+ (.*)", (page.parent / target if target else page).read_text(encoding="utf-8"), re.M)
        assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], anchor
    for target in re.findall(r"`((?:native|retain_local|gates|tests|docs)/[\w./-]*)`", text):
        assert (ROOT / target).exists() or (ROOT / target.rstrip("/")).exists(), target


def test_picture_of_the_demo_is_current() -> None:
    picture = load_script("demo_svg")
    saved, made = picture.PICTURE.read_text(encoding="utf-8"), picture.render(picture.record())
    texts = [picture.same_everywhere(picture.texts_of(svg)) for svg in (saved, made)]
    assert texts[0] == texts[1], "run docs/tools/demo_svg.py"
    assert "9 of 9" in texts[0] and "tok/s" in saved


def test_patch_size_is_as_documented() -> None:
    changed = sum(
        bool(re.match(r"[+-](?![+-])", line))
        for patch in (ROOT / "native" / "patches").glob("*.patch")
        for line in patch.read_text(encoding="utf-8").splitlines()
    )
    assert f"{changed} changed lines" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.search(rf"a patch of {changed}\s+lines", (ROOT / "README.md").read_text(encoding="utf-8"))
