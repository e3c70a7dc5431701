"""Everything about the GPU in one run: correctness against the committed vectors, then times.

    python -m benchmarks.gpu_renderer --json out.json        on a machine with CUDA, torch and gsplat
    python -m benchmarks.gpu_renderer --rasterizer cpu       the same checks and times of the CPU rasterizer

Needs no network, no scene files and, for the GPU, neither numba nor Pillow. What cannot run here is listed as not run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import oracle_vectors
from benchmarks.machine import describe
from renderer import made
from renderer.camera import Camera, look_at
from renderer.constants import CONSTANTS, Constants
from renderer.rasterizer import DeviceRasterizer, Rasterizer, RasterizerUnavailable, choose
from renderer.splats import Splats

_BLACK = (0.0, 0.0, 0.0)
_LEAST_DB, _LEAST_WITHIN = 50.0, 0.999
_SIZES = ((512, 512), (1280, 720), (1920, 1080))


def check(rasterize: Rasterizer, constants: str) -> dict[str, Any]:
    """Every committed vector: at least 50 dB, and 99.9 % of the values within 3/255."""
    found = [oracle_vectors.compare(rasterize, vector) for vector in oracle_vectors.load(constants)]
    bad = [row.name for row in found if row.psnr_db < _LEAST_DB or row.within_3_of_255 < _LEAST_WITHIN]
    return {"constants": constants, "cases": [asdict(row) for row in found], "failed": bad}


def time_frames(
    rasterize: Rasterizer, constants: Constants, counts: list[int], frames: int, bare: Callable[..., float] | None
) -> list[dict[str, Any]]:
    """Milliseconds of a frame that ends in host memory, and (GPU) of gsplat's own call with the same copy."""
    rows = []
    for count in counts:
        splats = made.make("planet", count, sh_degree=3)
        for size in _SIZES:
            cameras = [_view(turn / frames, size) for turn in range(frames)]

            def draw(camera: Camera, splats: Splats = splats) -> None:
                rasterize(splats, camera, _BLACK, None, frozenset({"rgb"}), constants)

            row: dict[str, Any] = {
                "gaussians": count,
                "size": f"{size[0]}x{size[1]}",
                "frame_ms_p50": _median_ms(draw, cameras),
            }
            if isinstance(rasterize, DeviceRasterizer):
                row["picture_ms_p50"] = _median_ms(partial(_picture, rasterize, splats), cameras)
            if bare is not None:
                row["bare_ms_p50"] = bare(splats, cameras)
                row["overhead_ratio"] = row["frame_ms_p50"] / row["bare_ms_p50"] - 1
            rows.append(row)
    return rows


def _picture(rasterize: DeviceRasterizer, splats: Splats, camera: Camera) -> None:
    """A frame that stays on the device, quantised."""
    rasterize.picture(splats, camera, _BLACK, None)


def _view(turn: float, size: tuple[int, int]) -> Camera:
    angle = 2 * np.pi * turn
    eye = (2.7 * float(np.cos(angle)), -1.5, 2.7 * float(np.sin(angle)))
    return look_at(eye, made.TARGET, made.UP, 50.0, *size)


def _median_ms(draw: Callable[[Camera], object], cameras: list[Camera]) -> float:
    times_s = []
    for camera in [cameras[0]] * 3 + cameras:
        began_s = time.perf_counter()
        draw(camera)
        times_s.append(time.perf_counter() - began_s)
    return 1e3 * float(np.median(times_s[3:]))


def _bare_gsplat(splats: Splats, cameras: list[Camera]) -> float:
    """gsplat's own call on tensors that lie on the device, its picture copied to the host as ours is."""
    import torch
    from gsplat.rendering import rasterization

    parts = (splats.means, splats.quaternions, splats.scales, splats.opacities, splats.sh)
    means, quats, scales, opacities, sh = (torch.from_numpy(np.array(part)).cuda() for part in parts)
    views = [torch.tensor(camera.view[None], dtype=torch.float32, device="cuda") for camera in cameras]
    lenses = [torch.tensor([[[c.fx, 0.0, c.cx], [0.0, c.fy, c.cy], [0.0, 0.0, 1.0]]], device="cuda") for c in cameras]
    places = {id(camera): number for number, camera in enumerate(cameras)}

    def draw(camera: Camera) -> None:
        number = places[id(camera)]
        with torch.inference_mode():
            colours, alphas = rasterization(
                means,
                quats,
                scales,
                opacities,
                sh,
                views[number],
                lenses[number],
                camera.width,
                camera.height,
                near_plane=camera.near,
                far_plane=camera.far,
                sh_degree=splats.sh_degree,
                packed=splats.count >= 500_000,
            )[:2]
            colours.cpu(), alphas.cpu()

    return _median_ms(draw, cameras)


def _gpu_jpeg_ms(rasterize: DeviceRasterizer) -> float | str:
    """Milliseconds of a JPEG made on the device, 1920x1080, quality 85; why not, where it cannot run."""
    jpeg = rasterize.jpeg
    if jpeg is None:
        return "not run: torchvision has no nvJPEG for this device"
    picture = rasterize.picture(made.make("planet", 10_000), _view(0, _SIZES[-1]), _BLACK, None)
    return _median_ms(lambda _: jpeg(picture, 85), [_view(0, (8, 8))] * 30)


def main(arguments: list[str] | None = None) -> int:
    """Check, time, print; 1 where a vector fails or the rasterizer cannot run."""
    parser = argparse.ArgumentParser(description="Check and time a rasterizer on made scenes and committed vectors.")
    parser.add_argument("--rasterizer", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--gaussians", type=int, nargs="*", default=[100_000, 1_000_000, 5_000_000])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    try:
        rasterize = choose(given.rasterizer)
    except RasterizerUnavailable as error:
        print(f"not run: {error}")
        return 1
    device = rasterize if isinstance(rasterize, DeviceRasterizer) else None
    sets = [device.constants.name] if device is not None else list(CONSTANTS)
    checks = [check(rasterize, name) for name in sets]
    bare = _bare_gsplat if device is not None else None
    report = {
        "machine": asdict(describe()),
        "device": _device() if device is not None else None,
        "checks": checks,
        "rows": time_frames(rasterize, CONSTANTS[sets[0]], given.gaussians, given.frames, bare),
        "gpu_jpeg_1080p_ms": _gpu_jpeg_ms(device) if device is not None else "not run: no GPU asked for",
    }
    print(json.dumps(report, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(found["failed"] for found in checks))


def _device() -> dict[str, str]:
    import gsplat
    import torch

    return {"name": torch.cuda.get_device_name(), "torch": torch.__version__, "gsplat": gsplat.__version__}


if __name__ == "__main__":
    raise SystemExit(main())
