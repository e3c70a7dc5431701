"""Frames a second of the CPU rasterizer on real and made scenes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from renderer import made
from renderer.camera import Camera, look_at
from renderer.constants import DEFAULT
from renderer.cpu import CpuRasterizer
from renderer.formats import read
from renderer.splats import Splats

_SCENES = {
    "playbot-l2": ("playbot/2_0", (2.0, -1.2, 2.0), (0.0, -0.5, 0.0)),
    "playbot-l0": ("playbot/0_0", (2.0, -1.2, 2.0), (0.0, -0.5, 0.0)),
    "playcanvas-logo": ("playcanvas-logo", (0.3, -1.3, 3.0), (0.0, -1.2, 0.0)),
}
_WARM_UP_FRAMES = 3


@dataclass(frozen=True, slots=True)
class FrameRow:
    """One scene at one size on one number of threads."""

    scene: str
    gaussians: int
    size: str
    threads: int
    frame_ms_best: float
    frame_ms_p50: float
    frame_ms_p99: float
    fps: float  # at the median


@dataclass(frozen=True, slots=True)
class View:
    """A scene and the circle around it."""

    name: str
    splats: Splats
    eye: tuple[float, ...]
    target: tuple[float, ...]


def views(scenes_dir: Path | None) -> Iterator[View]:
    """The real scenes that the folder holds, and a made one always."""
    for name, (path, eye, target) in _SCENES.items():
        if scenes_dir is not None and (scenes_dir / path).is_dir():
            yield View(name, read(scenes_dir / path), eye, target)
    yield View("made-knot-40k", made.make("knot", 40_000), made.EYE, made.TARGET)


def orbit(view: View, turns: int, size: tuple[int, int]) -> list[Camera]:
    """`turns` cameras on a full circle about the vertical through the target."""
    x, z = view.eye[0] - view.target[0], view.eye[2] - view.target[2]
    cameras = []
    for angle in np.linspace(0, 2 * np.pi, turns, endpoint=False):
        across, along = x * np.cos(angle) - z * np.sin(angle), x * np.sin(angle) + z * np.cos(angle)
        eye = (view.target[0] + across, view.eye[1], view.target[2] + along)
        cameras.append(look_at(eye, view.target, (0.0, -1.0, 0.0), 50.0, *size))
    return cameras


def measure(
    scenes_dir: Path | None,
    frames: int,
    sizes: Sequence[tuple[int, int]],
    threads: Sequence[int],
    say: Callable[[str], None],
) -> list[FrameRow]:
    """Render an orbit of `frames` of every scene at every size on every number of threads."""
    rows = []
    for view in views(scenes_dir):
        for size in sizes:
            cameras = orbit(view, frames, size)
            for count in threads:
                say(f"{view.name}, {size[0]}x{size[1]}, threads {count}: {frames} frames")
                rows.append(_row(view, cameras, count))
    return rows


def _row(view: View, cameras: list[Camera], threads: int) -> FrameRow:
    rasterize = CpuRasterizer(threads)
    times_ms = []
    for camera in cameras[:_WARM_UP_FRAMES] + cameras:
        began_s = time.perf_counter()
        rasterize(view.splats, camera, (0.0, 0.0, 0.0), None, frozenset({"rgb"}), DEFAULT)
        times_ms.append(1e3 * (time.perf_counter() - began_s))
    best, p50, p99 = (float(value) for value in np.quantile(times_ms[_WARM_UP_FRAMES:], [0.0, 0.5, 0.99]))
    size = f"{cameras[0].width}x{cameras[0].height}"
    return FrameRow(view.name, view.splats.count, size, threads, best, p50, p99, 1e3 / p50)
