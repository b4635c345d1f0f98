"""Writing a file whole or not at all, reading what is a file, and folders that belong to this user alone."""

from __future__ import annotations

import glob
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import RetainError, UsageError

_SUFFIX = ".partial"
_ABANDONED_S = 3600  # a partial file that nobody wrote to for so long was left behind by a process that died


def check_writable(path: Path) -> None:
    """Find out before hours of work whether `replaced` can write a file.

    Raises
    ------
    UsageError : its folder is missing or may not be written, or the path is no ordinary file.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"{path} cannot be written: its folder is missing")
    if target.is_dir():
        raise UsageError(f"{path} cannot be written: it is a folder")
    if target.exists() and not target.is_file():
        raise UsageError(f"{path} cannot be written: it is no ordinary file")
    if not os.access(target.parent, os.W_OK | os.X_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise UsageError(f"{path} cannot be written: no permission")


@contextmanager
def replaced(path: str | os.PathLike[str], is_private: bool = False) -> Iterator[IO[bytes]]:
    """A binary file to write in the block, which takes the place of `path` when the block ends without an error.

    Until then an older file stays as it is, and so it does when the disk is full or the process dies. Links are
    followed: what is replaced is the file that they lead to. Partial files that a dead process left are removed.

    Parameters
    ----------
    path : the file to make or replace.
    is_private : only the owner may read it; otherwise an older file's permissions stay, or a new file has the usual ones.

    Raises
    ------
    RetainError : the file cannot be written, or is no ordinary one.
    """
    _check_name(path, "written")
    try:
        target = Path(os.path.realpath(path))
        if os.path.lexists(target) and not target.is_file():  # a link is left only where it leads to itself
            raise RetainError(f"{os.fspath(path)} cannot be written: it is no ordinary file")
        prefix = _partial_prefix(target)
        _remove_abandoned(target.parent, prefix)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=prefix, suffix=_SUFFIX, delete=False) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o600 if is_private else _mode(target))
                os.replace(file.name, target)
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise
    except OSError as error:
        raise RetainError(f"{os.fspath(path)} cannot be written: {error.strerror or _short(error)}") from None


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file to read in the block: an ordinary one, for a device or a FIFO may never end.

    Raises
    ------
    RetainError : the file cannot be read, or is no ordinary one.
    """
    _check_name(path, "read")
    # to open a FIFO would wait for somebody to write into it
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RetainError(f"{os.fspath(path)} cannot be read: it is no ordinary file")
            yield file
    except OSError as error:
        raise RetainError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as `replaced` does; halves of characters become question marks."""
    with replaced(path) as file:
        file.write(text.encode("utf-8", errors="replace"))


def private_folder(path: Path) -> Path:
    """A folder of this user's, made for its owner alone if it is not there.

    Raises
    ------
    RetainError : it cannot be made, is no folder, or others may write to it and so decide what this program reads.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise RetainError(f"the folder {path} cannot be made: {error.strerror or error}") from None
    if hasattr(os, "getuid"):
        if status.st_uid not in (os.getuid(), 0):
            raise RetainError(f"the folder {path} belongs to another user; name another with XDG_DATA_HOME")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise RetainError(f"others may write to the folder {path}: make it yours alone with `chmod 700 {path}`")
    return path


def _mode(target: Path) -> int:
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _short(error: OSError) -> str:
    """What NumPy says when it writes less than it should, which is no reason."""
    return f"{error}: is the disk full?"


def _check_name(path: str | os.PathLike[str], what: str) -> None:
    if "\0" in os.fspath(path):
        raise RetainError(f"a file with a null character in its name cannot be {what}")


def _partial_prefix(target: Path) -> str:
    # the name itself can be as long as names may be
    return f".{os.fsdecode(os.fsencode(target.name)[:100])}."


def _remove_abandoned(folder: Path, prefix: str) -> None:
    now = time.time()
    for path in folder.glob(f"{glob.escape(prefix)}*{_SUFFIX}"):
        with suppress(OSError):
            if now - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()
