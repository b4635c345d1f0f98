"""`retain-local run` and `gates inspect`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pexpect

from conftest import TinyFiles
from support.command_line import COMMAND, FAST, TIMEOUT_S, environment, run
from support.llamas import text

OPTIONS = [*FAST, "--temp", "0", "--max-tokens", "20"]


def model_options(tiny: TinyFiles) -> list[object]:
    return [tiny.model("llama"), "--gates", tiny.gates("llama"), *OPTIONS]


def test_text_goes_to_stdout_and_the_rest_to_stderr(tmp_path: Path, tiny: TinyFiles) -> None:
    done = run(tmp_path, "run", *model_options(tiny), "-p", text(200), "--budget", "64")
    assert done.returncode == 0
    assert len(done.stdout.rstrip("\n")) == 20 and done.stdout.endswith("\n")
    notes = done.stderr.splitlines()
    assert notes[0].startswith("policy 'gate', gates from")
    assert "reply 20 tok" in notes[-1] and "KV" in notes[-1]


def test_every_source_of_a_prompt_is_the_same(tmp_path: Path, tiny: TinyFiles) -> None:
    (tmp_path / "p.txt").write_text(text(100))
    outputs = {
        run(tmp_path, "run", *model_options(tiny), "-p", text(100)).stdout,
        run(tmp_path, "run", *model_options(tiny), "-f", "p.txt").stdout,
        run(tmp_path, "run", *model_options(tiny), "-f", "-", stdin=text(100)).stdout,
        run(tmp_path, "run", *model_options(tiny), stdin=text(100)).stdout,
    }
    assert len(outputs) == 1


def test_json(tmp_path: Path, tiny: TinyFiles) -> None:
    cache = ["--budget", "64", "--buffer", "16", "--archive", "0"]
    done = run(tmp_path, "run", *model_options(tiny), "-p", text(300), *cache, "--json")
    found = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert len(found["text"]) == 20 and found["finish_reason"] == "length"
    assert found["prompt_tokens"] == 301 and found["completion_tokens"] == 20
    retention = found["retention"]
    assert retention["policy"] == "gate" and retention["budget"] == 64
    assert retention["cells_kept"] + retention["cells_evicted"] == retention["cells_seen"] == 6 * 320
    assert retention["cells_peak"] <= retention["cells_limit"] == 6 * (64 + 32)
    assert found["timings"]["prompt_tokens_per_second"] > 0


def test_chat_takes_the_template(tmp_path: Path, tiny: TinyFiles) -> None:
    asked = ["--chat", "--system", "be a cat", "-p", "hello", "--json", "--pin-system"]
    found = json.loads(run(tmp_path, "run", *model_options(tiny), *asked).stdout)
    assert found["prompt_tokens"] == len("system: be a cat\nuser: hello\nassistant: ") + 1


def test_seed(tmp_path: Path, tiny: TinyFiles) -> None:
    options = [*model_options(tiny), "--temp", "1.5", "-p", "abc"]
    first, second, other = (run(tmp_path, "run", *options, "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == second != other


def test_a_reader_that_has_enough(tmp_path: Path, tiny: TinyFiles) -> None:
    command = [*COMMAND, "run", *map(str, model_options(tiny)), "-p", "abc", "--max-tokens", "2000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path), cwd=tmp_path
    ) as process:
        process.stdout.read(5)
        process.stdout.close()
        assert process.wait(60) in (0, 1)
        assert b"Traceback" not in process.stderr.read()


def test_progress_at_a_terminal(tmp_path: Path, tiny: TinyFiles) -> None:
    (tmp_path / "long.txt").write_text(text(3000))
    child = pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], "run", *map(str, model_options(tiny)), "-f", "long.txt", "--ctx", "4096"],
        env=environment(tmp_path, TERM="xterm"),
        cwd=str(tmp_path),
        dimensions=(40, 140),
        timeout=TIMEOUT_S,
        encoding="utf-8",
    )
    child.expect("loading .*llama.gguf")
    child.expect(r"reading the prompt .*\d+/3000")
    child.expect("reply 20 tok")
    child.expect(pexpect.EOF)


def test_inspecting_gates(tmp_path: Path, tiny: TinyFiles) -> None:
    shown = run(tmp_path, "gates", "inspect", tiny.gates("llama"))
    assert shown.returncode == 0 and "rg10" in shown.stdout
    found = json.loads(run(tmp_path, "gates", "inspect", tiny.gates("llama"), "--json").stdout)
    assert found["architecture"] == "llama" and len(found["layers"]) == 3


def test_a_text_that_the_context_cuts(tmp_path: Path, tiny: TinyFiles) -> None:
    options = [*model_options(tiny), "-p", text(200), "--ctx", 256]
    whole = run(tmp_path, "run", *options)
    assert "is full" not in whole.stderr  # --max-tokens ended it
    cut = run(tmp_path, "run", *options, "--max-tokens", 100)
    assert cut.returncode == 0
    assert cut.stderr.splitlines()[-1] == "the context of 256 tokens is full: --ctx 768 has room for more"
