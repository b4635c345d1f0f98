"""Programs that end with models left behind, each in a process of its own: nothing crashes and nothing is printed."""

from __future__ import annotations

import pytest

from conftest import TinyFiles
from support.child import run_program

# what a program does before its last line is reached
WAYS = {
    "in a global": "llm = load(); llm('hello', max_tokens=2)",
    "several": "a, b = load(), load()",
    "in a cycle": "llm = load(); llm.itself = llm; llm('hello', max_tokens=2)",
    "in another module": "import ctypes; ctypes.kept = load()",
    "in a cycle of another module": "import ctypes; llm = load(); llm.itself = llm; ctypes.kept = llm",
    "in a cache": """
        import functools
        @functools.cache
        def model():
            return load()
        model()("hello", max_tokens=2)
    """,
    "in a registry of the interpreter": """
        import codecs
        llm = load()
        codecs.register_error("kept", lambda error: llm)
    """,
    "made in a thread": """
        def work():
            global llm
            llm = load()
            llm("hello", max_tokens=2)
        threading.Thread(target=work).start()
    """,
    "by a thread that works on": """
        def work():
            while True:
                llm("hello there, this is a text", max_tokens=40)
        llm = load()
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
    """,
    "by a thread that loads on": """
        def work():
            while True:
                load()
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
    """,
    "by a thread whose callback waits for ever": """
        waits = threading.Event()
        def wait(done, total):
            waits.set()
            threading.Event().wait()
        llm = load(on_prompt=wait)
        threading.Thread(target=llm, args=("hello there",), daemon=True).start()
        waits.wait()
    """,
    "in an open stream": "llm = load(); stream = llm('hello', max_tokens=20, stream=True); next(stream)",
    "with a hook": "llm = load(); llm.retention.set_scorer(lambda *cells: cells[2]); llm.eval([5] * 300)",
    "with a logits processor": """
        from llama_cpp import LogitsProcessorList
        llm = load()
        llm("hello", max_tokens=2, logits_processor=LogitsProcessorList([lambda tokens, logits: logits]))
    """,
    "after a model that was refused": """
        try:
            Llama("/nonexistent")
        except RetainError as error:
            kept = error
    """,
    "with a context of the bindings' own calls": """
        import codecs, llama_cpp
        class Context:
            def __init__(self):
                model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), llama_cpp.llama_model_default_params())
                self.ctx = llama_cpp.llama_init_from_model(model, llama_cpp.llama_context_default_params())
                self.free = llama_cpp.llama_free
            def __del__(self):
                self.free(self.ctx)
        load().close()
        context = Context()
        codecs.register_error("kept", lambda error, context=context: context)
    """,
    "with a model of the stock class": """
        import ctypes, llama_cpp
        llm = load()
        ctypes.kept = llama_cpp.Llama(sys.argv[1], n_ctx=64, verbose=False)
    """,
    "by fork": """
        llm = load()
        llm("hello", max_tokens=2)
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_program_ends_in_silence(tiny: TinyFiles, way: str) -> None:
    done = run_program(tiny.model("llama"), WAYS[way])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_exit_status_is_the_programs_own(tiny: TinyFiles) -> None:
    done = run_program(tiny.model("llama"), "llm = load()\nsys.exit(5)")
    assert (done.returncode, done.stderr) == (5, "")


@pytest.mark.parametrize("order", ["before", "after"])
def test_exit_handlers_may_use_a_model(tiny: TinyFiles, order: str) -> None:
    handler = (
        "import atexit\natexit.register(lambda: print(len(llm.tokenize(b'abc')), llm('abc', max_tokens=2)['usage']))\n"
    )
    if order == "before":
        done = run_program(tiny.model("llama"), "llm = load()", before=handler)
    else:
        done = run_program(tiny.model("llama"), "llm = load()\n" + handler)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'completion_tokens': 2" in done.stdout


def test_an_exit_handler_may_wait_for_a_thread_that_uses_a_model(tiny: TinyFiles) -> None:
    done = run_program(
        tiny.model("llama"),
        """
        llm = load()
        def work():
            while not over.is_set():
                llm("hello", max_tokens=5)
        threading.Thread(target=work, daemon=True, name="worker").start()
        time.sleep(0.2)
        """,
        before="""
import atexit, threading
over = threading.Event()
def end():
    over.set()
    for thread in threading.enumerate():
        if thread.name == "worker":
            thread.join()
    print("joined")
atexit.register(end)
""",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "joined\n", "")
