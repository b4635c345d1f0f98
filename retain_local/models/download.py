"""Downloading one file of a repository into the Hugging Face cache, going on where an earlier try stopped.

huggingface_hub throws a half-finished file away when the process ends. This puts the finished file where
huggingface_hub looks for it, so that the cache is shared with everything else that uses it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.file_download import HfFileMetadata, http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, logging

from ..errors import RetainError

_SHA256 = re.compile("[0-9a-f]{64}")  # the etag of a large file is its checksum
_NAME = re.compile(r"(?!\.+$)[\w.+=-]{1,200}", re.ASCII)  # what a Hub may have us call a file or a folder
_READ_BYTES = 1 << 24


def download(repo: str, file: str, offline: bool, revision: str | None = None) -> Path:
    """Path of a file in the cache, downloaded with a progress bar if it is not there.

    Parameters
    ----------
    repo, file : the repository and the file's path in it.
    offline : use only what the cache has.
    revision : a branch, a tag or a commit; None: the main branch.

    Raises
    ------
    RetainError : what arrived is not the file that was announced, or a name leads out of the cache.
    OSError, huggingface_hub.errors.HTTPError : the connection failed; what arrived is kept for the next try.
    """
    check_file_name(repo, file)
    if not offline:
        metadata = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision))
        for name in (metadata.etag, metadata.commit_hash):
            if name is not None and not _NAME.fullmatch(name):
                raise RetainError(f"{file} of {repo} is not fetched: the Hub calls it '{name[:80]}', which is no name")
        cached = try_to_load_from_cache(repo, file, revision=metadata.commit_hash)
        has_size = metadata.size is not None and metadata.size <= constants.MAX_HTTP_DOWNLOAD_SIZE
        if not isinstance(cached, str) and metadata.etag and has_size:
            _fill_cache(repo, file, metadata)
    return Path(hf_hub_download(repo, file, revision=revision, local_files_only=offline))


def check_file_name(repo: str, file: str) -> None:
    """Raise RetainError unless a file's name in a repository leads to a place in the repository's folder."""
    parts = file.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in file or not file.isprintable() or len(file) > 1000:
        raise RetainError(f"{repo} has a file called '{file[:80]}', which is no name of a file: it is not used")


def _fill_cache(repo: str, file: str, metadata: HfFileMetadata) -> None:
    """Put a file's bytes into the cache under the name that huggingface_hub gives them."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    assert metadata.etag is not None and metadata.size is not None
    blob = folder / metadata.etag
    partial = folder / f"{metadata.etag}.partial"
    with WeakFileLock(folder / f"{metadata.etag}.partial.lock"):
        if blob.exists():
            return
        with open(partial, "ab") as target, _quiet_retries():
            if target.tell() > metadata.size:
                target.truncate(0)
            http_get(
                metadata.location,
                target,
                resume_size=target.tell(),
                headers=_headers(metadata.location),
                expected_size=metadata.size,
                displayed_filename=file,
            )
        _verify(repo, file, partial, metadata.etag, metadata.size)
        partial.replace(blob)


@contextmanager
def _quiet_retries() -> Iterator[None]:
    """http_get logs every broken connection that it goes on after; the one that it gives up on is raised."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _headers(url: str) -> dict[str, str]:
    """Headers for a download: the token goes to the Hub, and not to the storage it redirects to."""
    headers = build_hf_headers()
    if urlsplit(url).netloc != urlsplit(constants.ENDPOINT).netloc:
        headers.pop("authorization", None)
    return headers


def _verify(repo: str, file: str, partial: Path, etag: str, size: int) -> None:
    """Raise RetainError, and drop the file, unless it is what the Hub announced."""
    right = partial.stat().st_size == size
    if right and _SHA256.fullmatch(etag):
        digest = hashlib.sha256()
        with open(partial, "rb") as source:
            while block := source.read(_READ_BYTES):
                digest.update(block)
        right = digest.hexdigest() == etag
    if not right:
        partial.unlink()
        raise RetainError(f"{file} of {repo} was damaged on its way, and was thrown away; run the same command again")
