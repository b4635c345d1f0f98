"""The source tree that is compiled: upstream with the patches, and a copy of our sources.

The tree lives in the cache, at the same path whichever clone asks for it. Files whose content did not change keep
their timestamps, so another clone, or an edit of one patch, recompiles only what differs.
"""

import re

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


HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")


def apply_patches(files, patches):
    """Return the files with all patches applied, in the order given.

    The patches are unified diffs of this one upstream, so every line that they name must be there, at its place. That
    needs no program that a fresh machine may lack.
    """
    files = dict(files)
    for patch in patches:
        for section in re.split(r"^diff .*\n", patch.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            header, *lines = section.split("\n@@ ")
            name = re.search(r"^\+\+\+ b/(\S+)", header, re.MULTILINE).group(1)
            try:
                files[name] = apply_hunks(files[name], [f"@@ {hunk}" for hunk in lines])
            except (KeyError, ValueError) as error:
                raise BuildError(f"{patch.name} does not apply to {name} of llama.cpp: {error}") from None
    return files


def apply_hunks(content, hunks):
    """Return the content of a file with the hunks of its patch applied; ValueError where it is not what they expect."""
    lines = content.decode().split("\n")
    shift = 0
    for hunk in hunks:
        head, *body = hunk.rstrip("\n").split("\n")
        at = int(HUNK.match(head).group(1)) - 1 + shift
        old = [line[1:] for line in body if line[:1] != "+"]
        new = [line[1:] for line in body if line[:1] != "-"]
        if lines[at : at + len(old)] != old:
            raise ValueError(f"line {at + 1} and those after it are not as in {head}")
        lines[at : at + len(old)] = new
        shift += len(new) - len(old)
    return "\n".join(lines).encode()
