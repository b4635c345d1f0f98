"""Finding the projector of a model, and telling that a file is one."""

from __future__ import annotations

from pathlib import Path

from ..bindings import llama_cpp
from ..errors import RetainError
from ..models.gguf_header import BOOL, STRING, U32, Header, read_header
from ..models.model_file import ModelFile

PATTERN = "*mmproj*.gguf"
_GEMMA3_MERGE = 4  # patches of a side that become one token
_MROPE = (llama_cpp.LLAMA_ROPE_TYPE_MROPE, llama_cpp.LLAMA_ROPE_TYPE_IMROPE)
_MROPE_PROJECTORS = ("qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger")


def projector_beside(model: ModelFile) -> Path:
    """The projector in the folder of a model, as `mmproj-*.gguf`: the only one, or the one named like the model.

    Raises
    ------
    RetainError : there is none, or several that could be it.
    """
    found = sorted(path for path in model.path.parent.glob(PATTERN) if path != model.path)
    if not found:
        raise RetainError(
            f"pictures need the projector of the model, and there is no mmproj*.gguf beside {model.path};"
            " name it with --mmproj FILE, or mmproj= in Python"
        )
    if len(found) > 1:
        named = [path for path in found if model.stem.lower() in path.stem.lower()]
        if len(named) != 1:
            names = ", ".join(path.name for path in found)
            raise RetainError(f"several projectors are beside {model.path} ({names}); name one with --mmproj FILE")
        found = named
    return found[0]


def check_projector(path: Path, model: int) -> None:
    """Say what a file is that is no projector of pictures for a model.

    Parameters
    ----------
    model : the `llama_model *`.

    Raises
    ------
    RetainError : it is missing, no GGUF, no projector, or one that this model cannot have.
    """
    if not path.exists():
        raise RetainError(f"{path}: no such projector")
    header = read_header(path)
    arch = header.get("general.architecture", STRING)
    if arch != "clip":
        kind = f"a model of the architecture '{arch}'" if arch else "something else"
        raise RetainError(f"{path} is no projector (mmproj) but {kind}")
    if not header.get("clip.has_vision_encoder", BOOL):
        raise RetainError(f"{path} is a projector without a part for pictures")
    kind = projector_type(header)
    if kind in _MROPE_PROJECTORS and llama_cpp.llama_model_rope_type(model) not in _MROPE:
        raise RetainError(f"{path} is the projector of another model: '{kind}' belongs to a model with M-RoPE")


def tokens_at_once(path: Path) -> int:
    """Tokens of a picture that a projector's text model computes at once; 0 where it does not, or where they vary.

    Raises
    ------
    RetainError : the file is missing, or no GGUF.
    """
    header = read_header(path)
    if projector_type(header) != "gemma3":
        return 0
    side, patch = (header.get(f"clip.vision.{key}", U32, 0) for key in ("image_size", "patch_size"))
    merged = patch * header.get("clip.vision.projector.scale_factor", U32, _GEMMA3_MERGE)
    return (side // merged) ** 2 if merged else 0


def projector_type(header: Header) -> str:
    """What kind of projector for pictures a file holds, as llama.cpp names it."""
    return header.get("clip.projector_type", STRING) or header.get("clip.vision.projector_type", STRING, "")
