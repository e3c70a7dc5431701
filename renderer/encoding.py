"""A frame as the bytes that a client asked for: raw pixels, JPEG, PNG or WebP."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renderer.rasterizer import Frame, to_uint8
from renderer.request import Format, Layer

Pixels = NDArray[np.uint8]


def to_pixels(frame: Frame, layer: Layer) -> tuple[Pixels, dict[str, float]]:
    """One layer as uint8 [h, w, 3] and what is needed to read it back.

    `alpha` is grey, 255 opaque. `depth` is grey from the nearest (255) to the farthest (1) hit, linear in camera z,
    0 where nothing was hit; `depth_near` and `depth_far` (scene units) come along.
    """
    if layer == "rgb":
        return to_uint8(frame.rgb), {}
    if layer == "alpha" or frame.depth is None:
        return _grey(to_uint8(frame.alpha)), {}
    hit = frame.depth > 0
    if not hit.any():
        return _grey(np.zeros(frame.depth.shape, np.uint8)), {}
    near, far = float(frame.depth[hit].min()), float(frame.depth[hit].max())
    nearness = (far - frame.depth) / max(far - near, 1e-12)
    levels = np.where(hit, np.rint(1 + 254 * np.clip(nearness, 0, 1)), 0).astype(np.uint8)
    return _grey(levels), {"depth_near": near, "depth_far": far}


def encode(pixels: Pixels, form: Format, quality: int) -> bytes:
    """The file of a format other than raw; `quality` (1-100) is that of JPEG and of lossy WebP, 100 lossless WebP."""
    from PIL import Image

    options: dict[str, Any] = {
        "jpeg": {"format": "JPEG", "quality": min(quality, 95), "subsampling": 0 if quality > 90 else 2},
        "png": {"format": "PNG", "compress_level": 1},
        "webp": {"format": "WEBP", "quality": quality, "lossless": quality == 100, "method": 1},
    }[form]
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, **options)
    return sink.getvalue()


def to_host(picture: Any) -> Pixels:
    """A DeviceRasterizer's picture in host memory."""
    pixels: Pixels = np.ascontiguousarray(picture.cpu().numpy())
    return pixels


def _grey(levels: Pixels) -> Pixels:
    return np.repeat(levels[..., None], 3, axis=2)
