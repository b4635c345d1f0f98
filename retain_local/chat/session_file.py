"""The file that a saved conversation lives in.

Layout, little endian: 8 bytes magic, u64 length of the header, the header (JSON), u64 length of the cache, the cache
(as the native library wrote it), 32 bytes SHA-256 of all before. A session with pictures is version 2: after the cache come
the pictures' files, each with its u64 length, and the header says how many there are. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from ..errors import RetainError
from ..files import opened, replaced

MAGIC, MAGIC_WITH_PICTURES = b"RTNLSES\x01", b"RTNLSES\x02"
_N_PICTURES = "n_pictures"  # in the header of version 2
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = hashlib.sha256().digest_size
_ROLES = ("system", "user", "assistant")
_MOST_PINS = 10_000  # each is compared with all others


@dataclass(frozen=True)
class SavedSession:
    """A conversation at rest.

    model, model_name : fingerprint and name of the model.
    cache : what another cache must have in common with this one.
    messages : the conversation.
    tokens : the conversation as the model reads it.
    cached_tokens : the tokens that the cells are of.
    reply_length : tokens of the last reply.
    pins : pinned ranges of positions, the system message's not among them.
    ending : the stop string that ended the last reply, or "".
    state : the cells.
    pictures : the files of the pictures, by the numbers of their marks in the messages.
    """

    model: str
    model_name: str
    cache: dict[str, str]
    messages: list[dict[str, str]]
    tokens: list[int]
    cached_tokens: list[int]
    reply_length: int
    pins: list[list[int]]
    ending: str
    state: bytes
    pictures: list[bytes] = field(default_factory=list)


def write_session(path: str | os.PathLike[str], session: SavedSession) -> int:
    """Write a session file, all or nothing, for its owner's eyes alone; returns its size in bytes.

    Raises
    ------
    RetainError : the path is there and no ordinary file, or cannot be written.
    """
    header = asdict(session)
    blocks = [header.pop("state"), *header.pop("pictures")]
    if session.pictures:
        header[_N_PICTURES] = len(session.pictures)
    encoded = json.dumps(header, ensure_ascii=False).encode("utf-8", errors="replace")
    magic = MAGIC_WITH_PICTURES if session.pictures else MAGIC
    body = magic + b"".join(part for block in (encoded, *blocks) for part in (_LENGTH.pack(len(block)), block))
    with replaced(path, is_private=True) as file:
        file.write(body)
        file.write(hashlib.sha256(body).digest())
        return file.tell()


def read_session(path: str | os.PathLike[str]) -> SavedSession:
    """Read a session file and check all of it.

    Raises
    ------
    RetainError : the file is missing, no file, not a session, truncated, altered, or of a newer version.
    """
    path = Path(path)
    with opened(path) as file:
        magic = _magic(file, path)
        try:
            blocks = _blocks(file, magic)
        except MemoryError:
            raise RetainError(f"{path} cannot be read: it is larger than the memory") from None
    if blocks is None:
        raise RetainError(f"{path} is truncated or was altered, so it is not loaded")
    header, state, *pictures = blocks
    try:
        return SavedSession(**_checked(json.loads(header), path, len(pictures)), state=state, pictures=pictures)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or JSON nested without end
        raise _damaged(path) from None


def check_session(path: Path) -> None:
    """Raise RetainError for a file that cannot be opened, or does not begin as a session does."""
    with opened(path) as file:
        _magic(file, path)


def _magic(file: IO[bytes], path: Path) -> bytes:
    magic = file.read(len(MAGIC))
    if magic not in (MAGIC, MAGIC_WITH_PICTURES):
        newer = magic[:-1] == MAGIC[:-1] and len(magic) == len(MAGIC)
        raise RetainError(f"{path} is a session of another version" if newer else f"{path} is not a saved session")
    return magic


def _damaged(path: Path) -> RetainError:
    return RetainError(f"{path} is damaged, so it is not loaded")


def _blocks(file: IO[bytes], magic: bytes) -> list[bytes] | None:
    """The header, the cache and the pictures, from behind the magic; None when lengths or checksum are wrong."""
    digest, size = hashlib.sha256(magic), os.fstat(file.fileno()).st_size
    blocks: list[bytes] = []
    while len(blocks) < 2 or (magic == MAGIC_WITH_PICTURES and size - file.tell() > _DIGEST_BYTES):
        length = file.read(_LENGTH.size)
        # what a length asks for is not read before it is known to be there
        if len(length) < _LENGTH.size or _LENGTH.unpack(length)[0] > size - file.tell():
            return None
        blocks.append(file.read(*_LENGTH.unpack(length)))
        digest.update(length)
        digest.update(blocks[-1])
    if file.read(_DIGEST_BYTES + 1) != digest.digest():
        return None
    return blocks


def _checked(header: Any, path: Path, n_pictures: int) -> dict[str, Any]:
    """The header, if it has every field in its type: a checksum can be right and the content wrong."""
    names = {one.name for one in fields(SavedSession)} - {"state", "pictures"}
    if isinstance(header, dict) and header.pop(_N_PICTURES, 0) != n_pictures:
        raise _damaged(path)
    if not isinstance(header, dict) or set(header) != names:
        raise _damaged(path)
    least = -(2**31) if n_pictures else 0  # what is below 0 is of a picture
    right = (
        all(isinstance(header[name], str) for name in ("model", "model_name", "ending"))
        and isinstance(header["cache"], dict)
        and all(isinstance(value, str) for value in header["cache"].values())
        and _are_tokens(header["tokens"], least)
        and _are_tokens(header["cached_tokens"], least)
        and type(header["reply_length"]) is int
        and 0 <= header["reply_length"] < len(header["tokens"])
        and isinstance(header["pins"], list)
        and len(header["pins"]) <= _MOST_PINS
        and all(_is_range(pin) for pin in header["pins"])
        and isinstance(header["messages"], list)
        and _is_conversation(header["messages"])
    )
    if not right:
        raise _damaged(path)
    json.dumps(header, ensure_ascii=False).encode()  # JSON can hold text that is none
    return header


def _are_tokens(value: Any, least: int = 0) -> bool:
    return isinstance(value, list) and all(type(token) is int and least <= token < 2**31 for token in value)


def _is_range(value: Any) -> bool:
    return _are_tokens(value) and len(value) == 2 and value[0] < value[1]


def _is_conversation(messages: list[Any]) -> bool:
    """Whether questions and replies take turns, after a system message or none, and a reply is the last."""
    if not all(_is_message(message) for message in messages):
        return False
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    return bool(turns) and turns == ["user", "assistant"] * (len(turns) // 2)


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"role", "content"}
        and value["role"] in _ROLES
        and isinstance(value["content"], str)
    )
