"""Pickles that come from anywhere: nothing in one is run, and none takes the memory or the time of the machine."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retain_local.gates.checkpoint.layout import CheckpointError
from retain_local.gates.checkpoint.torch_file import read_torch

MEMORY = 400_000_000  # bytes that no file may take more of


def archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None, compressed: bool = False) -> Path:
    """A file such as torch's with a pickle of one's own."""
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("a/data.pkl", data)
        for name, content in ({"0": bytes(64)} if storages is None else storages).items():
            file.writestr(f"a/data/{name}", content)
    return path


def refusal(path: Path) -> str:
    """Why a file is refused: one line, without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read_torch(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message and str(path) in message and len(message) < len(str(path)) + 300
    return message


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Restored(Calls):
    """Pickles as a call, and a state to restore."""

    def __reduce__(self) -> Any:
        return (*self.call, {"__class__": str})


def _touch(name: str = "pwned") -> str:
    return f"open({name!r}, 'w').close()"


def hostile() -> dict[str, bytes]:
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n"
    calls = {
        "os.system": Calls(os.system, "touch pwned"),
        "eval": Calls(eval, _touch()),
        "exec": Calls(exec, _touch()),
        "subprocess": Calls(subprocess.call, ["touch", "pwned"]),
        "open": Calls(open, "pwned", "w"),
        "getattr": Calls(getattr, "x", "upper"),
        "import": Calls(__import__, "antigravity"),
        "torch.load": Calls(torch.load, "pwned"),
        "torch.hub": Calls(torch.hub.load, "a/b", "c"),
        "state": Restored(OrderedDict),
    }
    pickles = {name: pickle.dumps({"a": call}, 2) for name, call in calls.items()}
    pickles["eval, protocol 4"] = pickle.dumps({"a": calls["eval"]}, 4)
    pickles["eval, protocol 0"] = pickle.dumps({"a": calls["eval"]}, 0)
    return pickles | {
        "inst": b"\x80\x02(S'touch pwned'\nios\nsystem\n.",
        "obj": b"\x80\x02(cos\nsystem\nS'touch pwned'\no.",
        "newobj": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        "newobj_ex": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
        "extension": b"\x80\x02\x82\x01.",
        "nested global": b"\x80\x04\x8c\x0ctorch._utils\x8c\x10_rebuild_tensor_v2.__globals__\x93.",
        "global that is no text": b"\x80\x04K\x01K\x02\x93.",
        "similar global": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        "dotted module": b"\x80\x02ctorch\n_utils._rebuild_tensor_v2x\n.",
        "storage type called": b"\x80\x02ctorch\nFloatStorage\nK\x08\x85R.",
        "string called": b"\x80\x02X\x01\x00\x00\x00a)R.",
        "call without tuple": b"\x80\x02" + tensor + b"K\x01R.",
        "state of a global": b"\x80\x02" + tensor + b"}X\x01\x00\x00\x00ab.",
        "state of a text": b"\x80\x02X\x01\x00\x00\x00a}b.",
        "two results": b"\x80\x02}}.",
        "no result": b"\x80\x02.",
        "only a mark": b"\x80\x02(.",
        "empty": b"",
        "no end": b"\x80\x02}",
        "unknown opcode": b"\x80\x02\xff.",
        "tuple from nothing": b"\x80\x02\x87.",
        "append to a number": b"\x80\x02K\x01K\x02a.",
        "item of a list": b"\x80\x02]K\x01K\x02s.",
        "dict with number keys": b"\x80\x02}K\x01K\x02s.",
        "odd items": b"\x80\x02}(X\x01\x00\x00\x00au.",
        "memo that is not there": b"\x80\x02h\x07.",
        "no dict": b"\x80\x02].",
        "long text": b"\x80\x02X\x00\x00\x00\x7fa.",
        "very long text": b"\x80\x04\x8d\x00\x00\x00\x00\x00\x00\x00\x7fa.",
        "long number": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
        "number of 70 bits": b"\x80\x02\x8a\x0a" + b"\x01" * 10 + b".",
        "bytearray": b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x7fa.",
        "text of a million": b"\x80\x02X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b".",
        "many lists": b"\x80\x02" + b"]" * 15_000_000 + b".",
        "many marks": b"\x80\x02" + b"(" * 15_000_000 + b".",
        "large pickle": b"\x80\x02" + b"}0" * 10_000_000 + b"}.",
        "deep lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "deep tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
        # each tuple holds the one before it twice: to hash the last one would take for ever
        "tuples as a key": b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"K\x01s.",
        # a name that is such a list: to write it out would take for ever
        "lists that double as a global": b"\x80\x04]q\x00" + b"0](h\x00h\x00eq\x00" * 1000 + b"h\x00h\x00\x93.",
        "lists that double": b"\x80\x02]q\x00" + b"0](h\x00h\x00eq\x00" * 1000 + b".",
    }


HOSTILE = hostile()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    refusal(archive(tmp_path / "a.pth", HOSTILE[name]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_the_message_names_what_was_asked_for(tmp_path: Path) -> None:
    message = refusal(archive(tmp_path / "a.pth", HOSTILE["eval"]))
    assert "'builtins.eval'" in message or "'__builtin__.eval'" in message
    assert "nothing of it was run" in message


def described(
    key: Any = "0",
    n: Any = 16,
    offset: Any = 0,
    shape: Any = (4,),
    strides: Any = (1,),
    kind: str = "FloatStorage",
    pid: tuple[Any, ...] | None = None,
) -> bytes:
    """The pickle of a state dict with one tensor, described by the arguments."""

    class Storage:
        pass

    class Pickler(pickle._Pickler):  # the one in Python can be taught to write any global
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, Storage):
                return None
            return ("storage", getattr(torch, kind), key, "cpu", n) if pid is None else pid

    out = io.BytesIO()
    tensor = Calls(torch._utils._rebuild_tensor_v2, Storage(), offset, shape, strides, False, OrderedDict())
    Pickler(out, 2).dump({"a": tensor})
    return out.getvalue()


def test_the_description_is_right(tmp_path: Path) -> None:
    """What the next tests spoil is read when it is not spoilt."""
    values = np.arange(16, dtype="<f4")
    path = archive(tmp_path / "a.pth", described(offset=1, shape=(2, 3), strides=(3, 1)), {"0": values.tobytes()})
    np.testing.assert_array_equal(read_torch(path)["a"].read(), values[1:7].reshape(2, 3))


@pytest.mark.parametrize(
    "spoilt, message",
    [
        ({"offset": 13}, "beyond its stored numbers"),
        ({"offset": -1}, "not described as torch does"),
        ({"offset": 2**62}, "beyond its stored numbers"),
        ({"offset": True}, "not described as torch does"),
        ({"offset": 0.0}, "not described as torch does"),
        ({"shape": (17,)}, "beyond its stored numbers"),
        ({"shape": (4, 4), "strides": (4, 2)}, "beyond its stored numbers"),
        ({"shape": (2**31, 2**31), "strides": (0, 0)}, "beyond its stored numbers"),
        ({"shape": (5, 4), "strides": (0, 1)}, "beyond its stored numbers"),  # more numbers than are stored
        ({"shape": (4,), "strides": (-1,)}, "not described as torch does"),
        ({"shape": (-4,)}, "not described as torch does"),
        ({"shape": (4,), "strides": (2**60,)}, "beyond its stored numbers"),
        ({"shape": (4,), "strides": (1, 1)}, "shape [4]"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "shape [1, 1, 1, 1, 1, 1, 1, 1]"),
        ({"shape": [4]}, "not described as torch does"),
        ({"shape": ("4",)}, "not described as torch does"),
        ({"shape": None}, "not described as torch does"),
        ({"n": 17}, "has 64 bytes for 17 numbers"),
        ({"n": 2**62}, "has 64 bytes"),
        ({"n": -1}, "not described as torch does"),
        ({"n": "16"}, "not described as torch does"),
        ({"kind": "DoubleStorage"}, "has 64 bytes for 16 numbers"),
        ({"key": "1"}, "'data/1' is missing"),
        ({"key": "../data.pkl"}, "'data/../data.pkl' is missing"),
        ({"key": 0}, "not described as torch does"),
        ({"pid": ("storage", torch.float32, "0", "cpu", 16)}, "names 'torch.float32'"),
        ({"pid": ("storage", "FloatStorage", "0", "cpu", 16)}, "not described as torch does"),
        ({"pid": ("module", torch.FloatStorage, "0", "cpu", 16)}, "not described as torch does"),
        ({"pid": ("storage", torch.FloatStorage, "0")}, "not described as torch does"),
        ({"pid": "storage"}, "not described as torch does"),
        ({"kind": "QInt8Storage"}, "names 'torch.QInt8Storage'"),
    ],
)
def test_a_tensor_that_is_not_within_its_storage(tmp_path: Path, spoilt: dict[str, Any], message: str) -> None:
    assert message in refusal(archive(tmp_path / "a.pth", described(**spoilt)))


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    bomb = archive(tmp_path / "a.pth", described(n=2**25, shape=(2**25,)), {"0": bytes(2**27)}, compressed=True)
    assert bomb.stat().st_size < 2_000_000
    assert "compressed" in refusal(bomb)
    assert "compressed" in refusal(archive(tmp_path / "b.pth", b"}" * 2**25, compressed=True))


def test_sizes_that_the_archive_only_claims(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pth", described(n=2**28, shape=(2**28,)))
    data = bytearray(path.read_bytes())
    at = data.rfind(b"a/data/0") - 46  # the entry in the list of members
    assert data[at : at + 4] == b"PK\1\2"
    data[at + 20 : at + 28] = struct.pack("<II", 2**30, 2**30)
    path.write_bytes(data)
    assert "ends beyond it" in refusal(path)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert "from before version 1.6" in refusal(path) and "torch.save(torch.load(" in refusal(path)
    path.write_bytes(b"")
    assert "not a file that torch.save writes" in refusal(path)
    path.write_bytes(b"GGUF" + bytes(1000))
    assert "not a file that torch.save writes" in refusal(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "text")
    assert "not one of torch's" in refusal(path)
    torch.save([torch.ones(2)], path)
    assert "not a state dict" in refusal(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "names '__torch__" in refusal(path)
    assert "No such file" in refusal(tmp_path / "absent.pth")
    assert "Is a directory" in refusal(tmp_path)


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_pickles(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is in the pickle, the reader answers; and what it takes, it can read."""
    source = tmp_path_factory.getbasetemp() / "source.pth"
    torch.save({"layers.0.weight": torch.ones(4, 5), "layers.0.bias": torch.ones(4).bfloat16()}, source)
    with zipfile.ZipFile(source) as file:
        folder = file.namelist()[0].partition("/")[0]
        damaged = bytearray(file.read(f"{folder}/data.pkl"))
        storages = {str(i): file.read(f"{folder}/data/{i}") for i in (0, 1)}
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        for tensor in read_torch(archive(source.with_name("damaged.pth"), bytes(damaged), storages)).values():
            tensor.read()
    except CheckpointError as error:
        assert "\n" not in str(error)
