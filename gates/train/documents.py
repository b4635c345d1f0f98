"""Documents to train on: text files, JSON lines, or a data set of the Hugging Face Hub."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import RetainError, UsageError

TEXT_SUFFIXES = (".txt", ".md", ".text")
JSON_SUFFIXES = (".jsonl", ".ndjson")
_DATA_SET = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<split>[\w.-]+))?")
# fields that hold a conversation or a text, the likeliest first
_CONVERSATIONS, _TEXTS = ("messages", "conversations"), ("text", "content")

Message = dict[str, str]
Document = str | list[Message]


def read_documents(source: str) -> Iterator[Document]:
    """The documents of a source, one after the other; that it is there is checked at once.

    Parameters
    ----------
    source : a text file, which is one document; a file of JSON lines, each an object with `messages` (a list of objects
        with `role` and `content`) or `text`; a folder of data files; or `NAME[:SPLIT]` of a data set on the Hugging Face
        Hub with such fields, whose split is `train` unless named.

    Raises
    ------
    RetainError : there is no such file or data set, or it holds something else.
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if path.is_dir():
        return _read_data_set(str(path), "train", source)
    if suffix in (*TEXT_SUFFIXES, *JSON_SUFFIXES):
        if not path.exists():
            raise RetainError(f"{path}: {os.strerror(errno.ENOENT)}")
        return _read_whole(path) if suffix in TEXT_SUFFIXES else _read_lines(path)
    if path.exists():
        raise UsageError(f"{source}: a file of data ends in {', '.join((*TEXT_SUFFIXES, *JSON_SUFFIXES))}")
    if match := _DATA_SET.fullmatch(source):
        return _read_data_set(match["name"], match["split"] or "train", source)
    raise UsageError(f"{source} is neither a file or folder here nor the name of a data set")


def _read_whole(path: Path) -> Iterator[Document]:
    yield _read_text(path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RetainError(f"{path}: not text in UTF-8") from None
    except OSError as error:
        raise RetainError(f"{path}: {error.strerror}") from None


def _read_lines(path: Path) -> Iterator[Document]:
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entries = json.loads(line)
        except (ValueError, RecursionError):
            raise RetainError(f"{path}: line {number} is not JSON") from None
        yield _document(entries, f"{path}: line {number}")


def _read_data_set(name: str, split: str, source: str) -> Iterator[Document]:
    try:
        import datasets
    except ImportError:
        raise RetainError("data sets need the package datasets: pip install 'retain-local[train]'") from None
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # whatever a data set's files or the connection can do
        raise RetainError(f"{source}: cannot be loaded: {_first_line(error)}") from None
    for number, row in enumerate(rows, 1):
        yield _document(row, f"{source}: row {number}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _document(entries: Any, where: str) -> Document:
    if isinstance(entries, Mapping):
        for field in _CONVERSATIONS:
            if isinstance(entries.get(field), Sequence) and not isinstance(entries[field], str):
                return [_message(message, where) for message in entries[field]]
        for field in _TEXTS:
            if isinstance(entries.get(field), str):
                return _checked(entries[field], where)
    raise RetainError(f"{where} has neither 'messages' (role and content each) nor 'text'")


def _message(message: Any, where: str) -> Message:
    if isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content")):
        return {key: _checked(message[key], where) for key in ("role", "content")}
    raise RetainError(f"{where}: a message is not an object with the texts 'role' and 'content'")


def _checked(text: str, where: str) -> str:
    """The text; RetainError where it has half of a surrogate pair, which JSON can hold and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RetainError(
            f"{where} holds half of a character (\\u{ord(text[error.start]):04x}), which is no text; mend or remove it"
        ) from None
    return text
