"""`retain_local` and `llama_cpp` imported in any order, each time in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import TinyFiles
from support.libraries import PATCHED, require_stock

STOCK = require_stock()

# stock libraries of the bindings' own, as a package index installs them
ON_STOCK = f"""
import os
os.environ["LLAMA_CPP_LIB_PATH"] = {str(STOCK)!r}
from llama_cpp import Llama as StockLlama, LlamaGrammar, llama_model_default_params
del os.environ["LLAMA_CPP_LIB_PATH"]
"""

USE = """
import sys
from retain_local import Llama
llm = Llama(sys.argv[1], n_ctx=512, n_threads=1, policy="window", budget=64)
grammar = LlamaGrammar.from_string('root ::= "abc"')
print(llm("hello " * 50, grammar=grammar, max_tokens=9)["choices"][0]["text"], llm.retention.stats().cells_evicted > 0)
"""


def run(tiny: TinyFiles, program: str) -> tuple[int, str, str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("LLAMA_CPP_LIB_PATH", "MTMD_CPP_LIB")
    }
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, str(tiny.model("llama"))],
        capture_output=True,
        text=True,
        env=environment,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_package_alone_comes_first(tiny: TinyFiles) -> None:
    assert run(tiny, "import retain_local\nfrom llama_cpp import LlamaGrammar" + USE) == (0, "abc True\n", "")


def test_the_bindings_come_first_and_are_on_our_libraries(tiny: TinyFiles) -> None:
    first = f"import os\nos.environ['LLAMA_CPP_LIB_PATH'] = {str(PATCHED)!r}\nfrom llama_cpp import LlamaGrammar"
    assert run(tiny, first + USE) == (0, "abc True\n", "")


def test_the_bindings_come_first_on_libraries_of_their_own(tiny: TinyFiles) -> None:
    more = f"""
import llama_cpp
print(isinstance(llm, StockLlama), llama_model_default_params is llama_cpp.llama_cpp.llama_model_default_params)
print(os.path.samefile(os.path.dirname(llama_cpp.llama_cpp._lib._name), {str(PATCHED)!r}))
print(StockLlama(sys.argv[1], n_ctx=64, verbose=False)("abc", max_tokens=2)["usage"]["completion_tokens"])
"""
    assert run(tiny, ON_STOCK + USE + more) == (0, "abc True\nTrue True\nTrue\n2\n", "")


def test_a_model_on_other_libraries_is_not_taken_over(tiny: TinyFiles) -> None:
    program = """
import sys
stock = StockLlama(sys.argv[1], n_ctx=64, verbose=False)
try:
    from retain_local import Llama
except Exception as error:
    print(type(error).__name__, error)
print(stock("abc", max_tokens=2)["usage"]["completion_tokens"])
"""
    status, out, err = run(tiny, ON_STOCK + program)
    assert (status, err) == (0, "")
    error, tokens = out.splitlines()
    assert error.startswith("LibraryError llama_cpp is in use already with the libraries it came with (")
    assert error.endswith("; put `import retain_local` before `import llama_cpp`") and tokens == "2"


def test_bindings_without_libraries_find_ours(tiny: TinyFiles) -> None:
    assert run(tiny, "from llama_cpp import LlamaGrammar" + USE) == (0, "abc True\n", "")


def test_a_class_of_ours_may_stand_in_for_the_bindings(tiny: TinyFiles) -> None:
    program = """
import copy
import sys
import llama_cpp
from retain_local import Llama

class Budgeted(Llama):
    def __init__(self, *args, budget=64, policy="window", **options):
        super().__init__(*args, budget=budget, policy=policy, **options)

llama_cpp.Llama = Budgeted
from llama_cpp import Llama as Theirs

llm = Theirs(sys.argv[1], n_ctx=512, n_threads=1)
messages = [{"role": "user", "content": "hello " * 50}]
reply = llm.create_chat_completion(messages, max_tokens=3)
chunks = list(Theirs.create_chat_completion(llm, messages, max_tokens=3, stream=True))
print(reply["usage"]["completion_tokens"], len(chunks) > 2, llm.retention.budget, llm.retention.stats().evictions > 0)
print(copy.copy(llm).retention.budget)
"""
    assert run(tiny, program) == (0, "3 True 64 True\n64\n", "")
