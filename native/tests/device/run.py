"""Build for the GPU of this machine, test on it and time it: the steps that matter most come first.

    python native/tests/device/run.py                    build, test, make a model of Qwen3-4B's shape, time it
    python native/tests/device/run.py --bin DIR          with programs and libraries that are built already
    python native/tests/device/run.py --device CPU --bin DIR --shape qwen3-0.6b --depths 64 --steps 24
                                                         a dry run where there is no GPU

Needs nvcc, CMake, and Python with NumPy, gguf and PyYAML. It needs no network when RETAIN_UPSTREAM_DIR names an unpacked source
distribution of llama-cpp-python. A step that fails is named and the others go on; the exit status is then 1. The outputs
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
CUDA = ["-D", "RETAIN_CUDA=ON", "-D", "CMAKE_CUDA_ARCHITECTURES=native"]


class Steps:
    """Runs commands one after another, within a time for all of them."""

    def __init__(self, work, seconds):
        self.work, self.end, self.start = work, time.monotonic() + seconds, time.monotonic()
        self.failed = []

    def run(self, name, command, env=None, shown=0):
        """Run a command; its last line, or the last `shown` lines, are shown. Returns what it printed, or None."""
        left = self.end - time.monotonic()
        if left < 5:
            self.say(f"{name}: no time left")
            self.failed.append(name)
            return None
        log = self.work / f"{name}.log"
        with open(log, "w") as file:
            try:
                done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=env, timeout=left)
                status = done.returncode
            except subprocess.TimeoutExpired:
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
    parser.add_argument("--shape", default="qwen3-4b", help="the model to time; one of native/bench/make_model.py")
    parser.add_argument("--depths", default="512,8192,32768")
    parser.add_argument("--steps", default="256", help="tokens that are written at each depth (from 17 on)")
    parser.add_argument("--vocab", type=pathlib.Path, help="a GGUF whose vocabulary the model takes")
    parser.add_argument("--seconds", type=float, default=540, help="for all steps")
    parser.add_argument("--work", type=pathlib.Path, help="folder for outputs and the model (default: a new one)")
    args = parser.parse_args()

    work = args.work or pathlib.Path(tempfile.mkdtemp(prefix="retain-device-"))
    work.mkdir(parents=True, exist_ok=True)
    steps = Steps(work, args.seconds)
    steps.say(f"outputs in {work}")

    programs = args.bin
    if programs is None:
        built = steps.run("build", [*BUILDER, "bench", *CUDA])
        if built is None or steps.run("tests", [*BUILDER, "test", *CUDA, "-R", "retention-ops|retain-devices"]) is None:
            sys.exit(1)
        programs = pathlib.Path(built[-1])
    env = os.environ | {"LD_LIBRARY_PATH": str(programs), "PYTHONPATH": str(NATIVE.parent)}

    steps.run("ops", [programs / "native-retention-ops", args.device], env)
    steps.run("cells", [programs / "native-retain-devices"], env, shown=6)
    model = work / f"{args.shape}.gguf"
    vocab = ["--vocab", args.vocab] if args.vocab else []
    made = steps.run(
        "model", [sys.executable, NATIVE / "bench/make_model.py", args.shape, "q4_0", "--out", model, *vocab], env
    )
    if (
        made is not None
        and steps.run("gates", [sys.executable, NATIVE / "bench/make_gates.py", model], env) is not None
    ):
        bench = [programs / "bench-device", "--model", model, "--gates", model.with_suffix(".gates.gguf")]
        bench += ["--steps", args.steps]
        one = ["--sequences", "1", "--budget", "2048", "--depths", args.depths]
        four = ["--sequences", "4", "--budget", "1024", "--depths", args.depths.split(",")[-1]]
        steps.run("one-sequence", [*bench, *one], env, shown=17)
        steps.run("four-sequences", [*bench, *four, "--sides", "stock,ours"], env, shown=4)

    attention = [programs / "bench-attention", "--device", args.device, "--heads", "128", "--group", "4"]
    steps.run("attention", [*attention, "--cells", "512,2048,8192", "--mib", "1024"], env, shown=13)

    if steps.failed:
        sys.exit(f"failed: {', '.join(steps.failed)}")


if __name__ == "__main__":
    main()
