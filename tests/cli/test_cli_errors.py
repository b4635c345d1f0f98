"""A user's mistake is one line on stderr and a status: 2 for wrong arguments, 1 for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import TinyFiles
from support.command_line import run


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["dance"], 2, "No such command"),
        (["chat"], 2, "Missing argument 'MODEL'"),
        (["chat", "MODEL", "--loud"], 2, "No such option: --loud"),
        (["chat", "MODEL", "--buffer", "x"], 2, "Invalid value for '--buffer'"),
        (["chat", "MODEL", "--threads", "0"], 2, "threads is 0; it must be a whole number from 1"),
        (["chat", "MODEL", "--budget", "0"], 2, "at least 1"),
        (["chat", "MODEL", "--budget", "-5"], 2, "not a number of cells"),
        (["chat", "MODEL", "--budget", "plenty"], 2, "not a number of cells"),
        (["chat", "MODEL", "--budget", "99999999999"], 2, "more than the context of 4096 tokens can fill"),
        (["chat", "MODEL", "--policy", "best"], 2, "policy 'best' is not one of"),
        (["chat", "MODEL", "--type-k", "int3"], 2, "KV type 'int3' is not one of"),
        (["chat", "MODEL", "--temp", "-1"], 2, "temp is -1.0"),
        (["chat", "MODEL", "--ctx", "-1"], 2, "ctx is -1"),
        (["chat", "MODEL", "--ubatch", "0"], 2, "ubatch is 0"),
        (["run", "MODEL", "-p", "a", "-f", "b"], 2, "not both"),
        (["run", "MODEL", "-p", "a", "--system", "b"], 2, "needs --chat"),
        (["run", "MODEL", "-p", ""], 1, "the prompt is empty"),
        (["run", "MODEL", "-f", "absent.txt"], 1, "absent.txt cannot be read: No such file"),
        (["run", "MODEL", "-f", "."], 1, "cannot be read"),
        (["run", "MODEL", "-f", "latin1.txt"], 1, "latin1.txt is not UTF-8 text (byte 1)"),
        (["run", "absent.gguf", "-p", "a"], 1, "absent.gguf: no such file"),
        (["run", ".", "-p", "a"], 1, "is a folder"),
        (["run", "latin1.txt", "-p", "a"], 1, "not a GGUF file"),
        (["run", "", "-p", "a"], 2, "name is empty"),
        (["run", "MODEL", "-f", "/dev/zero"], 1, "/dev/zero is longer than 256 MiB"),
        (["run", "MODEL", "-p", "a", "--gates", "."], 1, ". is a folder; name a gate sidecar"),
        (["run", "MODEL", "-p", "a", "--gates", "/dev/zero"], 1, "/dev/zero is no ordinary file"),
        (["run", "GATES", "-p", "a"], 1, "gate sidecar, not a model"),
        (["run", "MODEL", "-p", "a", "--gates", "absent.gguf"], 1, "no such gate sidecar"),
        (["run", "MODEL", "-p", "a", "--gates", "OTHER_GATES"], 1, "qwen3"),
        (["run", "MODEL", "-p", "a", "--policy", "gate"], 1, "needs gates"),
        (["gates", "inspect", "absent.gguf"], 1, "absent.gguf"),
        (["gates", "inspect", "MODEL"], 1, "not a gate sidecar"),
        (["demo", "--budget", "1"], 2, "budget is 1"),
        (["demo", "--tokens", "1"], 2, "tokens is 1"),
    ],
)
def test_mistakes(tmp_path: Path, tiny: TinyFiles, arguments: list[str], status: int, message: str) -> None:
    (tmp_path / "latin1.txt").write_bytes(b"h\xe9llo")
    files = {"MODEL": tiny.model("llama"), "GATES": tiny.gates("llama"), "OTHER_GATES": tiny.gates("qwen3")}
    done = run(tmp_path, *(files.get(argument, argument) for argument in arguments), stdin=b"hi\n")
    assert done.returncode == status, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("retain-local: ") and message in done.stderr


def test_stdin_that_is_no_text(tmp_path: Path, tiny: TinyFiles) -> None:
    done = run(tmp_path, "run", tiny.model("llama"), stdin=b"\xff\xfe")
    assert (done.returncode, done.stderr) == (1, "retain-local: stdin is not UTF-8 text (byte 0)\n")
    done = run(tmp_path, "chat", tiny.model("llama"), "--gates", "none", "--policy", "window", stdin=b"\xff\xfe")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "retain-local: line 1 of stdin is not UTF-8 text"


def test_unsupported_models(tmp_path: Path) -> None:
    from runtime.test_model_file import write_header

    done = run(tmp_path, "run", write_header(tmp_path / "m.gguf", "mamba"), "-p", "a")
    assert done.returncode == 1 and "recurrent" in done.stderr and done.stderr.count("\n") == 1


def test_libraries_that_are_not_there(tmp_path: Path, tiny: TinyFiles) -> None:
    done = run(tmp_path, "run", tiny.model("llama"), "-p", "a", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the native libraries are not there" in done.stderr and "unset LLAMA_CPP_LIB_PATH" in done.stderr


@pytest.mark.parametrize("group", [[], ["gates"]], ids=["all", "gates"])
def test_a_group_alone_shows_its_help(tmp_path: Path, group: list[str]) -> None:
    done = run(tmp_path, *group)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == run(tmp_path, *group, "--help").stdout


WITHOUT_EXAMPLE = ([], ["gates"], ["doctor"])
WITH_EXAMPLE = (
    ["chat"], ["run"], ["eval"], ["results"], ["audit"], ["bench"], ["demo"],
    ["gates", "inspect"], ["gates", "export"], ["gates", "verify"], ["gates", "train"],
)  # fmt: skip


@pytest.mark.parametrize("command", [*WITHOUT_EXAMPLE, *WITH_EXAMPLE], ids=" ".join)
def test_help(tmp_path: Path, command: list[str]) -> None:
    # help works even where nothing else does
    done = run(tmp_path, *command, "--help", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert done.returncode == 0 and done.stderr == "" and "Usage: retain-local" in done.stdout
    assert ("Example" in done.stdout) == (command in WITH_EXAMPLE)
