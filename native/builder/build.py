"""One build of the native libraries, in a directory of the user's cache.

    <cache>/sdist/                       the source distribution of upstream
    <cache>/web-ui/                      see web_ui.py
    <cache>/<variant>-<key>/llama.cpp/   upstream with the patches; the variant stock has those of STOCK_PATCHES alone
                            native/      a copy of our sources
                            build/       CMake's directory; the libraries are in build/bin
                            build.log    the output of the last build

The key is a hash of what a build directory cannot change without starting anew: upstream, options and compiler.
Sources and patches are not in it; they are compiled incrementally.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import toolchain
import tree
import upstream
from console import run_logged, say

NATIVE = pathlib.Path(__file__).resolve().parent.parent
# parts of native/ that are not compiled
SKIPPED = ("builder", "package", "patches")
# sources of ours that upstream compiles in a folder of its own, joined from parts of native/ in this order
PLACED = {
    "ggml/src/ggml-metal/kernels/retention.metal": [
        f"ggml-metal/retention-{part}"
        for part in ("args.h", "rows.metal", "store.metal", "decode.metal", "prompt.metal")
    ],
}
# what stock needs too, to run at all on some CPUs
STOCK_PATCHES = ("0005-ggml-amx-tile-config.patch",)

VARIANTS = {
    "release": {"CMAKE_BUILD_TYPE": "Release"},
    "stock": {"CMAKE_BUILD_TYPE": "Release", "RETAIN_STOCK": "ON"},
    "sanitize": {"CMAKE_BUILD_TYPE": "Debug", "RETAIN_SANITIZE": "ON"},
}
KEY_LENGTH = 12
TRUE = ("1", "ON", "YES", "TRUE", "Y")  # as CMake reads them


def cache_directory():
    if chosen := os.environ.get("RETAIN_CACHE_DIR"):
        return pathlib.Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "retain-local"


def make_cache(path):
    """Make the cache for its owner alone; what is in it gets compiled and loaded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    if os.name != "nt" and path.stat().st_mode & 0o022:
        say(f"warning: others may write to {path}, and so into the libraries; `chmod 700 {path}` keeps them out")


def clean_cache():
    """Remove what builds and tests put into the cache, and nothing else that may be in the directory."""
    for pattern in ("sdist", "models", "web-ui", *(f"{variant}-{'[0-9a-f]' * KEY_LENGTH}" for variant in VARIANTS)):
        for path in cache_directory().glob(pattern):
            say(f"removing {path}")
            shutil.rmtree(path)


@contextlib.contextmanager
def locked(path):
    """Hold a lock file: builds of several clones share a directory, so they take turns."""
    with open(path, "w") as file:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another build to finish")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def join_sources(parts):
    """Return the text of one source of Metal kernels; ggml puts its own headers in the place of the include."""
    return '#include "common.h"\n\n' + "\n".join((NATIVE / part).read_text(encoding="utf-8") for part in parts)


