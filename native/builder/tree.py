"""The source tree that is compiled: upstream with the patches, and a copy of our sources.

The tree lives in the cache, at the same path whichever clone asks for it. Files whose content did not change keep
their timestamps, so another clone, or an edit of one patch, recompiles only what differs.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile

from console import BuildError


def read_tree(directory, skip=()):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.relative_to(directory).parts[0] not in skip
    }


def sync(directory, files):
    """Make the directory hold exactly these files, touching only those that differ."""
    for path in [p for p in directory.rglob("*") if p.is_file()]:
        if path.relative_to(directory).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def patched_names(patch):
    """Paths that a patch changes, without their a/ and b/."""
    lines = patch.read_text(encoding="utf-8").splitlines()
    return {line[6:].split("\t")[0] for line in lines if line.startswith(("--- a/", "+++ b/"))}


def patch_command(patch):
    if git := shutil.which("git"):
        return [git, "-c", "core.autocrlf=false", "apply", "-p1", str(patch)]
    if program := shutil.which("patch"):
        return [program, "-p1", "--batch", "--forward", "--fuzz=0", "-i", str(patch)]
    raise BuildError(
        "neither git nor patch is installed; one of them is needed to patch llama.cpp "
        "(Debian, Ubuntu: apt install patch; macOS: xcode-select --install)."
    )


def apply_patches(files, patches):
    """Return the files with all patches applied, in the order given."""
    names = set().union(*map(patched_names, patches))
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        sync(directory, {name: content for name, content in files.items() if name in names})
        for patch in patches:
            # git must not take a repository around the directory for the one to patch
            env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.resolve().parent)}
            result = subprocess.run(
                patch_command(patch.resolve()),
                cwd=directory,
                env=env,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            if result.returncode:
                raise BuildError(f"{patch.name} does not apply to llama.cpp:\n{result.stdout.strip()}")
        return {**{name: content for name, content in files.items() if name not in names}, **read_tree(directory)}
