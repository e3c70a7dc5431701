"""What becomes of a GPU's picture, on torch's CPU device: it needs torch, not a GPU. Skipped where torch is not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from renderer.encoding import encode, to_host
from renderer.rasterizer import to_uint8

torch = pytest.importorskip("torch")


@pytest.fixture
def rgb() -> np.ndarray:
    """A smooth picture that leaves 0..1 on both sides."""
    y, x = np.mgrid[0:48, 0:64].astype(np.float32)
    return np.stack([x / 50 - 0.1, y / 40, (x + y) / 120], axis=-1).astype(np.float32)


def test_device_pixels_are_the_host_pixels(rgb: np.ndarray) -> None:
    from renderer.gpu_picture import to_device_pixels

    pixels = to_device_pixels(torch.from_numpy(rgb))
    np.testing.assert_array_equal(to_host(pixels), to_uint8(rgb))
    assert pixels.is_contiguous()


def test_a_picture_is_handed_on_without_a_copy(rgb: np.ndarray) -> None:
    from renderer.gpu_picture import to_device_pixels

    pixels = to_device_pixels(torch.from_numpy(rgb))
    seen = np.from_dlpack(pixels)
    assert seen.__array_interface__["data"][0] == pixels.data_ptr()
    assert (seen.shape, seen.dtype) == ((48, 64, 3), np.uint8)


def test_jpeg_of_the_device_is_the_same_picture(rgb: np.ndarray) -> None:
    from renderer.gpu_picture import device_jpeg, to_device_pixels

    pytest.importorskip("torchvision")
    jpeg = device_jpeg(torch.device("cpu"))
    assert jpeg is not None
    host = to_uint8(rgb)
    ours = np.asarray(Image.open(io.BytesIO(jpeg(to_device_pixels(torch.from_numpy(rgb)), 90))))
    pillows = np.asarray(Image.open(io.BytesIO(encode(host, "jpeg", 90))))
    assert ours.shape == host.shape
    assert np.abs(ours.astype(int) - host).mean() < 1.5 * np.abs(pillows.astype(int) - host).mean() + 0.5


def test_a_device_that_cannot_encode_is_found_out() -> None:
    from renderer.gpu_picture import device_jpeg

    assert device_jpeg("meta") is None  # shapes without bytes
