"""Lossless WebP textures: size from the header alone, then the pixels. Pillow would allocate the canvas at once."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from numpy.typing import NDArray


class WebpError(ValueError):
    """Bytes that are no lossless WebP."""


def size_px(start: bytes) -> tuple[int, int]:
    """(width, height) out of the first 30 bytes (RIFF container, chunk VP8L or VP8X); raises WebpError."""
    if len(start) < 30 or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        raise WebpError("not a WebP file")
    match start[12:16]:
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", start, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            width = int.from_bytes(start[24:27], "little") + 1
            return width, int.from_bytes(start[27:30], "little") + 1
    raise WebpError("a lossy WebP, which cannot carry data")


def decode(data: bytes) -> NDArray[np.uint8]:
    """RGBA [h, w, 4]; raises WebpError."""
    from PIL import Image

    try:
        # The caller knows the size already; Pillow's limit would only write a line to stderr.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(data), formats=["WEBP"]) as image,
        ):
            if getattr(image, "n_frames", 1) != 1:
                raise WebpError("an animation")
            return np.asarray(image if image.mode == "RGBA" else image.convert("RGBA"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise WebpError(str(error)) from error
