"""`retain-local gates train` as a user runs it: what it says, what it writes, what it refuses.

In this process, as PyTorch takes long to import; the command line of a machine without it runs in one of its own.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from conftest import TinyFiles
from retain_local.cli import main
from retain_local.gates.train.options import TrainOptions
from retain_local.gates.train.screen import TrainingScreen
from support.command_line import TIMEOUT_S, environment

TRAIN_PACKAGES = ("torch", "transformers", "safetensors", "tokenizers")
# a finder that finds what is installed, the packages of the extra aside
_WITHOUT_PACKAGES = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {packages!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from retain_local.cli import main
main()
"""
SMALL = [
    "--budget", "8", "--context", "64", "--batch", "2", "--steps", "2", "--gate-size", "32", "--start-bias", "3",
    "--lr", "0.003", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a file of bad lines, a folder that is no model, and a base model."""
    home = tmp_path_factory.mktemp("train")
    (home / "text.txt").write_text("What fades is gone, and what stays is read again and again. " * 12)
    (home / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (home / "no-model").mkdir()
    (home / "no-model" / "config.json").write_text("{}")
    return home


@pytest.fixture(scope="module")
def base(home: Path) -> Path:
    from support.tiny_bases import FAMILIES, save_base, tiny_base

    base = save_base(home / "base", tiny_base(FAMILIES["qwen3"]))
    shutil.copytree(base, home / "cut-off")
    weights = home / "cut-off" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])  # as a download that was stopped
    return base


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def retain_local(
    home: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """Runs the command line in the folder; how it logs is undone."""
    logger = logging.getLogger("retain_local")
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers

    def run(*arguments: Any) -> Done:
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["retain-local", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code, *capsys.readouterr())

    yield run
    logger.setLevel(level)
    logger.propagate, logger.handlers = propagate, handlers


def test_a_training_from_the_command_line(home: Path, retain_local: Callable[..., Done]) -> None:
    train = "gates", "train", "base", "out", "--data", "text.txt", *SMALL
    done = retain_local(*train)
    assert done.status == 0 and done.err == (
        "without the base model's GGUF the gates are neither tied to a vocabulary nor checked against a model\n"
    )
    first, *steps, last = done.out.splitlines()
    assert first.endswith(" parameters on cpu, base model in float32; 4 rows with 256 tokens"), first
    assert len(steps) == 2, steps
    for number, line in enumerate(steps, 1):
        assert line.startswith(f"step {number} of 2: loss "), line
        assert all(f"{name} " in line for name in ("KL", "cross-entropy", "capacity", "cells left")), line
    assert last == "wrote out/gates.gguf and the checkpoint it was made from"
    written = sorted(path.name for path in (home / "out").iterdir())
    assert written == ["config.json", "gates.gguf", "gates.safetensors", "losses.jsonl"]

    shown = retain_local("gates", "inspect", "out/gates.gguf")
    assert shown.status == 0 and "rg10" in shown.out
    assert retain_local(*train) == (1, "", "retain-local: out holds trained gates already; name another folder\n")


def test_a_log_holds_no_bars(home: Path, tiny: TinyFiles, retain_local: Callable[..., Done]) -> None:
    """transformers shows some while it reads a GGUF file."""
    done = retain_local("gates", "train", tiny.model("llama"), "of-gguf", "--data", "text.txt", *SMALL)
    assert done.status == 0 and done.err == ""


def test_a_loss_of_next_to_nothing_has_no_sign() -> None:
    from retain_local.gates.train.trainer import Progress

    told = Console(record=True, file=StringIO(), width=200)
    losses = dict.fromkeys(("total", "kl", "ce", "capacity", "cells"), -1e-6)
    TrainingScreen(told, TrainOptions()).step(Progress(1, 2, losses))
    assert "loss 0.0000, KL 0.0000, cross-entropy 0.0000, capacity 0.0000" in told.export_text()


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["base"], 2, "name what to train on with --data"),
        (["base", "--data", "text.txt", "--outtype", "int3"], 2, "outtype 'int3' is not one of f32, f16, q8_0"),
        (["base", "--data", "text.txt", "--budget", "4096"], 2, "budget of 4096 never bites in a context of 64 tokens"),
        (["base", "--data", "absent.txt"], 1, "absent.txt: No such file or directory"),
        (["base", "--data", "bad.jsonl"], 1, "bad.jsonl: line 2 is not JSON"),
        (["no-model", "--data", "text.txt"], 1, "no-model: no base model could be loaded"),
        (["./absent", "--data", "text.txt"], 1, "absent: no base model could be loaded"),
        (["cut-off", "--data", "text.txt"], 1, "cut-off: no base model could be loaded: "),
    ],
)
def test_mistakes(
    home: Path, retain_local: Callable[..., Done], arguments: list[str], status: int, message: str
) -> None:
    base, *more = arguments
    done = retain_local("gates", "train", base, "x", *SMALL, *more)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("retain-local: ") and done.err.count("\n") == 1 and message in done.err, done.err
    assert not (home / "x").exists()


def test_without_pytorch(home: Path) -> None:
    """Where the extra is not installed the command says so, and its help works."""
    code = _WITHOUT_PACKAGES.format(packages=TRAIN_PACKAGES)

    def run_without(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "gates", "train", *arguments],
            cwd=home, env=environment(home), capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip

    done = run_without("base", "x", "--data", "text.txt")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "retain-local: training needs torch, transformers, safetensors, tokenizers: pip install 'retain-local[train]'\n"
    )
    done = run_without("--help")
    assert done.returncode == 0 and "pip install 'retain-local[train]'" in " ".join(done.stdout.split())
