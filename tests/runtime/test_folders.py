"""Whether a file can be written, and folders of this user alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retain_local import paths
from retain_local.errors import RetainError, UsageError
from retain_local.files import check_writable, private_folder


def test_check_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "new")
    with pytest.raises(UsageError, match="its folder is missing"):
        check_writable(tmp_path / "nothing" / "new")
    with pytest.raises(UsageError, match="it is a folder"):
        check_writable(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UsageError, match="no ordinary file"):
            check_writable(path)


def test_a_private_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(RetainError, match=f"others may write to the folder {folder}: .* `chmod 700 {folder}`"):
        private_folder(folder)
    folder.chmod(0o755)
    assert private_folder(folder) == folder


def test_a_folder_of_another_user(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(RetainError, match="belongs to another user"):
        private_folder(tmp_path / "theirs")


def test_where_data_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # which the standard says to ignore
    monkeypatch.chdir(tmp_path)
    assert paths.data_dir().is_relative_to(tmp_path)
    assert not (tmp_path / "relative").exists()
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(RetainError, match="no absolute path"):
        paths.data_dir()


NO_HOME = "import os; os.setuid(54321); del os.environ['HOME']; from retain_local.paths import data_dir; data_dir()"


def test_no_home_at_all() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become a user that the system does not know")
    env = {key: value for key, value in os.environ.items() if key != "XDG_DATA_HOME"}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    code = "import retain_local.paths; " + NO_HOME
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1].endswith(
        "there is no home folder; name one with HOME, or a folder for data with XDG_DATA_HOME"
    )
