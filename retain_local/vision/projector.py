"""A projector (mmproj): what turns pictures into embeddings that a text model reads."""

from __future__ import annotations

import ctypes
import hashlib
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..bindings import llama_cpp, log, mtmd
from ..bindings.context import aborts_as_errors
from ..errors import RetainError
from ..models.model_file import file_fingerprint
from .find import check_projector
from .picture import Picture
from .source import image_size

if TYPE_CHECKING:
    from ..llama import Llama

_AXES = ("t", "y", "x", "z")  # in the order of M-RoPE's sections, as llama.cpp fills them
_CLOSED = "the model is closed"


@dataclass(frozen=True)
class ReadImage:
    """What a text model reads of a picture's file.

    tokens : those of its pictures, and of the text that the model was trained to have around them.
    pictures : the picture, or the tiles that it was cut into.
    """

    tokens: tuple[int, ...]
    pictures: tuple[Picture, ...]


class Projector:
    """The projector of one model.

    Parameters
    ----------
    llm : Llama
        The text model.
    path : the projector's file.
    context : gives the `mtmd_context *` while it is open.
    """

    def __init__(self, llm: Llama, path: str | os.PathLike[str], context: Callable[[], int | None]) -> None:
        self.path = Path(path)
        self._mtmd = mtmd.load()
        self._llm: Callable[[], Llama | None] = weakref.ref(llm)
        self._book = llm.pictures
        self._fingerprint = file_fingerprint(path).encode()
        self._open_context = context
        self._n_axes = 4 if self._mtmd.mtmd_decode_use_mrope(self._context) else 1
        self._n_embd = llama_cpp.llama_model_n_embd_inp(llm._model.model)

    @classmethod
    def open(cls, llm: Llama, path: str | os.PathLike[str]) -> Projector:
        """Load a projector for a model, which closes it with itself.

        Raises
        ------
        RetainError : it is missing, no projector, one for sound alone, or that of another model.
        """
        check_projector(Path(path), llm._model.model)
        library = mtmd.load()
        params = library.mtmd_context_params_default()
        params.use_gpu = llm.model_params.n_gpu_layers != 0
        params.print_timings = False
        params.n_threads = llm.n_threads
        # as the bindings' handlers: with flash attention where the text model has it
        wanted = llm.context_params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if wanted else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        log.forget_errors()
        with aborts_as_errors():
            context = library.mtmd_init_from_file(os.fsencode(path), llm._model.model, params)
        if not context:
            raise RetainError(unusable(path))
        opened = [context]
        llm._stack.callback(lambda: library.mtmd_free(opened.pop()))
        return cls(llm, path, lambda: opened[0] if opened else None)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Nobody else uses the model meanwhile, or closes it; and what libmtmd would end the process for is an error."""
        llm = self._llm()
        if llm is None:
            raise RetainError(_CLOSED)
        with llm._usage.step(), aborts_as_errors():
            yield

    @property
    def _context(self) -> int:
        context = self._open_context()
        if not context:
            raise RetainError(_CLOSED)
        return context

    def read(self, content: bytes, name: str) -> ReadImage:
        """What the model reads of a picture's file; the embeddings are made when they are needed.

        Parameters
        ----------
        content : the bytes of a PNG, JPEG, GIF or BMP file; see `source.read_image`.
        name : of the file, for messages.

        Raises
        ------
        RetainError : the file is damaged, or the projector cannot take such a picture.
        """
        library = self._mtmd
        with self._in_use(), _reported(f"{name} cannot be read as a picture"):
            buffer = (ctypes.c_uint8 * len(content)).from_buffer_copy(content)
            bitmap = library.mtmd_helper_bitmap_init_from_buf(self._context, buffer, len(content), False)
            if not bitmap:
                width, height = image_size(content) or (0, 0)
                raise RetainError(f"it is damaged; its header says {width} by {height} pixels")
            chunks = library.mtmd_input_chunks_init()
            try:
                self._tokenize(bitmap, chunks)
                return self._collect(chunks)
            finally:
                library.mtmd_input_chunks_free(chunks)
                library.mtmd_bitmap_free(bitmap)

    def _tokenize(self, bitmap: int, chunks: int) -> None:
        library, marker = self._mtmd, self._mtmd.mtmd_default_marker()
        text = library.mtmd_input_text(marker, len(marker), False, True)
        bitmaps = (library.mtmd_bitmap_p_ctypes * 1)(bitmap)
        if library.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1):
            raise RetainError("")

    def _collect(self, chunks: int) -> ReadImage:
        library = self._mtmd
        tokens: list[int] = []
        pictures: list[Picture] = []
        for i in range(library.mtmd_input_chunks_size(chunks)):
            chunk = library.mtmd_input_chunks_get(chunks, i)
            if library.mtmd_input_chunk_get_type(chunk) == library.MTMD_INPUT_CHUNK_TYPE_TEXT:
                n = ctypes.c_size_t()
                found = library.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n))
                tokens += found[: n.value]
            else:
                picture = self.picture(chunk, len(pictures))
                pictures.append(picture)
                tokens += picture.tokens
        return ReadImage(tuple(tokens), tuple(pictures))

    def picture(self, chunk: int, number: int) -> Picture:
        """The picture of an image chunk of libmtmd.

        Parameters
        ----------
        number : how many chunks of the same file come before it.

        Raises
        ------
        RetainError : the chunk is a sound.
        """
        library = self._mtmd
        image = library.mtmd_input_chunk_get_tokens_image(chunk)
        if not image:
            raise RetainError("sounds are not supported, only pictures")
        digest = self._digest(chunk, number)
        known = self._book.find(digest)
        if known is not None:
            return known
        positions, moved = (self._positions(image, start) for start in (0, 1))
        return self._book.add(
            Picture(
                digest,
                positions,
                moved - positions,
                library.mtmd_input_chunk_get_n_pos(chunk),
                not library.mtmd_decode_use_non_causal(self._context, chunk),
                self._encoder(chunk),
            )
        )

    def _digest(self, chunk: int, number: int) -> bytes:
        library = self._mtmd
        name = library.mtmd_input_chunk_get_id(chunk)
        if not name:  # whoever made it did not say what it is: like no other
            return os.urandom(hashlib.sha256().digest_size)
        size = ctypes.c_size_t()
        library.mtmd_input_chunk_save(chunk, None, 0, ctypes.byref(size))
        shape = ctypes.create_string_buffer(size.value)
        library.mtmd_input_chunk_save(chunk, shape, size, None)
        parts = (self._fingerprint, name, str(number).encode(), shape.raw)
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()

    def _positions(self, image: int, start: int) -> npt.NDArray[np.int32]:
        n = self._mtmd.mtmd_image_tokens_get_n_tokens(image)
        if self._n_axes == 1:
            return np.arange(start, start + n, dtype=np.int32)[None]
        found = np.empty((len(_AXES), n), np.int32)
        for i in range(n):
            at = self._mtmd.mtmd_image_tokens_get_decoder_pos(image, start, i)
            found[:, i] = [getattr(at, axis) for axis in _AXES]
        return found

    def _encoder(self, chunk: int) -> Callable[[], npt.NDArray[np.float32]]:
        library = self._mtmd
        owner = _Chunk(library, library.mtmd_input_chunk_copy(chunk))

        def encode() -> npt.NDArray[np.float32]:
            with self._in_use(), _reported("the projector cannot read the picture"):
                if library.mtmd_encode_chunk(self._context, owner.pointer):
                    raise RetainError("")
                n = library.mtmd_input_chunk_get_n_tokens(owner.pointer)
                return np.ctypeslib.as_array(library.mtmd_get_output_embd(self._context), (n, self._n_embd)).copy()

        return encode


def unusable(path: str | os.PathLike[str]) -> str:
    """Says that libmtmd could not load a projector, and why, from what it logged."""
    reason = _logged()
    if reason.startswith("mismatch between text model"):
        return f"{os.fspath(path)} is the projector of another model: {reason}"
    return f"the projector {os.fspath(path)} cannot be used: {reason}"


def _logged() -> str:
    return (log.first_error() or "libmtmd gave no reason").partition("\n")[0].removeprefix("error: ")


class _Chunk:
    """An image chunk that is freed when nobody holds it."""

    def __init__(self, library: Any, pointer: int) -> None:
        self.pointer = pointer
        weakref.finalize(self, library.mtmd_input_chunk_free, pointer).atexit = False


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Say what cannot be done, with the reason that the block gives; where that is "", with what the library logged."""
    log.forget_errors()
    try:
        yield
    except RetainError as error:
        raise RetainError(f"{what}: {str(error) or _logged()}") from None
