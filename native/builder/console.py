"""What the builder says: one line per step, the rest into a log file."""

import re
import subprocess
import sys
import threading
import time

PROGRESS = re.compile(r"^\[\s*(\d+/\d+|\d+%)\]")
ERROR = re.compile(r"\berror\b(:| C\d)|CMake Error|undefined reference|ld: ")
EXCERPT_LINES = 30
WORTH_SAYING = 2  # seconds


class BuildError(Exception):
    """A failure that the user can act on; its text says how."""


def say(text):
    print(f"retain-local: {text}", file=sys.stderr, flush=True)


def run_logged(command, what, log, env=None, cwd=None, rename=()):
    """Run a command with its output in the log file, and return that output as a list of lines.

    `rename` holds (from, to) pairs for paths that mean more to the reader than the ones the command sees.
    """
    started = time.monotonic()
    show_progress = sys.stderr.isatty()
    lines = []
    with open(log, "a", encoding="utf-8") as out:
        out.write(f"$ {' '.join(map(str, command))}\n")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        said = threading.Timer(WORTH_SAYING, say, (what,))  # not for what turns out to be done already
        said.daemon = True
        said.start()
        for line in process.stdout:
            for old, new in rename:
                line = line.replace(old, new)
            out.write(line)
            lines.append(line.rstrip("\n"))
            step = PROGRESS.match(line)
            if step and show_progress:
                print(f"\r  {step.group(0)} ", end="", file=sys.stderr, flush=True)
        code = process.wait()
    said.cancel()
    said.join()
    if show_progress:
        print("\r\033[K", end="", file=sys.stderr)
    if code:
        # the first error is the one to read; compiler commands, later errors and earlier warnings are noise
        lines = [line for line in lines if len(line) < 400]
        first = next((i for i, line in enumerate(lines) if ERROR.search(line)), len(lines) - EXCERPT_LINES)
        excerpt = lines[max(first - 2, 0) :][:EXCERPT_LINES]
        raise BuildError("\n".join([f"failed: {what}", *(f"  | {line}" for line in excerpt), f"the whole log: {log}"]))
    seconds = time.monotonic() - started
    if seconds > 10:
        say(f"{what}: done in {seconds:.0f} s")
    return lines
