"""What the builder of the native libraries does before a compiler runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUILDER = Path(__file__).parents[2] / "native" / "builder"

PATCH = """\
diff --git a/one.c b/one.c
--- a/one.c
+++ b/one.c
@@ -1,3 +1,4 @@
 first
+between
 second
 third
@@ -7,2 +8,1 @@ third
 seventh
-eighth
diff --git a/folder/two.c b/folder/two.c
--- a/folder/two.c
+++ b/folder/two.c
@@ -1 +1 @@
-old
+new
"""
ONE = "first\nsecond\nthird\n4\n5\n6\nseventh\neighth\n"


def patched(folder: Path, one: str, two: str = "old\n") -> subprocess.CompletedProcess[str]:
    """Apply the patch in a process of its own, as the builder's modules have names that others have too."""
    (folder / "0001-it.patch").write_text(PATCH)
    script = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import console, tree
files = {"one.c": sys.argv[3].encode(), "folder/two.c": sys.argv[4].encode(), "three.c": b"\\xff"}
try:
    changed = tree.apply_patches(files, [pathlib.Path(sys.argv[2])])
except console.BuildError as error:
    sys.exit(str(error))
print(changed["one.c"].decode(), changed["folder/two.c"].decode(), changed["three.c"] == b"\\xff", sep="|", end="")
"""
    arguments = [str(BUILDER), str(folder / "0001-it.patch"), one, two]
    # without the programs that could patch: a fresh machine has neither
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env={"PATH": "/nonexistent"}
    )


def test_patches_need_no_other_program(tmp_path: Path) -> None:
    done = patched(tmp_path, ONE)
    assert done.stdout == "first\nbetween\nsecond\nthird\n4\n5\n6\nseventh\n|new\n|True", done.stderr


@pytest.mark.parametrize(
    "one, two, message",
    [
        (
            ONE.replace("third", "other"),
            "old\n",
            "to one.c of llama.cpp: line 1 and those after it are not as in @@ -1,3",
        ),
        (
            ONE.replace("eighth\n", ""),
            "old\n",
            "to one.c of llama.cpp: line 8 and those after it are not as in @@ -7,2",
        ),
        (ONE, "older\n", "to folder/two.c of llama.cpp: line 1"),
    ],
)
def test_a_patch_that_does_not_fit(tmp_path: Path, one: str, two: str, message: str) -> None:
    done = patched(tmp_path, one, two)
    assert done.returncode == 1 and done.stderr.startswith("0001-it.patch does not apply " + message), done.stderr


@pytest.mark.parametrize(
    "arguments, cmake_args", [(["-D", "RETAIN_CUDA=ON"], ""), ([], "-DLLAMA_BUILD=OFF -DRETAIN_CUDA=ON")]
)
def test_options_come_from_the_command_line_and_from_where_pip_has_them(
    tmp_path: Path, arguments: list[str], cmake_args: str
) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    (tmp_path / "cmake").symlink_to(shutil.which("cmake", path=path))
    # no CUDA toolkit on this path, which is what the option asks for first
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "CMAKE_ARGS": cmake_args}
    done = subprocess.run(
        [sys.executable, str(BUILDER), "libs", *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1 and "RETAIN_CUDA is on but nvcc is not on the PATH" in done.stderr


MAKE_CACHE = "import pathlib, sys; from build import make_cache; make_cache(pathlib.Path(sys.argv[1]))"


def made_cache(path: Path) -> str:
    """Make the cache in a process of its own; what it said."""
    done = subprocess.run(
        [sys.executable, "-c", MAKE_CACHE, str(path)],
        env={**os.environ, "PYTHONPATH": str(BUILDER)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_cache_is_its_owners_alone(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache"
    assert made_cache(cache) == ""
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o775)
    assert f"warning: others may write to {cache}" in made_cache(cache)


def test_an_unpacked_source_distribution_gives_what_its_archive_gives(tmp_path: Path) -> None:
    script = """
import pathlib, sys, tarfile
sys.path.insert(0, sys.argv[1])
import upstream
folder = pathlib.Path(sys.argv[2], f"llama_cpp_python-{upstream.VERSION}")
names = ["CMakeLists.txt", "ggml/src/ggml.c", "tests/test-mtmd-c-api.c", "tests/test-opt.cpp", "models/vocab.gguf"]
for name in names:
    path = folder / upstream.VENDORED / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
(folder / "PKG-INFO").write_text(f"Name: it\\nVersion: {upstream.VERSION}\\n")
with tarfile.open(folder.with_suffix(".tar.gz"), "w:gz") as archive:
    archive.add(folder, folder.name)
files = upstream.read_directory(folder)
print(*sorted(files), files == upstream.read_sdist(folder.with_suffix(".tar.gz")))
"""
    command = [sys.executable, "-c", script, str(BUILDER), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "CMakeLists.txt ggml/src/ggml.c tests/test-mtmd-c-api.c True\n", done.stderr
