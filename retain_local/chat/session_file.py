"""The file that a saved conversation lives in.

Layout, little endian: 8 bytes magic, u64 length of the header, the header (JSON), u64 length of the cache, the cache
(as the native library wrote it), 32 bytes SHA-256 of all before. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import RetainError

MAGIC = b"RTNLSES\x01"
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = hashlib.sha256().digest_size
_ROLES = ("system", "user", "assistant")


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


def write_session(path: str | os.PathLike[str], session: SavedSession) -> int:
    """Write a session file, all or nothing; returns its size in bytes.

    Raises
    ------
    RetainError : the file cannot be written.
    """
    path = Path(path)
    header = asdict(session)
    state = header.pop("state")
    encoded = json.dumps(header, ensure_ascii=False).encode("utf-8", errors="surrogatepass")
    body = b"".join((MAGIC, _LENGTH.pack(len(encoded)), encoded, _LENGTH.pack(len(state)), state))
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(body)
                file.write(hashlib.sha256(body).digest())
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise RetainError(f"{path} cannot be written: {error.strerror or error}") from None
    return size


def read_session(path: str | os.PathLike[str]) -> SavedSession:
    """Read a session file and check all of it.

    Raises
    ------
    RetainError : the file is missing, not a session, truncated, altered, or of a newer version.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RetainError(f"{path} cannot be read: {error.strerror or error}") from None
    if data[: len(MAGIC)] != MAGIC:
        newer = data[: len(MAGIC) - 1] == MAGIC[:-1]
        raise RetainError(f"{path} is a session of another version" if newer else f"{path} is not a saved session")
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise RetainError(f"{path} is truncated or was altered, so it is not loaded")
    header, at = _block(body, len(MAGIC), path)
    state, end = _block(body, at, path)
    if end != len(body):
        raise _damaged(path)
    try:
        return SavedSession(**_checked(json.loads(header), path), state=state)
    except (ValueError, UnicodeDecodeError):
        raise _damaged(path) from None


def _damaged(path: Path) -> RetainError:
    return RetainError(f"{path} is damaged, so it is not loaded")


def _block(body: bytes, at: int, path: Path) -> tuple[bytes, int]:
    """A length and as many bytes, from position `at`, and the position after them."""
    start = at + _LENGTH.size
    if start > len(body):
        raise _damaged(path)
    end = start + _LENGTH.unpack_from(body, at)[0]
    if end > len(body):
        raise _damaged(path)
    return body[start:end], end


def _checked(header: Any, path: Path) -> dict[str, Any]:
    """The header, if it has every field in its type: a checksum can be right and the content wrong."""
    names = {field.name for field in fields(SavedSession)} - {"state"}
    if not isinstance(header, dict) or set(header) != names:
        raise _damaged(path)
    right = (
        all(isinstance(header[name], str) for name in ("model", "model_name", "ending"))
        and isinstance(header["cache"], dict)
        and all(isinstance(value, str) for value in header["cache"].values())
        and _are_tokens(header["tokens"])
        and _are_tokens(header["cached_tokens"])
        and type(header["reply_length"]) is int
        and 0 <= header["reply_length"] <= len(header["tokens"])
        and isinstance(header["pins"], list)
        and all(_is_range(pin) for pin in header["pins"])
        and isinstance(header["messages"], list)
        and all(_is_message(message) for message in header["messages"])
    )
    if not right:
        raise _damaged(path)
    return header


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(token) is int and 0 <= token < 2**31 for token in value)


def _is_range(value: Any) -> bool:
    return _are_tokens(value) and len(value) == 2 and value[0] < value[1]


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"role", "content"}
        and value["role"] in _ROLES
        and isinstance(value["content"], str)
    )
