"""`retain-local chat` and `run` in the hands of a person at a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from conftest import TinyFiles
from retain_local.chat.session_file import MAGIC
from support.command_line import FAST
from support.llamas import text
from support.terminal import PROMPT, plain, spawn, spawn_shell

OPTIONS = [*FAST, "--temp", "0", "--budget", "64", "--buffer", "16"]
# every token is as likely as any other, control characters among them
WILD = ["--temp", "90", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "1"]


def model_options(tiny: TinyFiles) -> list[object]:
    return [tiny.model("llama"), "--gates", tiny.gates("llama"), *OPTIONS]


@pytest.fixture
def chat(tmp_path: Path, tiny: TinyFiles) -> Iterator[pexpect.spawn]:
    child = spawn(tmp_path, "chat", *model_options(tiny), "--max-tokens", 30, columns=80)
    child.expect(PROMPT)
    yield child
    child.close(force=True)


def say(child: pexpect.spawn, typed: str, expected: str) -> str:
    """Type a line, and what was on the screen before the expected text."""
    child.send(f"{typed}\r")
    child.expect(expected)
    shown = plain(child.before)
    child.expect(PROMPT)
    return shown


def test_the_loading_bar_does_not_stay(tmp_path: Path, tiny: TinyFiles) -> None:
    child = spawn(tmp_path, "chat", tiny.model("llama"), *OPTIONS, columns=80)  # without gates there is a remark
    child.expect("/help lists")
    written = child.before
    assert "loading llama.gguf" in written and "no gates at" in written
    after = written[written.rindex("loading llama.gguf") :]
    assert re.search(r"\x1b\[1A\x1b\[2K", after) and "no gates at" not in plain(after[: after.index("\x1b[1A")])
    child.close(force=True)


def test_the_cursor_is_never_hidden_by_a_bar(tmp_path: Path, tiny: TinyFiles) -> None:
    (tmp_path / "long.txt").write_text(text(3000))
    child = spawn(tmp_path, "run", *model_options(tiny), "-f", "long.txt", "--ctx", 4096, "--max-tokens", 5)
    child.expect(pexpect.EOF)
    assert "reading the prompt" in child.before and "\x1b[?25l" not in child.before


def test_the_line_after_a_reply_fits(tmp_path: Path, tiny: TinyFiles) -> None:
    for columns in (140, 80, 40):
        child = spawn(tmp_path, "chat", *model_options(tiny), "--max-tokens", 30, columns=columns)
        child.expect(PROMPT)
        child.send(f"{text(150)}\r")
        child.expect(r"((?:prompt|reply) \d.*?)\x1b\[0m\r\n")
        line = plain(child.match[1])
        assert len(line) <= columns and "reply 30 tok" in line
        assert ("KV" in line) == (columns > 40)
        child.close(force=True)


def test_replies_are_wrapped_at_words(tmp_path: Path, tiny: TinyFiles) -> None:
    child = spawn(
        tmp_path,
        "run",
        *model_options(tiny),
        "-p",
        text(100),
        "--temp",
        3,
        "--seed",
        1,
        "--max-tokens",
        400,
        columns=40,
    )
    child.expect("reply ")
    # a word that is moved is taken back first
    assert re.search(r"\x1b\[\d+D\x1b\[K\r\n", child.before)
    child.close(force=True)


@pytest.mark.parametrize("command", ["run", "chat"])
def test_no_control_codes_of_a_model(tmp_path: Path, tiny: TinyFiles, command: str) -> None:
    options = [*model_options(tiny), *WILD, "--max-tokens", 300]
    if command == "run":
        child = spawn(tmp_path, "run", *options, "-p", "abc")
    else:
        child = spawn(tmp_path, "chat", *options)
        child.expect(PROMPT)
        child.send("abc\r")
        child.expect("abc")
    child.expect(r"(?s)(.*)\x1b\[2m(prompt|reply) \d")
    written = re.sub(r"\x1b\[(\d*[ABCDJK]|0m|\?\d+[hl]|0;?[\d;]*m)|\x1b\[\d*G", "", child.match[1])
    assert "\N{REPLACEMENT CHARACTER}" in written
    reply = written.splitlines()[-3:]
    assert not re.search(r"[\x00-\x07\x0b-\x0c\x0e-\x1f\x7f-\x9f]", "".join(reply))
    child.close(force=True)


def test_a_message_may_begin_with_a_slash(chat: pexpect.spawn) -> None:
    assert "there is no command /usr/bin" in say(chat, "/usr/bin is a folder", "as a message")
    say(chat, " /usr/bin is a folder", "reply 30 tok")


def test_the_nearest_command(chat: pexpect.spawn) -> None:
    assert "there is no command /stat; did you mean /stats?" in say(chat, "/stat", "as a message")
    assert "there is no command /; did you mean /help?" in say(chat, "/", "as a message")
    assert "there is no command /nothing; /help lists them. A space" in say(chat, "/nothing", "as a message")


def test_a_block_is_sent_when_it_ends(chat: pexpect.spawn) -> None:
    chat.send('"""\r/one\rtwo\r')
    chat.expect("two")
    assert "reply" not in chat.before
    say(chat, '"""', f"prompt {len('user: /one_two_assistant: ') + 1} tok")


