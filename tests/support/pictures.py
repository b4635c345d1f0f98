"""Pictures for tests: made-up PNG files, and real ones."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np

IMAGES_VARIABLE = "RETAIN_IMAGES_DIR"  # a folder of pictures to try besides those that come with matplotlib


def write_png(path: Path, width: int, height: int, seed: int = 0, pixels: bytes | None = None) -> Path:
    """Write a PNG of random colours.

    Parameters
    ----------
    pixels : what its pixel data unpack to, in place of the right number of bytes.
    """
    if pixels is None:
        colours = np.random.default_rng(seed).integers(0, 256, (height, 1 + 3 * width), np.uint8)
        colours[:, 0] = 0  # no filter
        pixels = colours.tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    return path


def real_pictures() -> list[Path]:
    """The photographs that come with matplotlib, and what a folder named by `RETAIN_IMAGES_DIR` holds."""
    try:
        from matplotlib import get_data_path
    except ImportError:
        found = []
    else:
        samples = Path(get_data_path()) / "sample_data"
        found = [path for path in samples.glob("*") if path.suffix in (".jpg", ".png")]
    folder = os.environ.get(IMAGES_VARIABLE)
    return sorted(found) + sorted(Path(folder).iterdir() if folder else [])
