"""A GPU frame as what the client gets, without a detour over host memory. Importing this module needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

DeviceJpeg = Callable[[Any, int], bytes]
"""(uint8 [h, w, 3] on the device, quality 1-100) to a JPEG file."""


def to_device_pixels(rgb: Any) -> Any:
    """rasterizer.to_uint8 on the device: colours in 0..1 to the nearest of 256 steps, uint8 [h, w, 3], contiguous."""
    return (rgb.clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8).contiguous()


def device_jpeg(device: Any) -> DeviceJpeg | None:
    """torchvision's encoder, which is nvJPEG for CUDA tensors; None where a trial on this device fails.

    torchvision before 0.20 has none for CUDA, and a wheel without CUDA never has.
    """
    try:
        from torchvision.io import encode_jpeg
    except (ImportError, RuntimeError):
        return None

    def encode(pixels: Any, quality: int) -> bytes:
        planes = pixels.permute(2, 0, 1).contiguous()
        return bytes(encode_jpeg(planes, quality=quality).cpu().numpy().tobytes())

    try:
        encode(torch.zeros((16, 16, 3), dtype=torch.uint8, device=device), 85)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None
    return encode
