"""Getting at a picture's file: by its path or from a data URL, and not from the network."""

from __future__ import annotations

import base64
import binascii
import re
import struct
import urllib.parse
from pathlib import Path

from ..errors import RetainError
from ..files import opened

MOST_BYTES = 256 << 20  # of a file
MOST_PIXELS = 100_000_000  # it is unpacked to 3 bytes each
_SHOWN = 60  # characters of an address in a message
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers that say how large the picture is
_OTHERS = {b"RIFF": "a WebP picture or a sound", b"%PDF": "a PDF", b"<svg": "an SVG drawing", b"<?xm": "an SVG drawing"}


def read_image(address: str) -> bytes:
    """The bytes of a picture's file.

    Parameters
    ----------
    address : a path, with ~ for the home folder, a file:// URL, or a data: URL in Base64.

    Raises
    ------
    RetainError : it is none of these, cannot be read, is no picture that can be read here, or too large.
    """
    scheme = address.partition(":")[0].lower()
    if scheme == "data":
        return _checked(_data(address), "the data URL")
    if scheme in ("http", "https", "ftp"):
        raise RetainError(f"{_short(address)}: pictures are not fetched from the network; save it and name the file")
    path = Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path) if scheme == "file" else address)
    try:
        path = path.expanduser()
    except RuntimeError:
        raise RetainError(f"{path} names the home folder of a user that is not known here") from None
    return read_image_file(path)


def read_image_file(path: Path) -> bytes:
    """The bytes of a picture's file; raises RetainError as `read_image` does."""
    with opened(path) as file:
        content = file.read(MOST_BYTES + 1)
    return _checked(content, str(path))


def _data(address: str) -> bytes:
    head, comma, body = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise RetainError(f"{_short(address)} is no data URL of a picture: write data:image/png;base64, and the file")
    try:
        return base64.b64decode(urllib.parse.unquote(re.sub(r"\s", "", body)), validate=True)
    except (binascii.Error, ValueError):
        raise RetainError(f"{_short(address)}: what follows the comma is not Base64") from None


def _checked(content: bytes, name: str) -> bytes:
    if not content:
        raise RetainError(f"{name} is empty, so it is no picture")
    if len(content) > MOST_BYTES:
        raise RetainError(f"{name} is larger than {MOST_BYTES >> 20} MiB, the most that a picture may have")
    size = image_size(content)
    if size is None:
        kind = _OTHERS.get(content[:4].lower() if content[:1] == b"<" else content[:4])
        raise RetainError(
            f"{name} is {f'{kind}, and' if kind else 'no picture:'} pictures are read as PNG, JPEG, GIF or BMP"
        )
    width, height = size
    if content.startswith(_JPEG) and content.find(_JPEG_END, content.rfind(_JPEG_SCAN)) < 0:
        raise RetainError(f"{name} is damaged: the file ends before the picture does")
    if not width or not height:
        raise RetainError(f"{name} is damaged: it says that the picture is {width} by {height} pixels")
    if width * height > MOST_PIXELS:
        raise RetainError(
            f"{name} is {width:,} by {height:,} pixels, and a picture may have {MOST_PIXELS:,}; make it smaller"
        )
    return content


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height in pixels as the file's header has them; None for what is no PNG, JPEG, GIF or BMP."""
    try:
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", content, 16)
        elif content.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", content, 6)
        elif content.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", content, 18)
        elif content.startswith(_JPEG):
            return _jpeg_size(content)
        else:
            return None
    except struct.error:  # cut off within the header
        return 0, 0
    return width, abs(height)


def _jpeg_size(content: bytes) -> tuple[int, int]:
    at = 2
    while content[at] == 0xFF if at < len(content) else False:
        while at + 1 < len(content) and content[at + 1] == 0xFF:  # fill bytes
            at += 1
        _, marker, length = struct.unpack_from(">BBH", content, at)
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        at += 2 + length
    return 0, 0


def _short(address: str) -> str:
    return address if len(address) <= _SHOWN else f"{address[:_SHOWN]}…"