@pytest.mark.parametrize("command", ["/exit", "/quit", "/bye"])
def test_leaving(chat: pexpect.spawn, command: str) -> None:
    chat.send(f"{command}\r")
    chat.expect(pexpect.EOF)
    chat.wait()
    assert chat.exitstatus == 0


def test_saving_asks_before_it_replaces(chat: pexpect.spawn, tmp_path: Path) -> None:
    other = tmp_path / "other file"
    other.write_text("precious")
    say(chat, "hello", "reply 30 tok")
    chat.send('/save "other file"\r')
    chat.expect(r"is there already. Replace it\? \[y/N\]")
    chat.send("yesterday\r")  # typed ahead: no answer
    chat.expect(r"is there already. Replace it\? \[y/N\]")
    chat.send("\r")
    chat.expect(PROMPT)
    assert other.read_text() == "precious"
    chat.send("/save other\\ file\r")
    chat.expect(r"\[y/N\]")
    chat.send("y\r")
    chat.expect("saved other file")
    chat.expect(PROMPT)
    say(chat, "more", "reply 30 tok")
    say(chat, "/save other file", "saved other file")  # the file is this conversation's own by now
    say(chat, "/save /", "cannot be written: it is a folder")


def test_a_conversation_is_not_dropped_unasked(chat: pexpect.spawn, tmp_path: Path) -> None:
    say(chat, "/system be a cat", "begins anew")  # there is none yet
    say(chat, "hello", "reply 30 tok")
    say(chat, "/load absent", "cannot be read: No such file")  # nothing to ask about
    (tmp_path / "b.session").write_bytes(b"notes")
    say(chat, "/load b.session", "is not a saved session")
    (tmp_path / "b.session").write_bytes(MAGIC)
    for command in ("/system be a dog", "/load b.session"):
        chat.send(f"{command}\r")
        chat.expect(r"This drops the conversation. Go on\? \[y/N\]")
        chat.send("n\r")
        chat.expect(PROMPT)
    say(chat, "/system", r"be a cat\x1b")
    say(chat, "/save a.session", "saved a.session")
    say(chat, "/load a.session", "loaded a.session")
    say(chat, "/system be a dog", "begins anew")


def test_a_home_folder_in_a_file_name(tmp_path: Path, tiny: TinyFiles) -> None:
    child = spawn(tmp_path, "chat", *model_options(tiny), "--max-tokens", 30, HOME=str(tmp_path))
    child.expect(PROMPT)
    say(child, "hello", "reply 30 tok")
    say(child, "/save ~/a.session", "saved .*a.session")
    assert (tmp_path / "a.session").is_file()
    child.close(force=True)


def test_ctrl_c_while_the_prompt_is_read(tmp_path: Path, tiny: TinyFiles) -> None:
    options = [*model_options(tiny), "--ctx", 200_000, "--max-tokens", 30]
    child = spawn(tmp_path, "chat", *options)
    child.expect(PROMPT)
    child.send(f"\x1b[200~{text(100_000)}\x1b[201~\r")
    child.expect("reading the prompt")
    child.sendintr()
    child.expect("stopped before the reply began")
    child.expect(PROMPT)
    assert "tok/s" not in plain(child.before)  # a speed would be that of tokens which were not read
    say(child, "hello", f"prompt {len('user: hello_assistant: ') + 1} tok")
    child.close(force=True)


