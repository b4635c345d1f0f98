"""What a file, a model or the network says never steers the terminal."""

from __future__ import annotations

import logging
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain_local.terminal.safe_text import safe_line, safe_text
from support.command_line import run
from support.wrong_sidecars import write_changed_sidecar

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, täxt: β − 字 🙂", "plain, täxt: β − 字 🙂"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}[0m"),
        ("bell\x07 back\x08 nul\0 del\x7f", "bell\ufffd back\ufffd nul\ufffd del\ufffd"),
        ("\x9b2J", "\ufffd2J"),
        ("abc\u202edcb\u2066\u2069", "abc\ufffddcb\ufffd\ufffd"),
        ("one\r\ntwo\rthree", "one\ntwothree"),
        ("half \ud83d", "half \ufffd"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert safe_text(text) == shown


def test_one_line() -> None:
    assert safe_line(" a\n\n b\t\x1b[1mc\u2028d ") == "a b \ufffd[1mc\ufffdd"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = safe_text(text)
    assert all(char in "\n\t" or ord(char) >= 32 for char in shown)
    assert not any(0x7F <= ord(char) <= 0x9F for char in shown)
    shown.encode()  # and it can be written
    parts = "".join(safe_text(char) for char in text)
    assert parts == shown


def hostile_model(path: Path) -> Path:
    """A GGUF whose type is an escape sequence."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(HOSTILE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_error_line_from_a_file(tmp_path: Path) -> None:
    done = run(tmp_path, "run", hostile_model(tmp_path / "m.gguf"), stdin="hello")
    assert done.returncode == 1
    assert not set(done.stderr) & set("\x1b\x07\x9b\u202e"), ascii(done.stderr)
    assert len(done.stderr.splitlines()) == 1


def test_what_a_sidecar_calls_itself(tmp_path: Path) -> None:
    write_changed_sidecar(tmp_path / "a.gguf", {"retention_gate.variant": HOSTILE}, {})
    write_changed_sidecar(
        tmp_path / "b.gguf", {"general.name": HOSTILE, "retention_gate.base_name": "[/x]" + HOSTILE}, {}
    )
    refused = run(tmp_path, "gates", "inspect", "a.gguf")
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    taken = run(tmp_path, "gates", "inspect", "b.gguf")
    assert taken.returncode == 0 and "evil" in taken.stdout
    as_json = run(tmp_path, "gates", "inspect", "b.gguf", "--json")
    for shown in (refused.stderr, taken.stdout, as_json.stdout):
        assert not set(shown) & set("\x1b\x07\x9b\u202e"), ascii(shown)


def test_a_remark_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    from retain_local.commands.app import _Notes

    record = logging.LogRecord("retain_local", logging.WARNING, __file__, 1, "gates %s", (HOSTILE,), None)
    _Notes().emit(record)
    shown = capsys.readouterr().err
    assert "evil" in shown
    assert not set(shown) & set("\x07\x9b\u202e"), ascii(shown)
    assert "\x1b]" not in shown


@pytest.mark.parametrize("name", ["a[b].gguf", "a]b.gguf", "[bold].gguf", "\x1b[31m.gguf", "x" * 300 + ".gguf"])
def test_odd_names_of_files(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, "run", name, "-p", "hi")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "\x1b" not in done.stderr
