"""PyTorch checkpoints of gates, fetched from the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HTTPError

from ...errors import RetainError
from ...models.download import download
from ...models.hub import UNFINISHED, list_files, why
from .files import INDEX_SUFFIX, choose_weights
from .layout import CONFIG_FILE
from .license import README_FILE
from .safetensors import shard_files


@dataclass(frozen=True)
class FetchedCheckpoint:
    """Where the tensors of a checkpoint are on this machine, its other files beside them, and the commit it is of."""

    path: Path
    commit: str


def fetch_card(repo: str, revision: str | None) -> Path | None:
    """Fetch the README of a repository; None where it has none.

    Raises
    ------
    RetainError : no such repository or revision, no access, no connection.
    """
    files, offline = list_files(repo, revision)
    if README_FILE not in files:
        return None
    try:
        return download(repo, README_FILE, offline, revision)
    except (HTTPError, OSError, ValueError) as error:
        raise RetainError(why(repo, error, UNFINISHED)) from None


def fetch_checkpoint(repo: str, revision: str | None, file: str | None = None) -> FetchedCheckpoint:
    """Fetch the gates of a repository, with progress bars; what was fetched before is not fetched again.

    Parameters
    ----------
    repo : `owner/repo`.
    revision : a branch, a tag or a commit; None: the main branch.
    file : the one with the tensors, by its path in the repository; None: the one at its root.

    Raises
    ------
    RetainError : no such repository, revision or file, no checkpoint of gates in it, no access, no connection.
    """
    files, offline = list_files(repo, revision)
    if file is not None and file not in files:
        raise RetainError(f"{repo} has no file '{file[:200]}'")
    try:
        weights = file or choose_weights([name for name in files if "/" not in name])
    except RetainError as error:
        raise RetainError(f"{repo}: {error}") from None
    folder = weights.rpartition("/")[0]
    config = f"{folder}/{CONFIG_FILE}" if folder else CONFIG_FILE
    try:
        for name in (config, README_FILE):
            if name in files:
                download(repo, name, offline, revision)
        path = download(repo, weights, offline, revision)
        if weights.endswith(INDEX_SUFFIX):
            for shard in shard_files(path):
                download(repo, f"{folder}/{shard}" if folder else shard, offline, revision)
    except (HTTPError, OSError, ValueError) as error:
        raise RetainError(why(repo, error, UNFINISHED)) from None
    root = path.parents[weights.count("/")]
    return FetchedCheckpoint(path, root.name)
