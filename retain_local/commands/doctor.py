"""`retain-local doctor`: what is installed, whether it is right, and how to fix it."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..bindings import library
from ..paths import BUNDLED_MODEL
from ..terminal.byte_format import format_bytes

_LIBRARIES = {
    "llama": "llama.cpp with the retention cache",
    "ggml": "the tensor library",
    "ggml-base": "the tensor library's core",
    "ggml-cpu": "the CPU backend",
    "mtmd": "pictures and sound",
}


_GPU_CELLS = b"ggml_retention_copy_cells"  # what a backend offers that has kernels for cells in its own memory

TRIAL = [sys.executable, "-m", "retain_local.commands.trial"]
_TRIAL_TIMEOUT_S = 300


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `remedy` says how to fix what is wrong; "" when nothing is."""

    label: str
    value: str
    remedy: str = ""

    @property
    def is_ok(self) -> bool:
        return not self.remedy


def examine() -> list[Finding]:
    """Look at everything that running a model needs."""
    findings = [
        Finding("retain-local", _version("retain-local")),
        Finding("Python", f"{platform.python_version()} ({sys.executable})"),
        Finding("system", f"{platform.system()} {platform.machine()}"),
        _bindings(),
        *_library_files(),
    ]
    loaded = _loaded()
    findings.append(loaded)
    if loaded.is_ok:
        findings += [*_devices(), _cpu_features()]
    model = _bundled_model()
    findings.append(model)
    if loaded.is_ok and model.is_ok:
        findings.append(_decoding())
    return findings


def run_doctor() -> int:
    """Print what `examine` finds; returns the exit status, 1 when something is wrong."""
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    findings = examine()
    width = max(len(finding.label) for finding in findings)
    indent = " " * (len("WRONG ") + width + 2)
    for finding in findings:
        mark = "[green]ok   [/]" if finding.is_ok else "[red]WRONG[/]"
        console.print(f"{mark} {escape(finding.label):{width}}  {escape(_wrapped(finding.value, indent, console))}")
        if not finding.is_ok:
            remedy = _wrapped(f"to fix it: {finding.remedy}", indent, console)
            console.print(f"{indent}[yellow]{escape(remedy)}[/]")
    wrong = sum(not finding.is_ok for finding in findings)
    console.print(f"\n[red]{wrong} of {len(findings)} are wrong[/]" if wrong else "\n[green]all is well[/]")
    return int(wrong > 0)


def _wrapped(text: str, indent: str, console: Console) -> str:
    """A text that stands behind the indentation: in lines of a terminal's width, or in one line for a file or a pipe."""
    if not console.is_terminal:
        return text
    lines = textwrap.wrap(text, max(console.width - len(indent), 20), break_long_words=False, break_on_hyphens=False)
    return f"\n{indent}".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def _bindings() -> Finding:
    version = library.bindings_version() or "not installed"
    try:
        library.check_bindings()
    except library.LibraryError as error:
        return Finding(library.BINDINGS, version, error.remedy)
    return Finding(library.BINDINGS, version)


def _library_files() -> list[Finding]:
    folder = library.directory().absolute()
    remedy = library.remedy()
    source = f"named by {library.LLAMA_VARIABLE}" if library.is_overridden() else "of this package"
    findings = [Finding("library folder", f"{folder} ({source})", "" if folder.is_dir() else remedy)]
    for base, what in _LIBRARIES.items():
        path = folder / library.file_name(base)
        if path.exists():
            findings.append(Finding(path.name, f"{what}, {format_bytes(path.stat().st_size)}"))
        else:
            findings.append(Finding(path.name, f"{what}: missing", remedy))
    return findings


def _loaded() -> Finding:
    try:
        lib = library.load()
    except library.LibraryError as error:
        return Finding("loading", error.problem, error.remedy)
    return Finding("loading", f"{lib._name}, retention API {library.API_VERSION}, from {library.BINDINGS_VERSION}")


def _devices() -> list[Finding]:
    """The devices that ggml can compute on."""
    ggml = ctypes.CDLL(str(library.directory() / library.file_name("ggml")))
    for name, restype in (("count", ctypes.c_size_t), ("get", ctypes.c_void_p)):
        getattr(ggml, f"ggml_backend_dev_{name}").restype = restype
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    # these two live in ggml-base, which ggml is linked to
    base = ctypes.CDLL(str(library.directory() / library.file_name("ggml-base")))
    for name in ("name", "description"):
        function = getattr(base, f"ggml_backend_dev_{name}")
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
    base.ggml_backend_dev_memory.restype = None
    base.ggml_backend_dev_backend_reg.restype = base.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    base.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
    base.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]

    findings = []
    for i in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(i)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, free, total)
        name, description = (
            getattr(base, f"ggml_backend_dev_{what}")(device).decode(errors="replace")
            for what in ("name", "description")
        )
        memory = f", {format_bytes(free.value)} free of {format_bytes(total.value)}" if total.value else ""
        registry = base.ggml_backend_dev_backend_reg(device)
        has_kernels = base.ggml_backend_reg_get_proc_address(registry, _GPU_CELLS)
        cells = "; cells of the layers that -ngl puts there are there too" if has_kernels else ""
        findings.append(Finding(f"device {name}", f"{description}{memory}{cells}"))
    return findings or [Finding("devices", "none", library.remedy())]


def _cpu_features() -> Finding:
    import llama_cpp

    text = llama_cpp.llama_print_system_info().decode(errors="replace")
    features = (part.removeprefix("CPU :").strip() for part in " ".join(text.split()).split(" |"))
    return Finding("CPU features", ", ".join(part.removesuffix(" = 1") for part in features if part))


def _bundled_model() -> Finding:
    if BUNDLED_MODEL.exists():
        return Finding("bundled model", str(BUNDLED_MODEL))
    return Finding("bundled model", f"{BUNDLED_MODEL} is missing: no demo", "install retain-local again")


def _decoding() -> Finding:
    """Whether a quantised model can be run, tried in another process: libraries that do not fit the CPU end theirs."""
    label = "decoding"
    try:
        done = subprocess.run(
            TRIAL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TRIAL_TIMEOUT_S,
            cwd=Path(__file__).parents[2],
        )
    except subprocess.TimeoutExpired:
        return Finding(
            label, f"a few tokens are not written in {_TRIAL_TIMEOUT_S} s", "try again on a less busy machine"
        )
    if done.returncode == 0:
        return Finding(label, done.stdout.strip())
    if done.returncode > 0 and (said := done.stderr.strip()):
        return Finding(label, said.splitlines()[-1], library.remedy())
    try:
        how = signal.Signals(-done.returncode).name
    except ValueError:
        how = f"status {done.returncode}"
    return Finding(label, f"a quantised model ends its process ({how}) with these libraries", library.FOR_THIS_CPU)
