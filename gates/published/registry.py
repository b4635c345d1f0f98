"""The list of published gates: the package's own, and what users add to it.

A list is a JSON file: an array of objects with the fields of `PublishedGates`, of which `file`, `license`, `trained_on`,
`trained_budget`, `trained_context_length` and `names` may be left out. Users add theirs in `gates.json` in the folder of this
program's settings, or name a file on the command line; an entry of theirs takes the place of ours for the same base model, repository and file.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import RetainError
from ...paths import settings_file
from ..checkpoint.kinds import KINDS

PACKAGE_FILE = Path(__file__).with_name("published.json")
USER_FILE = "gates.json"
MAX_BYTES = 1 << 22

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class PublishedGates:
    """Gates that someone published for a model.

    base : repository of the base model, `owner/name`.
    hub : repository of the gates on the Hugging Face Hub.
    kind : a name of `checkpoint.kinds.KINDS`.
    architecture : of the base model's GGUF.
    block_count, embedding_length, head_count_kv : of the base model.
    file : of the repository, by its path; None: the only checkpoint in it.
    license : as the card of the gates states it; "none found" where it states none; None where we have not read it.
    trained_on : texts that the gates were trained on.
    trained_budget, trained_context_length : M and tokens of context in training.
    names : other names that GGUF files of the base model go by.
    """

    base: str
    hub: str
    kind: str
    architecture: str
    block_count: int
    embedding_length: int
    head_count_kv: int
    file: str | None = None
    license: str | None = None
    trained_on: str | None = None
    trained_budget: int | None = None
    trained_context_length: int | None = None
    names: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The repository and the file in it, as `gates export` and `gates pull --from` take them."""
        return f"{self.hub}:{self.file}" if self.file else self.hub

    @property
    def license_text(self) -> str:
        return self.license or "not read yet"


def published_gates(extra: Path | None = None) -> list[PublishedGates]:
    """All published gates that are known, those of the user first; within a list, the ones to prefer first.

    Parameters
    ----------
    extra : a further list, which comes before the others.

    Raises
    ------
    RetainError : a list cannot be read, or an entry in it is wrong.
    """
    user = settings_file(USER_FILE)
    lists = [
        *([extra] if extra is not None else []),
        *([user] if user is not None and user.exists() else []),
        PACKAGE_FILE,
    ]
    found: dict[str, PublishedGates] = {}
    for path in lists:
        for gates in read_list(path):
            found.setdefault(f"{gates.base} {gates.place}", gates)
    return list(found.values())


def read_list(path: Path) -> list[PublishedGates]:
    """The entries of one list.

    Raises
    ------
    RetainError : the file cannot be read, is no JSON array of objects, or an entry in it is wrong; the message says where.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RetainError(f"{path}: too long for a list of published gates")
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise RetainError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise RetainError(f"{path}: not a JSON file") from None
    if not isinstance(entries, list):
        raise RetainError(f"{path}: a list of published gates is a JSON array of objects")
    return [_entry(f"{path}, entry {i + 1}", entry) for i, entry in enumerate(entries)]


def _entry(where: str, entry: Any) -> PublishedGates:
    if not isinstance(entry, dict):
        raise RetainError(f"{where} is no JSON object")
    known = {field.name: field for field in fields(PublishedGates)}
    if unknown := sorted(entry.keys() - known):
        raise RetainError(f"{where}: {unknown[0][:60]!r} is not one of {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, field in known.items():
        if entry.get(name) is None:  # null, as `gates list --json` prints what is not known
            if field.default is MISSING:
                raise RetainError(f"{where}: '{name}' is missing")
            continue
        values[name] = _value(where, name, str(field.type), entry[name])
    gates = PublishedGates(**values)
    _check(where, gates)
    return gates


def _value(where: str, name: str, kind: str, value: Any) -> Any:
    is_count = type(value) is int and 0 < value < 2**31
    is_text = isinstance(value, str) and bool(value) and value.isprintable()
    are_texts = isinstance(value, list) and all(isinstance(text, str) and text.isprintable() for text in value)
    right = {"int": is_count, "str": is_text, "tup": are_texts}[kind[:3]]
    if not right:
        raise RetainError(f"{where}: '{name}' is {json.dumps(value)[:60]}")
    return tuple(value) if are_texts else value


def _check(where: str, gates: PublishedGates) -> None:
    for name, repo in (("base", gates.base), ("hub", gates.hub)):
        if not _REPOSITORY.fullmatch(repo):
            raise RetainError(f"{where}: '{name}' is {repo[:60]!r}, which is no OWNER/REPO")
    kinds = [kind.name for kind in KINDS]
    if gates.kind not in kinds:
        raise RetainError(f"{where}: 'kind' is {gates.kind[:60]!r}, not one of {', '.join(kinds)}")