class Build:
    def __init__(self, variant, defines, cmake=None, jobs=None):
        self.stock = variant == "stock"
        self.defines = defines
        self.options = {**VARIANTS[variant], **defines}
        self.jobs = jobs or os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or os.cpu_count()
        self.cmake = toolchain.check_cmake(cmake or toolchain.find_program("cmake"))
        self.ninja = toolchain.find_program("ninja")
        if any(self.options.get(name, "").upper() in TRUE for name in ("RETAIN_CUDA", "GGML_CUDA")):
            toolchain.check_cuda()

        machine = toolchain.fingerprint()
        tools = [toolchain.cmake_version(self.cmake), bool(self.ninja), machine]
        identity = json.dumps([upstream.SHA256, self.options, tools], sort_keys=True)
        key = hashlib.sha256(identity.encode()).hexdigest()[:KEY_LENGTH]
        self.cache = cache_directory()
        self.root = self.cache / f"{variant}-{key}"
        self.directory = self.root / "build"
        self.log = self.root / "build.log"
        # ccache: paths relative to the root let the variants share objects; -march=native means another thing on
        # another CPU, so objects are shared between equal machines only
        self.env = {
            **os.environ,
            "CCACHE_BASEDIR": str(self.root),
            "CCACHE_NOHASHDIR": "1",
            "CCACHE_NAMESPACE": machine,
            "GIT_CEILING_DIRECTORIES": str(self.root),
        }

    @contextlib.contextmanager
    def prepared(self):
        """The locked build directory, with its sources up to date and configured."""
        make_cache(self.cache)
        self.root.mkdir(exist_ok=True)
        with locked(self.root / "lock"):
            self.log.write_text("")
            self.update_upstream()
            tree.sync(self.root / "native", tree.read_tree(NATIVE, skip=SKIPPED))
            self.configure()
            yield self

    def update_upstream(self):
        patches = [
            path
            for path in sorted((NATIVE / "patches").glob("*.patch"))
            if not self.stock or path.name in STOCK_PATCHES
        ]
        placed = {} if self.stock else {name: join_sources(parts) for name, parts in PLACED.items()}
        local = upstream.local_directory()
        content = [upstream.SHA256, *upstream.PARTS, *(f"{p.name}\n{p.read_text(encoding='utf-8')}" for p in patches)]
        content += placed.values()
        wanted = hashlib.sha256("\0".join(content).encode()).hexdigest()
        stamp = self.root / "llama.cpp.stamp"
        if not local and stamp.is_file() and stamp.read_text() == wanted:
            return
        stamp.unlink(missing_ok=True)
        files = upstream.read_directory(local) if local else upstream.read_sdist(upstream.sdist(self.cache))
        files = tree.apply_patches(files, patches)
        files.update({name: text.encode() for name, text in placed.items()})
        tree.sync(self.root / "llama.cpp", files)
        if not local:
            stamp.write_text(wanted)

    def configure(self):
        command = [
            self.cmake,
            "-S",
            str(self.root / "native"),
            "-B",
            str(self.directory),
            "-DRETAIN_BUILD_TESTS=ON",
            f"-DRETAIN_LLAMA_DIR={self.root / 'llama.cpp'}",
            f"-DRETAIN_UPSTREAM_VERSION={upstream.VERSION}",
            *(f"-D{name}={value}" for name, value in sorted(self.options.items())),
        ]
        if self.ninja:
            command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={self.ninja}"]
        stamp = self.root / "configure.stamp"
        if stamp.is_file():
            cmake, *arguments = stamp.read_text().split("\n")
            # the build itself configures again when a CMake file or the list of sources changes, with the CMake that
            # configured first: one from a temporary environment may be gone
            if arguments == command[1:] and pathlib.Path(cmake).exists():
                return
        stamp.unlink(missing_ok=True)
        run_logged(command, "configuring", self.log, self.env)
        stamp.write_text("\n".join(command))

    def compile(self, target, what):
        command = [
            self.cmake,
            "--build",
            str(self.directory),
            "--config",
            self.options["CMAKE_BUILD_TYPE"],
            "--parallel",
            str(self.jobs),
            "--target",
            target,
        ]
        lines = run_logged(
            command,
            f"building {what}",
            self.log,
            self.env,
            rename=[("../native/", f"{self.root}/native/"), (f"{self.root}/native", str(NATIVE))],
        )
        for line in lines:
            if line.startswith(str(NATIVE)) and "warning:" in line:
                print(line, file=sys.stderr)

    def install(self, directory):
        command = [
            self.cmake,
            "--install",
            str(self.directory),
            "--config",
            self.options["CMAKE_BUILD_TYPE"],
            "--component",
            "retain-local",
            "--prefix",
            str(directory),
        ]
        run_logged(command, f"copying the libraries to {directory}", self.log, self.env)
        # the server is built later, and has to be the same
        options = "".join(f"{name}={value}\n" for name, value in sorted(self.defines.items()))
        (directory / "build-options.txt").write_text(options, encoding="utf-8")

    def run_tests(self, regex):
        """Run the native tests whose name matches; ctest speaks for itself."""
        ctest = str(pathlib.Path(self.cmake).with_name("ctest"))
        return subprocess.run(
            [
                ctest,
                "--test-dir",
                str(self.directory),
                "-C",
                self.options["CMAKE_BUILD_TYPE"],
                "--output-on-failure",
                "--no-tests=error",
                "-R",
                regex,
            ],
            env={**os.environ, "RETAIN_DOCS": str(NATIVE.parent / "docs")},
        ).returncode

    @property
    def library_directory(self):
        return self.directory / "bin"

    @property
    def server(self):
        name = "llama-server" if self.stock else "retain-server"
        return self.library_directory / (f"{name}.exe" if os.name == "nt" else name)
