"""`retain-local gates inspect`, `gates export` and `gates verify`: from arguments to what is printed."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..errors import UsageError
from ..gates import describe_sidecar, facts_table, sidecar_table
from ..gates.export import export_checkpoint
from ..gates.sidecar.file import WEIGHT_TYPES, check_out
from ..terminal.text_input import read_prompt

_REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>.+))?")
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".json", ".gguf")

logger = logging.getLogger("retain_local")


def show_sidecar(path: Path, as_json: bool) -> None:
    """Print what a sidecar holds, as a table or as one JSON object.

    Raises
    ------
    RetainError : the file is not a sidecar, or is damaged.
    """
    description = describe_sidecar(path)
    if as_json:
        print(json.dumps(description))
    else:
        Console(highlight=False, emoji=False).print(sidecar_table(description))


def export_gates(
    source: str, out: Path, weight_type: str, base: Path | None, revision: str | None, force: bool
) -> None:
    """Make a sidecar from a checkpoint, and print what is in it.

    Raises
    ------
    RetainError : the checkpoint cannot be found, fetched or used, or the sidecar not written.
    """
    if weight_type not in WEIGHT_TYPES:
        raise UsageError(f"outtype {weight_type!r} is not one of {', '.join(WEIGHT_TYPES)}")
    check_out(out, force, base)
    path, name = _find_source(source, revision)
    export = export_checkpoint(path, out, weight_type, base, name)
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    console.print(f"[bold]{escape(source)}[/] -> [bold]{escape(str(out))}[/]")
    console.print(facts_table(describe_sidecar(out)))
    for remark in export.remarks:
        logger.warning("%s", remark)


def _find_source(source: str, revision: str | None) -> tuple[Path, str | None]:
    """The checkpoint on this machine, and its repository and commit when it came from the Hub.

    What is a file or folder here is taken as one.
    """
    path, match = Path(source), _REPOSITORY.fullmatch(source)
    is_file = path.exists() or match is None or (match["file"] is None and path.suffix in _FILE_SUFFIXES)
    if match is None or is_file:
        if revision is not None:
            raise UsageError(f"a revision is of a repository on the Hub, and {source} is none")
        return path, None

    from ..gates.checkpoint.hub import fetch_checkpoint  # takes a while to import

    fetched = fetch_checkpoint(match["repo"], revision, match["file"])
    file = f":{match['file']}" if match["file"] else ""
    return fetched.path, f"{match['repo']}@{fetched.commit}{file}"


def verify_gates(
    sidecar: Path,
    base: Path,
    checkpoint: Path | None,
    text: Path | None,
    n_tokens: int,
    tolerance: float | None,
    threads: int | None,
    as_json: bool,
) -> int:
    """Compare native gates with those in NumPy, and print how far they are apart.

    Returns the exit status, 1 when that is too far.

    Raises
    ------
    RetainError : a file cannot be used, or they do not belong together.
    """
    from ..gates.verify import DEFAULT_TEXT, verification_table, verify_sidecar  # loads the native libraries

    words = read_prompt(None, text or DEFAULT_TEXT)
    result = verify_sidecar(
        sidecar, base, words, n_tokens, checkpoint, tolerance, n_threads=threads, n_threads_batch=threads
    )
    if as_json:
        print(json.dumps(result.to_dict()))
        return int(not result.passed)
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    console.print(verification_table(result))
    worst = max(result.layers, key=lambda layer: layer.relative)
    verdict = "[green]the gates agree[/]" if result.passed else "[red]the gates do NOT agree[/]"
    console.print(
        f"{verdict}: over {result.n_tokens} tokens the native {'score' if result.is_static else 'log β'} is within {worst.relative:.2g} of that of"
        f" {'the checkpoint' if checkpoint else 'the same weights'} in NumPy, relative (layer {worst.layer});"
        f" tolerance {result.tolerance:g} for {result.weight_type}"
    )
    return int(not result.passed)
