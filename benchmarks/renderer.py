"""Frames a second of the CPU rasterizer on real and made scenes."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import Machine, describe
from renderer import made
from renderer.camera import Camera, look_at
from renderer.constants import DEFAULT
from renderer.cpu import CpuRasterizer, compile_kernels, granted_cpus
from renderer.formats import read
from renderer.splats import Splats

_SCENES = {
    "playbot-l2": ("playbot/2_0", (2.0, -1.2, 2.0), (0.0, -0.5, 0.0)),
    "playbot-l0": ("playbot/0_0", (2.0, -1.2, 2.0), (0.0, -0.5, 0.0)),
    "playcanvas-logo": ("playcanvas-logo", (0.3, -1.3, 3.0), (0.0, -1.2, 0.0)),
}
_WARM_UP_FRAMES = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One scene at one size on one number of threads."""

    scene: str
    gaussians: int
    size: str
    threads: int
    best_s: float
    p50_s: float
    p99_s: float
    frames_per_s: float  # at the median


@dataclass(frozen=True, slots=True)
class Report:
    machine: Machine
    rows: list[Row]
    load_average_after: float


def measure(scenes_dir: Path | None, frames: int, size: tuple[int, int], threads: list[int]) -> Report:
    """Render an orbit of `frames` of every scene; real scenes where `scenes_dir` holds them, one made scene always."""
    machine = describe()
    compile_kernels()
    counts = threads or sorted({1, granted_cpus()})
    rows = [
        _row(name, splats, eye, target, size, count, frames)
        for name, splats, eye, target in _scenes(scenes_dir)
        for count in counts
    ]
    return Report(machine, rows, describe().load_average_1min)


def _scenes(folder: Path | None) -> list[tuple[str, Splats, tuple[float, ...], tuple[float, ...]]]:
    scenes = [
        (name, read(folder / path), eye, target)
        for name, (path, eye, target) in _SCENES.items()
        if folder is not None and (folder / path).is_dir()
    ]
    return [*scenes, ("made-knot-40k", made.make("knot", 40_000), made.EYE, made.TARGET)]


def _row(
    name: str,
    splats: Splats,
    eye: tuple[float, ...],
    target: tuple[float, ...],
    size: tuple[int, int],
    threads: int,
    frames: int,
) -> Row:
    rasterize = CpuRasterizer(threads)
    cameras = [_orbit(eye, target, turn / frames, size) for turn in range(frames)]
    times_s = []
    for camera in cameras[:_WARM_UP_FRAMES] + cameras:
        started_s = time.perf_counter()
        rasterize(splats, camera, (0.0, 0.0, 0.0), None, frozenset({"rgb"}), DEFAULT)
        times_s.append(time.perf_counter() - started_s)
    best, p50, p99 = np.quantile(times_s[-frames:], [0.0, 0.5, 0.99])
    return Row(name, splats.count, f"{size[0]}x{size[1]}", threads, float(best), float(p50), float(p99), float(1 / p50))


def _orbit(eye: tuple[float, ...], target: tuple[float, ...], turn: float, size: tuple[int, int]) -> Camera:
    """The view after `turn` of a full circle about the vertical through the target."""
    x, z = eye[0] - target[0], eye[2] - target[2]
    angle = 2 * np.pi * turn
    around = (
        target[0] + x * np.cos(angle) - z * np.sin(angle),
        eye[1],
        target[2] + x * np.sin(angle) + z * np.cos(angle),
    )
    return look_at(around, target, (0.0, -1.0, 0.0), 50.0, *size)


def as_json(report: Report) -> dict[str, object]:
    """The report as plain values."""
    return dataclasses.asdict(report)


def as_text(report: Report) -> str:
    """The report as a table."""
    machine = report.machine
    lines = [
        f"{machine.cpu}, {machine.cpus} CPUs, Python {machine.python}, load {machine.load_average_1min:.2f} before "
        f"and {report.load_average_after:.2f} after, calibration loop {machine.calibration_s * 1000:.1f} ms",
        "",
        f"{'scene':<18}{'Gaussians':>10}{'size':>11}{'threads':>9}"
        f"{'best ms':>9}{'p50 ms':>9}{'p99 ms':>9}{'frames/s':>10}",
    ]
    for row in report.rows:
        lines.append(
            f"{row.scene:<18}{row.gaussians:>10,}{row.size:>11}{row.threads:>9}{row.best_s * 1e3:>9.1f}"
            f"{row.p50_s * 1e3:>9.1f}{row.p99_s * 1e3:>9.1f}{row.frames_per_s:>10.1f}"
        )
    return "\n".join(lines)
