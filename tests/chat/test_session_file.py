"""The file of a saved conversation: all of it or none, and nothing else is read as one."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retain_local.chat.session_file import MAGIC, SavedSession, read_session, write_session
from retain_local.chat.slash_commands import run_command
from retain_local.errors import RetainError

SESSION = SavedSession(
    model="ab" * 32,
    model_name="a model",
    cache={"K type": "f16"},
    messages=[{"role": "user", "content": "héllo"}, {"role": "assistant", "content": "yes"}],
    tokens=[1, 2, 3],
    cached_tokens=[1, 2],
    reply_length=1,
    pins=[[0, 4], [7, 9]],
    ending="",
    state=bytes(range(256)) * 4,
)

SYSTEM = {"role": "system", "content": "be a cat"}
QUESTION, REPLY = SESSION.messages


def forge(header: object, state: bytes = b"cells") -> bytes:
    """A file with a right checksum around anything."""
    return forge_text(json.dumps(header).encode(), state)


def forge_text(encoded: bytes, state: bytes = b"cells") -> bytes:
    body = MAGIC + struct.pack("<Q", len(encoded)) + encoded + struct.pack("<Q", len(state)) + state
    return body + hashlib.sha256(body).digest()


def header(**changes: object) -> dict[str, object]:
    return {key: value for key, value in vars(SESSION).items() if key != "state"} | changes


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "s"
    size = write_session(path, SESSION)
    assert read_session(path) == SESSION and path.stat().st_size == size
    assert os.listdir(tmp_path) == ["s"]


def test_the_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    write_session(path, SESSION)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RetainError, match="cannot be written: No space left"):
        write_session(path, replace(SESSION, tokens=[9]))
    assert read_session(path) == SESSION and os.listdir(tmp_path) == ["s"]


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="cannot be written: No such file"):
        write_session(tmp_path / "no" / "s", SESSION)
    with pytest.raises(RetainError, match="cannot be read: No such file"):
        read_session(tmp_path / "s")
    with pytest.raises(RetainError, match="cannot be read"):
        read_session(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_session(path, SESSION)
    whole = path.read_bytes()
    for size in [*range(60), *range(60, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(RetainError):
            read_session(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_change_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "s"
    write_session(path, SESSION)
    changed = bytearray(path.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    with pytest.raises(RetainError):
        read_session(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is not a saved session"),
        (b"GGUF" + bytes(100), "is not a saved session"),
        (b"\x80\x04cposix\nsystem\n", "is not a saved session"),
        (MAGIC[:-1] + b"\x03" + bytes(100), "another version"),
        (MAGIC + bytes(100), "truncated or was altered"),
        (forge([]), "damaged"),
        (forge({}), "damaged"),
        (forge(header(extra=1)), "damaged"),
        (forge(header(tokens=[1.5])), "damaged"),
        (forge(header(tokens=[-1])), "damaged"),
        (forge(header(tokens=[True])), "damaged"),
        (forge(header(tokens="abc")), "damaged"),
        (forge(header(reply_length=4)), "damaged"),
        (forge(header(pins=[[4, 4]])), "damaged"),
        (forge(header(pins=[[1, 2, 3]])), "damaged"),
        (forge(header(pins=[5])), "damaged"),
        (forge(header(reply_length=-1)), "damaged"),
        (forge(header(messages=[{"role": "root", "content": "x"}])), "damaged"),
        (forge(header(messages=[{"role": "user", "content": 1}])), "damaged"),
        (forge(header(messages=[["user"]])), "damaged"),
        (forge(header(cache={"K type": 1})), "damaged"),
        (forge(header(model=None)), "damaged"),
        (forge_text(b'{"tokens": ' + b"[" * 10**6 + b"]" * 10**6 + b"}"), "damaged"),
        (forge_text(b"[" * 10**6), "damaged"),
        (forge_text(b"\xff" * 100), "damaged"),
        (forge_text(b'{"reply_length": 1' + b"0" * 10**6 + b"}"), "damaged"),
        (forge(header(tokens=[], reply_length=0)), "damaged"),
        (forge(header(reply_length=3)), "damaged"),  # nothing would be left to reply to
        (forge(header(pins=[[0, 1]] * 10_001)), "damaged"),
        (forge(header(messages=[])), "damaged"),
        (forge(header(messages=[SYSTEM])), "damaged"),
        (forge(header(messages=[QUESTION])), "damaged"),
        (forge(header(messages=[REPLY])), "damaged"),
        (forge(header(messages=[REPLY, QUESTION])), "damaged"),
        (forge(header(messages=[QUESTION, REPLY, QUESTION])), "damaged"),
        (forge(header(messages=[QUESTION, SYSTEM, QUESTION, REPLY])), "damaged"),
        (forge(header(messages=[QUESTION, REPLY, REPLY, QUESTION])), "damaged"),
        (forge(header(messages=[QUESTION, REPLY | {"content": "\ud800"}])), "damaged"),
    ],
)
def test_what_is_no_session(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "s"
    path.write_bytes(content)
    with pytest.raises(RetainError, match=message) as caught:
        read_session(path)
    assert "\n" not in str(caught.value)


def test_lengths_that_lie(tmp_path: Path) -> None:
    for lengths in (
        b"\xff" * 8,
        struct.pack("<Q", 2) + b"{}" + b"\xff" * 8,
        struct.pack("<Q", 2) + b"{}" + bytes(8) + b"more",
    ):
        body = MAGIC + lengths
        path = tmp_path / "s"
        path.write_bytes(body + hashlib.sha256(body).digest())
        with pytest.raises(RetainError, match="truncated or was altered"):
            read_session(path)


def test_a_session_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_session(path, SESSION)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "fifo"])
def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "fifo":
        os.mkfifo(path)
    with pytest.raises(RetainError, match="no ordinary file"):
        read_session(path)
    with pytest.raises(RetainError, match="no ordinary file"):
        write_session(path, SESSION)
    assert not path.is_file() and path.exists()


def test_a_large_file_that_is_no_session_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(RetainError, match="not a saved session"):
        read_session(path)
    with open(path, "r+b") as file:
        file.write(MAGIC + struct.pack("<Q", 1 << 43))
    with pytest.raises(RetainError, match="truncated or was altered"):
        read_session(path)


def test_nobody_is_asked_to_drop_a_conversation_for_what_is_no_session(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("dear diary")
    for name, message in (("notes.txt", "is not a saved session"), ("absent", "No such file")):
        with pytest.raises(RetainError, match=message):
            run_command(SimpleNamespace(), f"/load {tmp_path / name}")  # type: ignore[arg-type]
