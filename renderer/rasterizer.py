"""The one call that every rasterizer answers, and the choice among them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from renderer.camera import Camera
from renderer.constants import Constants
from renderer.splats import Float32, Splats

Name = Literal["auto", "cpu", "oracle", "gpu"]
LAYERS = frozenset({"rgb", "depth", "alpha"})


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture before quantisation."""

    rgb: Float32  # [h, w, 3], background blended in, not clipped above 1
    alpha: Float32  # [h, w] in 0..1
    depth: Float32 | None = None  # [h, w] expected camera z, 0 where nothing was hit; only with the layer "depth"


class Rasterizer(Protocol):
    """Scene and camera to pixels; safe to call from several threads."""

    def __call__(
        self,
        splats: Splats,
        camera: Camera,
        background: tuple[float, float, float],
        sh_degree: int | None,
        layers: frozenset[str],
        constants: Constants,
    ) -> Frame:
        """Render one frame; `sh_degree` caps the scene's own degree, None leaves it."""
        ...


@runtime_checkable
class DeviceRasterizer(Rasterizer, Protocol):
    """A rasterizer whose frames can stay where they were drawn."""

    constants: Constants
    """The ones that it was compiled with."""
    jpeg: Callable[[Any, int], bytes] | None
    """A picture of its own and a quality (1-100) to a JPEG file, where the device can do that."""

    def upload(self, splats: Splats) -> None:
        """Bring a scene into device memory ahead of its first frame."""
        ...

    def picture(
        self, splats: Splats, camera: Camera, background: tuple[float, float, float], sh_degree: int | None
    ) -> Any:
        """The colours of one frame, uint8 [h, w, 3] in device memory, for DLPack."""
        ...


class RasterizerUnavailable(RuntimeError):
    """The asked-for rasterizer cannot run here; says what is missing."""


def choose(name: Name) -> Rasterizer:
    """The rasterizer of that name, imported now; `auto` is the GPU where torch, CUDA and gsplat are, else the CPU.

    Raises RasterizerUnavailable for `gpu` where it cannot run.
    """
    match name:
        case "oracle":
            from renderer.oracle import rasterize

            return rasterize
        case "gpu":
            return _gpu()
        case "auto" if importlib.util.find_spec("torch") and importlib.util.find_spec("gsplat"):
            try:
                return _gpu()
            except RasterizerUnavailable:
                pass
    from renderer.cpu import CpuRasterizer

    return CpuRasterizer()


def _gpu() -> Rasterizer:
    try:
        from renderer.gpu import GpuRasterizer
    except ImportError as error:
        raise RasterizerUnavailable(f"rasterizer gpu needs the extra 'gpu' (torch, gsplat): {error}") from error
    return GpuRasterizer()


def to_uint8(rgb: Float32) -> NDArray[np.uint8]:
    """Quantise colours in 0..1 to the nearest of 256 steps; what lies outside is clipped."""
    scaled: Float32 = np.clip(rgb, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)
    return scaled.astype(np.uint8)
