"""Build for the GPU of this machine, test on it and time it: the steps that matter most come first.

    python native/tests/device/run.py                    build, test, make a model of Qwen3-4B's shape, time it
    python native/tests/device/run.py --bin DIR          with programs and libraries that are built already
    python native/tests/device/run.py --device ROCm0 -D GGML_HIP=ON   on an AMD GPU
    python native/tests/device/run.py --device CPU --bin DIR   a dry run where there is no GPU, with a small model

Needs nvcc (or HIP), CMake, and Python with NumPy, gguf and PyYAML. It needs no network when RETAIN_UPSTREAM_DIR names an unpacked source
distribution of llama-cpp-python (pack.py makes one file of all that). A step that fails is named and the others go on; the exit status is then 1. The outputs
of the steps are in the work folder.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

NATIVE = pathlib.Path(__file__).resolve().parents[2]
BUILDER = [sys.executable, str(NATIVE / "builder")]
CUDA = ["RETAIN_CUDA=ON", "CMAKE_CUDA_ARCHITECTURES=native"]
# a GPU is timed at the sizes of docs/gpu.md, a CPU is only to show that the steps run
SIZES = {"shape": "qwen3-4b", "depths": "512,8192,32768", "steps": "256", "cells": "512,2048,8192", "mib": "1024"}
CPU_SIZES = {"shape": "qwen3-0.6b", "depths": "64", "steps": "24", "cells": "512", "mib": "8"}


class Steps:
    """Runs commands one after another, within a time for all of them."""

    def __init__(self, work, seconds):
        self.work, self.end, self.start = work, time.monotonic() + seconds, time.monotonic()
        self.failed = []

    def run(self, name, command, env=None, shown=0):
        """Run a command; its last line, or the last `shown` lines, are shown. Returns what it printed, or None."""
        return self.finish(name, self.start_step(name, command, env), shown)

    def start_step(self, name, command, env=None):
        """Start a command that finish() waits for. Returns its process, or None when no time is left."""
        if self.end - time.monotonic() < 5:
            return None
        with open(self.work / f"{name}.log", "w") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)

    def finish(self, name, process, shown=0):
        """What run() does, for a command that runs already."""
        if process is None:
            self.say(f"{name}: no time left")
            self.failed.append(name)
            return None
        log = self.work / f"{name}.log"
        try:
            status = process.wait(timeout=max(0, self.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "out of time"
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip(". ")]
        self.say(f"{name}: {'ok' if status == 0 else f'FAILED ({status}), see {log}'}")
        for line in lines[-max(shown, 1) :]:
            print(f"    {line}", flush=True)
        if status != 0:
            self.failed.append(name)
            return None
        return lines

    def say(self, text):
        print(f"{time.monotonic() - self.start:5.0f} s  {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, help="folder of the built programs and libraries")
    parser.add_argument("--device", default="CUDA0", help="the device to test, by ggml's name")
    parser.add_argument(
        "-D",
        dest="defines",
        action="append",
        metavar="NAME=VALUE",
        help=f"options of CMake (default: {' '.join(CUDA)})",
    )
    parser.add_argument("--shape", help="the model to time; one of native/bench/make_model.py (default: qwen3-4b)")
    parser.add_argument("--depths", help="default: 512,8192,32768")
    parser.add_argument("--steps", help="tokens that are written at each depth, from 17 on (default: 256)")
    parser.add_argument("--vocab", type=pathlib.Path, help="a GGUF whose vocabulary the model takes")
    parser.add_argument("--seconds", type=float, default=540, help="for all steps")
    parser.add_argument("--work", type=pathlib.Path, help="folder for outputs and the model (default: a new one)")
    args = parser.parse_args()

    sizes = dict(CPU_SIZES if args.device == "CPU" else SIZES)
    sizes.update({name: value for name, value in vars(args).items() if name in sizes and value})

    work = args.work or pathlib.Path(tempfile.mkdtemp(prefix="retain-device-"))
    work.mkdir(parents=True, exist_ok=True)
    steps = Steps(work, args.seconds)
    steps.say(f"outputs in {work}")

    # the model is made while the compilers run
    python_env = os.environ | {"PYTHONPATH": str(NATIVE.parent)}
    model = work / f"{sizes['shape']}.gguf"
    vocab = ["--vocab", args.vocab] if args.vocab else []
    make = [sys.executable, NATIVE / "bench/make_model.py", sizes["shape"], "q4_0", "--out", model, *vocab]
    making = steps.start_step("model", make, python_env)

    programs = args.bin
    if programs is None:
        options = [word for define in args.defines or CUDA for word in ("-D", define)]
        built = steps.run("build", [*BUILDER, "bench", *options])
        if (
            built is None
            or steps.run("tests", [*BUILDER, "test", *options, "-R", "retention-ops|retain-devices"]) is None
        ):
            if making:
                making.kill()
            sys.exit(1)
        programs = pathlib.Path(built[-1])
    env = python_env | {"LD_LIBRARY_PATH": str(programs)}

    steps.run("ops", [programs / "native-retention-ops", args.device], env)
    steps.run("cells", [programs / "native-retain-devices"], env, shown=6)
    made = steps.finish("model", making)
    if (
        made is not None
        and steps.run("gates", [sys.executable, NATIVE / "bench/make_gates.py", model], env) is not None
    ):
        bench = [programs / "bench-device", "--model", model, "--gates", model.with_suffix(".gates.gguf")]
        bench += ["--steps", sizes["steps"]]
        one = ["--sequences", "1", "--budget", "2048", "--depths", sizes["depths"]]
        four = ["--sequences", "4", "--budget", "1024", "--depths", sizes["depths"].split(",")[-1]]
        steps.run("one-sequence", [*bench, *one], env, shown=17)
        steps.run("four-sequences", [*bench, *four, "--sides", "stock,ours"], env, shown=4)

    attention = [programs / "bench-attention", "--device", args.device, "--heads", "128", "--group", "4"]
    steps.run("attention", [*attention, "--cells", sizes["cells"], "--mib", sizes["mib"]], env, shown=13)

    if steps.failed:
        sys.exit(f"failed: {', '.join(steps.failed)}")


if __name__ == "__main__":
    main()
