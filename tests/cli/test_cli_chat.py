"""`retain-local chat`, from a pipe and at a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from conftest import TinyFiles
from support.command_line import COMMAND, FAST, TIMEOUT_S, environment, run
from support.llamas import text
from support.templates import model_with_template
from support.tiny_models import TINY_MODELS, write_tiny_model

OPTIONS = [
    *FAST,
    "--temp",
    "0",
    "--max-tokens",
    "12",
    "--budget",
    "64",
    "--buffer",
    "16",
    "--type-k",
    "f32",
    "--type-v",
    "f32",
]


# what prompt_toolkit draws for "> "
PROMPT = r">\x08\x1b\[2C|> "


NO_ARCHIVE = ("--archive", "0")


def model_options(tiny: TinyFiles) -> list[str]:
    return [str(tiny.model("llama")), "--gates", str(tiny.gates("llama")), *OPTIONS]


def chat(home: Path, tiny: TinyFiles, *lines: str, options: tuple[str, ...] = ()):
    return run(home, "chat", *model_options(tiny), *options, stdin="".join(f"{line}\n" for line in lines))


def notes(done) -> list[str]:
    return done.stderr.splitlines()


def test_lines_in_replies_out(tmp_path: Path, tiny: TinyFiles) -> None:
    done = chat(tmp_path, tiny, "hello", "", "and now", options=NO_ARCHIVE)
    assert done.returncode == 0
    assert [len(line) for line in done.stdout.splitlines()] == [12, 12]
    stats = [line for line in notes(done) if line.startswith("prompt ")]
    assert len(stats) == 2
    rate = r"[\d,.]+ tok/s"
    pattern = rf"prompt \d+ tok, {rate} · reply 12 tok, {rate}"
    assert all(re.fullmatch(pattern, line) for line in stats), stats


def test_a_backslash_joins_lines(tmp_path: Path, tiny: TinyFiles) -> None:
    joined = chat(tmp_path, tiny, "one\\", "two")
    assert len(joined.stdout.splitlines()) == 1
    assert f"prompt {len('user: one_two_assistant: ') + 1} tok" in joined.stderr


def test_help_names_every_command(tmp_path: Path, tiny: TinyFiles) -> None:
    done = chat(tmp_path, tiny, "/help")
    for command in ("help", "system", "budget", "stats", "cache", "save", "load", "clear", "regen", "exit"):
        assert f"/{command}" in done.stdout


def test_exit_ends_at_once(tmp_path: Path, tiny: TinyFiles) -> None:
    assert chat(tmp_path, tiny, "/exit", "hello").stdout == ""


def test_system_and_clear(tmp_path: Path, tiny: TinyFiles) -> None:
    done = chat(
        tmp_path,
        tiny,
        "/system",
        "/system be a cat",
        "/system",
        "hello",
        "/clear",
        "hello",
        options=("--system", "be a dog"),
    )
    assert done.returncode == 0
    shown = notes(done)
    assert "be a dog" in shown and "be a cat" in shown
    first, second = done.stdout.splitlines()
    assert first == second


def test_budget(tmp_path: Path, tiny: TinyFiles) -> None:
    done = chat(
        tmp_path, tiny, text(150), "/budget 16", "/budget", "/budget 1000", "/budget no", "/stats", options=NO_ARCHIVE
    )
    assert done.returncode == 1
    assert notes(done).count("budget: 16 cells for each (layer, KV head)") == 2
    assert notes(done).count("budget: 1,000 cells for each (layer, KV head)") == 1
    assert any("not a number of cells" in line for line in notes(done))
    assert "kept 96 of" in done.stdout and "tokens seen" in done.stdout


def test_a_budget_in_every_form(tmp_path: Path, tiny: TinyFiles) -> None:
    done = chat(tmp_path, tiny, "/budget 1/64", "/budget 25%", "/budget auto", "/budget 1", "/budget")
    assert [line for line in notes(done) if "budget" in line] == [
        "budget: 64 cells for each (layer, KV head)",
        "budget: 1,024 cells for each (layer, KV head)",
        next(line for line in notes(done) if "no audit has recommended a budget" in line),
        "error: sinks (4) and recent (0) together are more than the budget of 1 cells",
        "budget: 1,024 cells for each (layer, KV head)",
    ]


def test_the_map_of_the_cache(tmp_path: Path, tiny: TinyFiles) -> None:
    done = chat(tmp_path, tiny, "/cache", text(150), "/cache", options=NO_ARCHIVE)
    lines = done.stdout.splitlines()
    assert lines[0] == "the cache is empty"
    rows = [line for line in lines if re.match(r" ?\d\.\d ", line)]
    maps = [re.fullmatch(r"([ ░▒▓█]+) +\d+", row[4:]) for row in rows]
    assert len(maps) == 6 and all(maps)
    assert all(one[1].startswith("█") for one in maps)  # the sinks
    assert any(" █" in one[1] for one in maps)  # something went


def test_saving_and_loading(tmp_path: Path, tiny: TinyFiles) -> None:
    first = chat(tmp_path, tiny, text(150), "/save a.session", "and now")
    assert first.returncode == 0 and (tmp_path / "a.session").exists()
    second = chat(tmp_path, tiny, "/load a.session", "and now")
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == first.stdout.splitlines()[1:]
    assert any(line.startswith("loaded a.session: 2 messages") for line in notes(second))


def test_a_damaged_session_leaves_the_chat(tmp_path: Path, tiny: TinyFiles) -> None:
    expected = chat(tmp_path, tiny, text(150), "/save a.session", "and now").stdout
    (tmp_path / "b.session").write_bytes((tmp_path / "a.session").read_bytes()[:-9])
    done = chat(tmp_path, tiny, text(150), "/load b.session", "/load", "/load absent", "and now")
    assert done.returncode == 1 and done.stdout == expected
    errors = [line for line in notes(done) if line.startswith("error: ")]
    assert len(errors) == 3
    assert "truncated or was altered" in errors[0] and "name a file" in errors[1] and "cannot be read" in errors[2]


def test_writing_again(tmp_path: Path, tiny: TinyFiles) -> None:
    done = chat(tmp_path, tiny, "/regen", "hello", "/regen")
    assert any("no reply to write again" in line for line in notes(done))
    first, second = done.stdout.splitlines()
    assert first == second


def test_unknown_commands(tmp_path: Path, tiny: TinyFiles) -> None:
    done = chat(tmp_path, tiny, "/dance", "hello")
    assert done.returncode == 1 and "there is no command /dance" in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_model_without_a_template(tmp_path: Path, tiny: TinyFiles) -> None:
    model = write_tiny_model(tmp_path / "model.gguf", TINY_MODELS["llama"], chat_template=None)
    done = run(tmp_path, "chat", model, *OPTIONS, "--type-v", "f16", stdin="Once\nupon\n")
    assert done.returncode == 0
    said = [line for line in notes(done) if "no chat template" in line]
    assert len(said) == 1


def spawn(tmp_path: Path, arguments: list[str]) -> pexpect.spawn:
    """The program at a terminal of its own."""
    return pexpect.spawn(
        sys.executable,
        arguments,
        env=environment(tmp_path, TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1"),
        cwd=str(tmp_path),
        dimensions=(40, 140),
        timeout=TIMEOUT_S,
        encoding="utf-8",
    )


@pytest.fixture
def terminal(tmp_path: Path, tiny: TinyFiles) -> Iterator[pexpect.spawn]:
    arguments = [*COMMAND[1:], "chat", *model_options(tiny)]
    arguments[arguments.index("--max-tokens") + 1] = "400"
    child = spawn(tmp_path, arguments)
    yield child
    child.close(force=True)


def test_at_a_terminal(terminal: pexpect.spawn, tmp_path: Path) -> None:
    terminal.expect("/help lists the commands")
    terminal.expect(PROMPT)
    terminal.send("hello\r")
    terminal.expect("reply 400 tok")
    terminal.expect(PROMPT)

    terminal.send("a longer one\x1b\rin two lines\r")  # Alt+Enter
    terminal.expect("reply ")
    terminal.expect(PROMPT)

    terminal.send("half a line\x03")  # Ctrl-C drops it
    terminal.send("/stats\r")
    terminal.expect("tokens seen")
    terminal.expect(PROMPT)

    terminal.send("\x04")  # Ctrl-D
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0
    history = (tmp_path / "retain-local" / "history").read_text()
    assert "+hello" in history and "+a longer one\n+in two lines" in history


def test_ctrl_c_stops_a_reply_and_keeps_the_session(tmp_path: Path, tiny: TinyFiles) -> None:
    arguments = [*COMMAND[1:], "chat", *model_options(tiny), "--max-tokens", "100000", "--ctx", "200000"]
    child = spawn(tmp_path, arguments)
    child.expect(PROMPT)
    child.send("hello\r")
    child.expect("[a-z ]{50}")
    child.sendintr()
    child.expect("stopped")
    child.expect(PROMPT)
    child.send("/regen\r")
    child.expect("[a-z ]{50}")
    child.sendintr()
    child.expect("stopped")
    child.send("/exit\r")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_a_full_context_says_what_to_do(tmp_path: Path, tiny: TinyFiles) -> None:
    lines = (text(150), text(150), "/ctx 1024", text(150), "/ctx 200")
    done = chat(tmp_path, tiny, *lines, options=("--ctx", "256"))
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 2
    errors = [line for line in notes(done) if line.startswith("error: ")]
    assert errors[0] == (
        "error: the context of 256 tokens is full; /ctx 1024 goes on in a longer one, /clear begins anew"
    )
    assert len(errors) == 2 and "is too short for the text of" in errors[1]


def prompt_tokens(done) -> int:
    return int(re.search(r"prompt (\d+) tok", done.stderr)[1])


def test_control_tokens_in_messages(tmp_path: Path, tiny: TinyFiles) -> None:
    plain = prompt_tokens(chat(tmp_path, tiny, "hello"))
    assert prompt_tokens(chat(tmp_path, tiny, "hello</s>")) == plain + len("</s>")
    allowed = chat(tmp_path, tiny, "hello</s>", options=("--control-tokens-in-messages",))
    assert prompt_tokens(allowed) == plain + 1


@pytest.mark.parametrize("template", ["{% if %}", "{{ 1 / 0 }}", "{{ 'a' * 10 ** 10 }}"])
def test_a_template_that_cannot_be_used(tmp_path: Path, template: str) -> None:
    model = model_with_template(tmp_path / "m.gguf", template)
    done = run(tmp_path, "chat", model, *OPTIONS, stdin="hello\n")
    assert done.returncode == 1 and done.stdout == ""
    errors = [line for line in notes(done) if "error" in line.lower()]
    assert len(errors) == 1 and "the model's chat template" in errors[0]
    assert run(tmp_path, "run", model, *OPTIONS, "-p", "hello").returncode == 0


def test_what_is_no_file(tmp_path: Path, tiny: TinyFiles) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null").symlink_to("/dev/null")
    paths = ("/dev/zero", "fifo", "null", ".")
    for command in ("/save", "/load"):
        done = chat(tmp_path, tiny, "hello", *(f"{command} {path}" for path in paths), "and now")
        assert done.returncode == 1 and len(done.stdout.splitlines()) == 2
        errors = [line for line in notes(done) if line.startswith("error:")]
        assert len(errors) == len(paths) and (tmp_path / "null").is_symlink()
