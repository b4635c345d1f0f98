"""Every kind of checkpoint that `gates export` reads: a module each, which has what `kind.Kind` names."""

from __future__ import annotations

from . import fast_kvzip, kvzap, locret, trimkv
from .files import CheckpointFiles
from .kind import Kind
from .layout import CheckpointError

KINDS: tuple[Kind, ...] = (trimkv, kvzap, locret, fast_kvzip)


def find_kind(files: CheckpointFiles) -> Kind:
    """The kind that the files are of; CheckpointError when it is none that is known."""
    for kind in KINDS:
        if kind.fits(files):
            return kind
    names = ", ".join(sorted(files.tensors)[:3]) or "none"
    raise CheckpointError(
        f"{files.path}: no gates of a kind that is known ({', '.join(kind.name for kind in KINDS)});"
        f" its tensors: {names[:150]}{', ...' if len(files.tensors) > 3 else ''}"
    )
