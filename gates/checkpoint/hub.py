"""PyTorch checkpoints of gates, fetched from the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HTTPError

from ...errors import RetainError
from ...models.download import download
from ...models.hub import UNFINISHED, list_files, why
from .layout import CONFIG_FILE
from .read import INDEX_SUFFIX, README_FILE, choose_weights
from .safetensors import shard_files


@dataclass(frozen=True)
class FetchedCheckpoint:
    """Where the tensors of a checkpoint are on this machine, its other files beside them, and the commit it is of."""

    path: Path
    commit: str


def fetch_checkpoint(repo: str, revision: str | None) -> FetchedCheckpoint:
    """Fetch the gates of a repository, with progress bars; what was fetched before is not fetched again.

    Parameters
    ----------
    repo : `owner/repo`.
    revision : a branch, a tag or a commit; None: the main branch.

    Raises
    ------
    RetainError : no such repository or revision, no checkpoint of gates in it, no access, no connection.
    """
    files, offline = list_files(repo, revision)
    try:
        weights = choose_weights([file for file in files if "/" not in file])
    except RetainError as error:
        raise RetainError(f"{repo}: {error}") from None
    beside = [file for file in (CONFIG_FILE, README_FILE) if file in files]
    try:
        for file in beside:
            download(repo, file, offline, revision)
        path = download(repo, weights, offline, revision)
        if weights.endswith(INDEX_SUFFIX):
            for file in shard_files(path):
                download(repo, file, offline, revision)
    except (HTTPError, OSError, ValueError) as error:
        raise RetainError(why(repo, error, UNFINISHED)) from None
    return FetchedCheckpoint(path, path.parent.name)
