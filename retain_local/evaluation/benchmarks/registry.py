"""The benchmarks by name, and where their files are."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import RetainError, UsageError
from ...files import replaced
from .benchmark import Benchmark
from .gsm8k import load_gsm8k
from .longbench import load_longbench
from .longbench_v2 import load_longbench_v2
from .ruler import load_ruler
from .scbench import load_scbench

Loader = Callable[[Path, str], Benchmark]  # (file, task or "")


@dataclass(frozen=True)
class Published:
    """Where the Hub has a benchmark: a data set's repository, and its file for a task."""

    repo: str
    file: str


@dataclass(frozen=True)
class Entry:
    """A benchmark that can be loaded; `published` is None where only a file will do."""

    load: Loader
    published: Published | None = None


BENCHMARKS = {
    "longbench": Entry(load_longbench, Published("THUDM/LongBench", "data.zip/data/{task}.jsonl")),
    "longbench_v2": Entry(load_longbench_v2, Published("THUDM/LongBench-v2", "data.json")),
    "scbench": Entry(load_scbench, Published("microsoft/SCBench", "data/scbench_{task}.jsonl")),
    "ruler": Entry(load_ruler),
    "gsm8k": Entry(load_gsm8k),
}


def load_benchmark(name: str) -> Benchmark:
    """Load a benchmark.

    Parameters
    ----------
    name : ``BENCHMARK[/TASK][:FILE]``. Without a file it is fetched from the Hub.

    Raises
    ------
    UsageError : no such benchmark or task, or it needs a file.
    RetainError : the file cannot be read or fetched, or has another format.
    """
    asked, _, file = name.partition(":")
    benchmark, _, task = asked.partition("/")
    if benchmark not in BENCHMARKS:
        raise UsageError(f"benchmark {benchmark!r} is not one of {', '.join(BENCHMARKS)}")
    entry = BENCHMARKS[benchmark]
    if file:
        return entry.load(Path(file), task)
    if entry.published is None:
        raise UsageError(f"{benchmark} is not fetched; name its file, as {asked}:FILE")
    if "{task}" in entry.published.file and not task:
        raise UsageError(f"which task of {benchmark}? Say {benchmark}/TASK, or {benchmark}:FILE")
    return entry.load(_fetch(entry.published, task), task)


def _fetch(published: Published, task: str) -> Path:
    """A file of a data set, fetched once; one in an archive is unpacked beside it."""
    archive, inside, member = published.file.format(task=task).partition(".zip/")
    path = _download(published.repo, archive + ".zip" if inside else archive)
    return _unpacked(path, member) if inside else path


def _download(repo: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download  # takes a while to import
    from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError

    from ...models.hub import UNFINISHED, why

    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset"))
    except LocalEntryNotFoundError:
        raise RetainError(
            f"{file} of {repo} is not on this machine, and cannot be fetched: is there a connection, or is"
            " HF_HUB_OFFLINE set?"
        ) from None
    except EntryNotFoundError:
        raise RetainError(f"{repo} has no file {file}; is the task's name right?") from None
    except (HTTPError, OSError, ValueError) as error:
        raise RetainError(why(repo, error, UNFINISHED)) from None


def _unpacked(archive: Path, member: str) -> Path:
    path = archive.parent / archive.stem / member
    if not path.is_file():
        try:
            with zipfile.ZipFile(archive) as opened, opened.open(member) as source:
                path.parent.mkdir(parents=True, exist_ok=True)
                with replaced(path) as file:
                    shutil.copyfileobj(source, file)
        except KeyError:
            raise RetainError(f"{archive} has no file {member}; is the task's name right?") from None
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise RetainError(f"{archive} cannot be unpacked: {error}") from None
    return path