def test_output_into_a_pipe(tmp_path: Path, tiny: TinyFiles) -> None:
    child = spawn_shell(tmp_path)
    arguments = " ".join(map(str, model_options(tiny)))
    child.sendline(f"retain chat {arguments} --max-tokens 30 | cat >out.txt; echo over")
    child.expect("/help lists")
    child.expect(PROMPT)
    child.send("hello\r")
    child.expect("reply 30 tok")
    child.expect(PROMPT)
    child.send("\x04")
    child.expect("over\r\n")
    child.close(force=True)
    assert re.fullmatch("[a-z ]{30}\n", (tmp_path / "out.txt").read_text())


def test_ctrl_z_and_back(tmp_path: Path, tiny: TinyFiles) -> None:
    child = spawn_shell(tmp_path)
    child.sendline(f"retain chat {' '.join(map(str, model_options(tiny)))} --max-tokens 30")
    child.expect("/help lists")
    child.expect(PROMPT)
    child.send("\x1a")
    child.expect("Stopped")
    child.sendline("stty -a")
    for setting in ("icanon", "echo"):
        child.expect(f" (-?){setting} ")
        assert child.match[1] == "", f"the terminal is left without {setting}"
    child.sendline("fg")
    child.expect(PROMPT)
    child.send("hello\r")
    child.expect("reply 30 tok")
    child.expect(PROMPT)
    child.send("/exit\r")
    child.expect(r"shell\$ ")
    child.close(force=True)


def test_a_full_context_is_no_dead_end(tmp_path: Path, tiny: TinyFiles) -> None:
    child = spawn(tmp_path, "chat", *model_options(tiny), "--ctx", 256, "--max-tokens", 100)
    child.expect(PROMPT)
    say(child, text(100), "reply 100 tok")
    child.send(f"{text(150)}\r")
    child.expect(r"The context of 256 tokens is full. Go on with 1,024\? \[Y/n\]")
    child.send("\r")
    child.expect("reply 100 tok")
    child.expect(PROMPT)
    say(child, "/ctx 5000", "expect worse text beyond")
    say(child, "/ctx", r"of 5,120 tokens; the model was trained for 4,096")
    assert "worse" not in say(child, "/ctx 9999999999", "out of range")
    child.close(force=True)


def test_a_reply_that_the_context_cuts_goes_on(tmp_path: Path, tiny: TinyFiles) -> None:
    child = spawn(tmp_path, "chat", *model_options(tiny), "--ctx", 256)
    child.expect(PROMPT)
    child.send("hello\r")
    child.expect(r"The context of 256 tokens is full. Go on with 768\? \[Y/n\]")
    child.send("\r")
    child.expect(r"The context of 768 tokens is full. Go on with 1,536\? \[Y/n\]")
    child.send("n\r")
    child.expect(r"cut: the context of 768 tokens is full; /ctx 1536 goes on in a longer one, /clear begins anew")
    child.expect(PROMPT)
    child.close(force=True)


def test_an_error_is_broken_between_words(tmp_path: Path) -> None:
    child = spawn(tmp_path, "chat", "https://example.com/a-model.gguf", columns=40)
    child.expect(pexpect.EOF)
    lines = plain(child.before).split("\n")
    assert [line.rstrip() for line in lines if line] == [
        "retain-local:",
        "https://example.com/a-model.gguf is not",
        "on huggingface.co: download the file,",
        "and name it",
    ]


def test_words_between_colons_stay(chat: pexpect.spawn) -> None:
    say(chat, "/system :cat: [bold]or not", "begins anew")
    say(chat, "/system", re.escape(":cat: [bold]or not") + r"\x1b\[0m")


def test_no_speed_of_a_reply_that_was_suspended(tmp_path: Path, tiny: TinyFiles) -> None:
    child = spawn_shell(tmp_path)
    child.sendline(f"retain chat {' '.join(map(str, model_options(tiny)))} --ctx 500000")
    child.expect("/help lists")
    child.expect(PROMPT)
    child.send("hello\r")
    child.expect("[a-z ]{60}")
    child.send("\x1a")
    child.expect("Stopped")
    child.expect(r"shell\$ ")
    child.sendline("fg")
    child.expect("[a-z ]{60}")
    child.sendintr()
    child.expect(r"prompt 24 tok · reply [\d,]+ tok · KV")
    child.close(force=True)
