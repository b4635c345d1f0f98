"""Models named as `owner/repo[:file or quant]`, fetched from the Hugging Face Hub."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import RetainError
from .download import check_file_name, download
from .model_file import SIDECAR_SUFFIX

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")
_NOT_MODELS = re.compile(r"(^|/)(mmproj|imatrix)|" + re.escape(SIDECAR_SUFFIX) + "$", re.IGNORECASE)

_TIMEOUT_S = 15
UNFINISHED = "the download did not finish; run the same command to resume it"

logger = logging.getLogger("retain_local")


@dataclass(frozen=True)
class FetchedModel:
    """Where a model is on this machine: its first file, and its gates when they were fetched with it."""

    path: Path
    gates: Path | None = None


def fetch_model(repo: str, choice: str | None, revision: str | None = None) -> FetchedModel:
    """Fetch a model of a repository, and its gates where they lie beside it, with progress bars.

    What was fetched before is not fetched again; an interrupted download goes on where it stopped.

    Parameters
    ----------
    repo : `owner/repo`.
    choice : see `choose_file`.
    revision : a branch, a tag or a commit; None: the main branch.

    Raises
    ------
    RetainError : no such repository or revision, nothing or more than one model in it that fits, no access, no connection.
    """
    files, offline = list_files(repo, revision)
    model = choose_file(repo, files, choice)
    parts = [file for file in files if _base(file) == _base(model)]
    sidecar = _base(model) + SIDECAR_SUFFIX
    try:
        paths = [download(repo, file, offline, revision) for file in sorted(parts)]
        gates = download(repo, sidecar, offline, revision) if sidecar in files else None
    except (HTTPError, OSError, ValueError) as error:
        raise RetainError(why(repo, error, UNFINISHED)) from None
    return FetchedModel(paths[0], gates)


def list_files(repo: str, revision: str | None = None) -> tuple[list[str], bool]:
    """Files of a repository, and whether they are only those in the cache because the Hub cannot be reached."""
    try:
        # unlike a listing this tries once, so that without a connection the answer comes at once
        siblings = HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT_S).siblings or []
        return _checked(repo, [file.rfilename for file in siblings]), False
    except (
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # what the client makes of an answer of another form
        raise RetainError(why(repo, error, "the Hub's answer is damaged")) from None
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, (HfHubHTTPError, ValueError)):
            raise RetainError(why(repo, error, "the Hub refused the request")) from None
        unreachable = error
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        raise RetainError(why(repo, unreachable, "and no file of it is on this machine")) from None
    logger.warning("the Hub cannot be reached: using the copy of %s on this machine", repo)
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()], True


def _checked(repo: str, files: list[str]) -> list[str]:
    for file in files:
        if not isinstance(file, str):
            raise TypeError("a file without a name")
        check_file_name(repo, file)
    return files


def why(repo: str, error: Exception, otherwise: str) -> str:
    """One line about a failed request."""
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: accept its conditions on {constants.ENDPOINT}/{repo} and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo} is neither a file here nor a repository on {constants.ENDPOINT} that you may read"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no such branch, tag or commit on {constants.ENDPOINT}"
    if isinstance(error, HFValidationError):
        return f"{repo} is neither a file here nor the name of a repository"
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repo} cannot be fetched: HF_HUB_OFFLINE is set, {otherwise}"
    reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
    return f"{repo} cannot be fetched from {constants.ENDPOINT} ({reason}); {otherwise}"


def choose_file(repo: str, files: list[str], choice: str | None) -> str:
    """The model file of a repository that is meant; of a split model its first part.

    Parameters
    ----------
    repo : for messages.
    files : all files of the repository.
    choice : a file's path or name, or a quantisation such as Q4_K_M (in any case); None: the only model there is.

    Raises
    ------
    RetainError : none fits, or more than one; the message lists what there is.
    """
    named = {file for file in files if file.endswith(".gguf") and not _NOT_MODELS.search(file)}
    models = sorted(file for file in named if (match := _SHARD.search(file)) is None or int(match[1]) == 1)
    if not models:
        raise RetainError(f"{repo} has no GGUF model; name a repository with .gguf files")
    fitting = models if choice is None else [file for file in models if _fits(file, choice)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(_choice_name(file) for file in fitting or models)
    if not fitting:
        raise RetainError(f"{repo} has no model '{choice}'; it has {listed}")
    raise RetainError(f"{repo} has more than one model; choose with {repo}:NAME, where NAME is one of {listed}")


def _base(file: str) -> str:
    """A file's path without the number of its part and without `.gguf`."""
    return _SHARD.sub("", file).removesuffix(".gguf")


def _fits(file: str, choice: str) -> bool:
    if choice.endswith(".gguf"):
        return choice in (file, file.rpartition("/")[2])
    quant = re.compile(rf"(^|[-._/]){re.escape(choice)}($|[-./])", re.IGNORECASE)
    return quant.search(_base(file)) is not None


def _choice_name(file: str) -> str:
    """What to write after the colon for a file: its quantisation, where the name ends in one."""
    match = re.search(r"[-._/]((?:UD-)?(?:I?Q\d\w*|BF16|F16|F32|MXFP4\w*))$", _base(file), re.IGNORECASE)
    return match[1] if match else file
