"""Files written whole or not at all, and read only where they are files."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from retain_local.errors import RetainError
from retain_local.files import opened, replaced


def write(path: Path, content: bytes = b"new", **options: bool) -> None:
    with replaced(path, **options) as file:
        file.write(content)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write(path, b"old")
    with pytest.raises(KeyboardInterrupt), replaced(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]
    write(path)
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["f"]


def test_permissions(tmp_path: Path) -> None:
    path, private, umask = tmp_path / "f", tmp_path / "p", os.umask(0o027)
    try:
        write(path)
        write(private, is_private=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640 and stat.S_IMODE(private.stat().st_mode) == 0o600
        path.chmod(0o604)
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(umask)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    target, link = tmp_path / "a" / "f", tmp_path / "b" / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to("../a/f")
    write(link)
    assert link.is_symlink() and target.read_bytes() == b"new" and os.listdir(tmp_path / "b") == ["link"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    fifo, bound, folder, loop = (tmp_path / name for name in ("fifo", "socket", "folder", "loop"))
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bound))
        folder.mkdir()
        loop.symlink_to("loop")
        device = tmp_path / "device"
        device.symlink_to("/dev/null")
        before = sorted(os.listdir(tmp_path))
        for path in (fifo, bound, folder, loop, device, Path("/dev/null"), tmp_path / "a\0b"):
            with pytest.raises(RetainError, match="cannot be written") as caught:
                write(path)
            assert "\n" not in str(caught.value)
            if path != folder:
                with pytest.raises(RetainError, match="cannot be read"), opened(path):
                    pass
        assert sorted(os.listdir(tmp_path)) == before and not folder.is_symlink()
    with pytest.raises(RetainError, match="cannot be read: Is a directory"), opened(folder) as file:
        file.read()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write(path, b"old")
    with pytest.raises(RetainError, match="cannot be written: No space left"), replaced(path) as file:
        os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())  # what the disk says from here on
        file.write(b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


def test_leftovers_of_a_killed_program_are_cleared(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    script = """
import os, sys
from retain_local.files import replaced
with replaced(sys.argv[1]) as file:
    file.write(b"half")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, str(path)], timeout=60)
    (leftover,) = tmp_path.iterdir()
    other = tmp_path / ".other.x.partial"
    other.touch()
    write(path)
    assert {*tmp_path.iterdir()} == {path, leftover, other}  # it may belong to a program that is still writing
    for each in (leftover, other):
        os.utime(each, (0, 0))
    write(path)
    assert {*tmp_path.iterdir()} == {path, other}


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"content")
    with opened(path) as file:
        assert file.read() == b"content"
    with pytest.raises(RetainError, match="cannot be read: No such file"), opened(tmp_path / "g"):
        pass
