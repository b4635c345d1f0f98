"""Run llama.cpp's own tests of its server against this one and against stock, and compare.

    .venv/bin/pip install aiohttp prometheus-client requests wget
    .venv/bin/python docs/tools/upstream_server_tests.py stories260K.gguf

The model is the one that these tests download otherwise (ggml-org/test-model-stories260K on the Hugging Face Hub); tests that
download others are left out. This server runs with a budget of the whole context, so that nothing is evicted.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from retain_local.server.binary import SOURCES, server_program

TESTS = "vendor/llama.cpp/tools/server/tests/"
REPO = "ggml-org/test-model-stories260K"
FILES = (
    "basic chat_completion compat_anthropic compat_oai_responses completion ctx_shift ignore_eos kv_keep_only_active metrics"
    " security sleep slot_save stream template tokenize"
).split()
_OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S+)", re.MULTILINE)

# a program with the arguments of llama-server, for the model that is here
WRAPPER = """#!{python}
import os, sys
words, given = [], iter(sys.argv[1:])
for word in given:
    words += ["--model", {model!r}] if word == "--hf-repo" and next(given) == {repo!r} else [word]
os.execv({program!r}, [{program!r}, *{first!r}, *words])
"""
# in place of upstream's download of every model
PLUGIN = "import utils\nutils.ServerPreset.load_all = staticmethod(lambda: None)\n"


def builder(*arguments: str) -> str:
    command = [sys.executable, str(SOURCES / "builder"), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


def unpack(folder: Path) -> Path:
    """The tests as the source distribution holds them."""
    with tarfile.open(builder("sdist")) as archive:
        root = archive.getnames()[0].partition("/")[0]
        for member in archive:
            if member.isfile() and member.name.startswith(f"{root}/vendor/llama.cpp/"):
                name = member.name.removeprefix(f"{root}/")
                if name.startswith((TESTS, "vendor/llama.cpp/models/templates/")):
                    member.name = name
                    archive.extract(member, folder, filter="data")
    tests = folder / TESTS
    (tests / "no_downloads.py").write_text(PLUGIN)
    return tests


def run(tests: Path, program: str, first: list[str], model: Path, name: str, more: list[str]) -> dict[str, str]:
    """What became of each test."""
    wrapper = tests / f"server-{name}"
    wrapper.write_text(
        WRAPPER.format(python=sys.executable, model=str(model.resolve()), repo=REPO, program=program, first=first)
    )
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    files = [f"unit/test_{file}.py" for file in FILES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no_downloads", "--rootdir", ".", *files, *more],
        cwd=tests,
        env={**os.environ, "LLAMA_SERVER_BIN_PATH": str(wrapper), "PYTHONPATH": str(tests), "PORT": "8180"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    Path(f"upstream-server-tests-{name}.log").write_text(done.stdout)
    return {test: outcome for outcome, test in _OUTCOME.findall(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="stories260K.gguf")
    parser.add_argument("more", nargs="*", help="arguments of pytest, behind --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tests = unpack(Path(folder))
        whole = ["--retain-budget", "65536", "--retain-buffer", "32", "--retain-policy", "window"]
        ours = run(tests, str(server_program()), whole, args.model, "ours", args.more)
        stock = run(tests, builder("server", "--stock"), [], args.model, "stock", args.more)
    for test in sorted(ours.keys() | stock.keys()):
        if ours.get(test) != stock.get(test):
            print(f"{test}: here {ours.get(test, 'not run')}, stock {stock.get(test, 'not run')}")
    for name, outcomes in (("here", ours), ("stock", stock)):
        counts = {kind: list(outcomes.values()).count(kind) for kind in sorted(set(outcomes.values()))}
        print(f"{name}: {', '.join(f'{n} {kind.lower()}' for kind, n in counts.items())}")


if __name__ == "__main__":
    main()
