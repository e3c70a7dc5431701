"""The GPU rasterizer: gsplat behind the same call. Importing this module needs torch and gsplat."""

from __future__ import annotations

import threading
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

import gsplat
import numpy as np
import torch
from gsplat.rendering import rasterization

from renderer.camera import Camera, look_at
from renderer.constants import CONSTANTS, Constants
from renderer.gpu_picture import device_jpeg, to_device_pixels
from renderer.rasterizer import Frame, RasterizerUnavailable
from renderer.sample import is_drawn, sample_of
from renderer.splats import Float32, Splats, make_splats

_PACKED_FROM = 500_000  # Gaussians from which gsplat's packed tensors save more memory traffic than they cost


@dataclass(frozen=True, slots=True)
class _Tensors:
    """One scene in device memory."""

    means: Any
    quaternions: Any
    scales: Any
    opacities: Any
    sh: Any


class GpuRasterizer:
    """Rasterizer on one CUDA device.

    A scene's tensors live in device memory as long as its array of means lives: evicting the scene frees them.
    Raises RasterizerUnavailable at once, not at the first frame, where CUDA or gsplat's kernels are missing.
    """

    def __init__(self, device: str = "cuda") -> None:
        if not torch.cuda.is_available():
            raise RasterizerUnavailable("rasterizer gpu needs a CUDA device; torch sees none")
        self._device = torch.device(device)
        self._resident: dict[int, _Tensors] = {}  # by the identity of the array of means
        self._lock = threading.Lock()
        self.constants = CONSTANTS["gsplat-1.5.3" if _version() < (1, 6) else "main"]
        self._try_kernels()
        self.jpeg = device_jpeg(self._device)

    def __call__(
        self,
        splats: Splats,
        camera: Camera,
        background: tuple[float, float, float],
        sh_degree: int | None,
        layers: frozenset[str],
        constants: Constants,
    ) -> Frame:
        """Render one frame. Raises ValueError for constants that the installed gsplat was not compiled with."""
        if constants.name != self.constants.name:
            raise ValueError(
                f"constants {constants.name!r}: the installed gsplat {gsplat.__version__} draws with "
                f"{self.constants.name!r}; ask for those or install the other gsplat"
            )
        with torch.inference_mode():
            colours, alphas = self._rasterize(splats, camera, sh_degree, "depth" in layers)
            rgb = self._over(background, colours, alphas)
            depth = _host(torch.where(alphas > 0, colours[..., 3:4], 0.0)[..., 0]) if "depth" in layers else None
            return Frame(_host(rgb), _host(alphas[..., 0]), depth)

    def picture(
        self, splats: Splats, camera: Camera, background: tuple[float, float, float], sh_degree: int | None
    ) -> Any:
        """The colours of one frame as a tensor of uint8 [h, w, 3] in device memory, drawn when this returns."""
        with torch.inference_mode():
            pixels = to_device_pixels(self._over(background, *self._rasterize(splats, camera, sh_degree, False)))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return pixels

    def _over(self, background: tuple[float, float, float], colours: Any, alphas: Any) -> Any:
        back = torch.tensor(background, dtype=torch.float32, device=self._device)
        return colours[..., :3] + (1.0 - alphas) * back

    def upload(self, splats: Splats) -> None:
        """Bring a scene into device memory ahead of its first frame."""
        self._tensors(splats)

    def _rasterize(self, splats: Splats, camera: Camera, sh_degree: int | None, depth: bool) -> tuple[Any, Any]:
        """(colours [h, w, 3 or 4], alphas [h, w, 1]), no background."""
        scene = self._drawn(splats)
        degree = splats.sh_degree if sh_degree is None else min(sh_degree, splats.sh_degree)
        intrinsics = [[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]]
        # The third value holds every intermediate of the frame alive: it must not outlive this call.
        colours, alphas = rasterization(
            means=scene.means,
            quats=scene.quaternions,
            scales=scene.scales,
            opacities=scene.opacities,
            colors=scene.sh,
            viewmats=torch.tensor(camera.view[None], dtype=torch.float32, device=self._device),
            Ks=torch.tensor([intrinsics], dtype=torch.float32, device=self._device),
            width=camera.width,
            height=camera.height,
            near_plane=camera.near,
            far_plane=camera.far,
            eps2d=self.constants.blur_px2,
            sh_degree=degree,
            packed=splats.count >= _PACKED_FROM,
            render_mode="RGB+ED" if depth else "RGB",
            rasterize_mode="antialiased" if splats.antialiased else "classic",
        )[:2]
        return colours[0], alphas[0]

    def _drawn(self, splats: Splats) -> _Tensors:
        """The scene's tensors, or a sample of them where it has a budget."""
        scene = self._tensors(splats)
        sample = sample_of(splats.count, splats.budget)
        if sample.growth == 1.0:
            return scene
        places = torch.arange(splats.count, device=self._device)
        keep = torch.nonzero(is_drawn(places, sample.limit))[:, 0]
        parts = (scene.means, scene.quaternions, scene.scales * sample.growth**0.5, scene.opacities, scene.sh)
        return _Tensors(*(part[keep] for part in parts))

    def _tensors(self, splats: Splats) -> _Tensors:
        with self._lock:
            key = id(splats.means)
            scene = self._resident.get(key)
            if scene is None:
                parts = (splats.means, splats.quaternions, splats.scales, splats.opacities, splats.sh)
                scene = _Tensors(*(_device_copy(part, self._device) for part in parts))
                self._resident[key] = scene
                weakref.finalize(splats.means, self._resident.pop, key, None)
            return scene

    def _try_kernels(self) -> None:
        """Draw one tiny frame: gsplat's wheel holds no kernels and would compile them at the first real one."""
        one = np.ones((1, 3), np.float32)
        splats = make_splats(one * 0, np.ones((1, 4), np.float32), one * 0.1, np.ones(1, np.float32), one[:, None])
        camera = look_at((0, 0, -2), (0, 0, 0), (0, -1, 0), 50, 16, 16)
        try:
            self(splats, camera, (0.0, 0.0, 0.0), None, frozenset({"depth"}), self.constants)
        except Exception as error:
            raise RasterizerUnavailable(
                f"rasterizer gpu: gsplat {gsplat.__version__} cannot draw here ({type(error).__name__}: {error}); "
                "its kernels need nvcc once, or an image that has them compiled"
            ) from error


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in gsplat.__version__.split("+")[0].split(".")[:2])


def _device_copy(array: Float32, device: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array is read-only; the copy on the device is what is used
        return torch.from_numpy(array).to(device)


def _host(tensor: Any) -> Float32:
    array: Float32 = np.ascontiguousarray(tensor.cpu().numpy(), np.float32)
    return array
