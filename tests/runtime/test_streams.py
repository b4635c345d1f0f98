"""The process's stdout and stderr are nobody's but the program's, also while models are loaded without `verbose`."""

from __future__ import annotations

from conftest import TinyFiles
from support.child import run_program

# both streams, by their descriptors and by Python's objects
SAY = """
def say(what):
    print(f"out {what}", flush=True)
    print(f"err {what}", file=sys.stderr, flush=True)
    os.write(1, f"raw out {what}\\n".encode())
    os.write(2, f"raw err {what}\\n".encode())
"""


def test_what_is_printed_while_a_model_loads_arrives(tiny: TinyFiles) -> None:
    done = run_program(tiny.model("llama"), SAY + "load(on_load=lambda fraction: say('loading'))\nsay('after')")
    assert done.returncode == 0
    for stream, name in ((done.stdout, "out"), (done.stderr, "err")):
        lines = stream.splitlines()
        assert lines.count(f"{name} loading") == lines.count(f"raw {name} loading") > 0
        assert lines[-2:] == [f"{name} after", f"raw {name} after"]


def test_loads_in_threads_leave_the_streams_as_they_are(tiny: TinyFiles) -> None:
    done = run_program(
        tiny.model("llama"),
        SAY
        + """
def streams():
    return [(os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in (1, 2)], sys.stdout, sys.stderr

before = streams()
threads = [threading.Thread(target=lambda: [load() for _ in range(5)]) for _ in range(4)]
for thread in threads:
    thread.start()
n = 0
while any(thread.is_alive() for thread in threads):
    assert streams() == before
    say(n)
    n += 1
    time.sleep(0.01)
assert streams() == before
say("end")
print(n)
""",
    )
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    n = int(last)
    assert n > 0
    assert said == [line for i in [*range(n), "end"] for line in (f"out {i}", f"raw out {i}")]
    assert done.stderr.splitlines() == [line for i in [*range(n), "end"] for line in (f"err {i}", f"raw err {i}")]


def test_a_quiet_load_says_nothing_and_a_verbose_one_shows_the_log(tiny: TinyFiles) -> None:
    quiet = run_program(tiny.model("llama"), "load()('hello', max_tokens=2)")
    assert (quiet.stdout, quiet.stderr) == ("", "")
    loud = run_program(tiny.model("llama"), "load(verbose=True)('hello', max_tokens=2)")
    assert loud.stdout == "" and "llama_model_loader" in loud.stderr and "Exception" not in loud.stderr
