"""The model that a name on the command line stands for: a file here, one on the Hugging Face Hub, or the bundled one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import RetainError, UsageError
from ..models.model_file import SIDECAR_SUFFIX
from ..paths import BUNDLED_MODEL

BUNDLED = "bundled"

_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_NAME = re.compile(_REPO + r"(?::(?P<choice>.+))?")
_FILE_NAME = re.compile(_REPO + r"/(?P<file>.+\.gguf)")
_PAGE = re.compile(_REPO + r"(?:/(?:blob|resolve|raw|tree)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?/?")
_PART = re.compile(r"-\d{5}-of-(\d{5}\.gguf)$")  # of a model in several files
_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_NOT_MODELS = {"datasets", "spaces", "collections", "papers", "docs"}


@dataclass(frozen=True)
class HubName:
    """A model on the Hub: its repository, which file of it (see `models.hub.choose_file`), and the branch, tag or commit.

    None is the only model there is, and the main branch.
    """

    repo: str
    choice: str | None = None
    revision: str | None = None

    @classmethod
    def of(cls, name: str) -> HubName | None:
        """The model that a name or an address stands for; None: it is the name of a file.

        Raises
        ------
        UsageError : an address that is not that of a model on the Hub.
        """
        if (address := _address(name)) is not None:
            return cls._of_address(name, address)
        # a missing models/x.gguf is a missing file, not somebody's repository
        if (match := _NAME.fullmatch(name)) and (match["choice"] is not None or not name.endswith(".gguf")):
            return cls(match["repo"], match["choice"])
        if (match := _FILE_NAME.fullmatch(name)) and not Path(match["repo"]).parent.is_dir():
            return cls(match["repo"], _first_part(match["file"]))
        return None

    @classmethod
    def _of_address(cls, name: str, address: str) -> HubName:
        match = _PAGE.fullmatch(address) or _NAME.fullmatch(address) or _FILE_NAME.fullmatch(address)
        if match is None or address.partition("/")[0] in _NOT_MODELS:
            raise UsageError(f"{name} is not the address of a model; give that of its page or of a .gguf file there")
        found = match.groupdict()
        file, revision = found.get("file"), found.get("revision")
        if file is not None and not file.endswith(".gguf"):
            raise UsageError(f"{name} is not the address of a .gguf file")
        choice = found.get("choice") or (_first_part(file) if file else None)
        return cls(found["repo"], choice, None if revision == "main" else revision)


def find_model(name: str) -> tuple[Path, Path | None]:
    """The file that a name stands for, and its gates when they came with it from the Hub.

    Parameters
    ----------
    name : a file; "bundled"; `owner/repo`, `owner/repo:file.gguf`, `owner/repo:Q4_K_M`, `owner/repo/file.gguf`; or the
        address of one of these on huggingface.co or hf.co. What is a file here is taken as one.

    Raises
    ------
    UsageError : no name, or an address that is not that of a model on the Hub.
    RetainError : it cannot be fetched.
    """
    if not name:
        raise UsageError("the model's name is empty")
    if Path(name).exists():
        return Path(name), None
    if name == BUNDLED:
        if not BUNDLED_MODEL.exists():
            raise RetainError(f"the bundled model is not there: {BUNDLED_MODEL} is missing; install retain-local again")
        return BUNDLED_MODEL, None
    hub_name = HubName.of(name)
    if hub_name is None:
        return Path(name), None

    from ..models.hub import fetch_model  # takes a while to import

    fetched = fetch_model(hub_name.repo, hub_name.choice, hub_name.revision)
    return fetched.path, fetched.gates


def names_gguf(name: str) -> bool:
    """Whether a name must stand for a GGUF file: that of a file, or one with a choice; a repository alone may hold anything."""
    if name == BUNDLED or name.lower().endswith(".gguf"):
        return True
    hub_name = None if not name or Path(name).exists() else HubName.of(name)
    return hub_name is not None and hub_name.choice is not None


def find_sidecar(name: str) -> Path:
    """The gate sidecar that a name stands for: a file, or "bundled", that of the bundled model."""
    is_bundled = name == BUNDLED and not Path(name).exists()
    return BUNDLED_MODEL.with_suffix(SIDECAR_SUFFIX) if is_bundled else Path(name)


def _address(name: str) -> str | None:
    """What follows the host in an address on the Hub; None: the name is no address.

    Raises
    ------
    UsageError : it is an address elsewhere.
    """
    scheme, separator, rest = name.partition("://")
    if separator and scheme == "hf":
        return rest.strip("/")
    try:
        parts = urlsplit(name if separator else f"https://{name}")
    except ValueError:  # brackets where an address has its host
        return None
    own = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc
    if parts.netloc in _HOSTS or (separator and own and parts.netloc == own):
        return unquote(parts.path).strip("/")
    if separator:
        raise UsageError(f"{name} is not on huggingface.co: download the file, and name it")
    return None


def _first_part(file: str) -> str:
    """The first file of a model in several files, by the name of any of them."""
    return _PART.sub(r"-00001-of-\1", file)
