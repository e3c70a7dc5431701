"""The CPU rasterizer: compiled kernels over a few threads of its own, bit-identical for any number of them."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renderer import cpu_bin, cpu_blend, cpu_project
from renderer.camera import Camera, look_at
from renderer.constants import DEFAULT, Constants
from renderer.cpu_records import CHUNK, RECORD, TILE_HEIGHT, TILE_WIDTH
from renderer.rasterizer import Frame
from renderer.sample import sample_of
from renderer.splats import Float32, Splats, make_splats

THREADS_ENV = "SPLATFLEET_RENDER_THREADS"
CGROUP = Path("/sys/fs/cgroup")
_TASKS_PER_THREAD = 4  # tiles differ in cost; more tasks than threads even it out
BAND = 1_000_000  # Gaussians that are projected, sorted and blended at a time
_SAMPLED = 64  # one in so many tells where the depths lie
_LIGHT_FRAME = 2048  # Gaussians below which handing work to threads costs more than it saves


class CpuRasterizer:
    """Rasterizer on `threads` threads (default: SPLATFLEET_RENDER_THREADS, else what the machine grants).

    All of them work on a frame that comes alone. Frames that come while another is being drawn are drawn in their
    callers' threads, side by side, as the kernels release the GIL: many frames on a thread each are done sooner than
    the same frames one after the other on all.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads if threads is not None else threads_from_environment()
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}, expected at least 1")
        pool = ThreadPoolExecutor(self.threads, "render") if self.threads > 1 else None
        self._together, self._alone = _Painter(self.threads, pool), _Painter(1, None)
        self._lock = threading.Lock()
        self._frames = 0  # being drawn

    def __call__(
        self,
        splats: Splats,
        camera: Camera,
        background: tuple[float, float, float],
        sh_degree: int | None,
        layers: frozenset[str],
        constants: Constants,
    ) -> Frame:
        """Render one frame; safe from several threads."""
        with self._lock:
            self._frames += 1
            painter = self._together if self._frames == 1 else self._alone
        try:
            return painter.draw(splats, camera, background, sh_degree, layers, constants)
        finally:
            with self._lock:
                self._frames -= 1


class _Painter:
    """Draws a frame on so many threads, with one in the caller's; its bytes do not depend on how many."""

    def __init__(self, threads: int, pool: ThreadPoolExecutor | None) -> None:
        self._threads, self._pool = threads, pool

    def draw(
        self,
        splats: Splats,
        camera: Camera,
        background: tuple[float, float, float],
        sh_degree: int | None,
        layers: frozenset[str],
        constants: Constants,
    ) -> Frame:
        size = (camera.width, camera.height)
        values = _camera_values(camera, constants)
        tiles = -(-camera.width // TILE_WIDTH) * -(-camera.height // TILE_HEIGHT)
        accumulators = np.empty((tiles, cpu_blend.ACCUMULATED), np.float32)
        cpu_blend.begin(accumulators, camera.width)
        limits = (
            np.float32(constants.alpha_cap),
            np.float32(constants.alpha_threshold),
            np.float32(constants.transmittance_stop),
        )
        for near, far in _bands(splats, values):
            values[[cpu_project.NEAR, cpu_project.FAR]] = near, far
            self._blend(splats, values, sh_degree, size, limits, accumulators)
        return self._finish(accumulators, size, background, "depth" in layers)

    def _blend(
        self,
        splats: Splats,
        camera: NDArray[np.float64],
        sh_degree: int | None,
        size: tuple[int, int],
        limits: tuple[np.float32, np.float32, np.float32],
        accumulators: Float32,
    ) -> None:
        """Blend what lies between the camera's near and far behind what is in the accumulators."""
        records, order, boxes = self._project(splats, camera, sh_degree)
        starts, lists = self._bin(records, order, boxes, size)
        spans = _equal_cost(starts, self._threads * _TASKS_PER_THREAD if self._pool else 1)
        self._each(lambda span: cpu_blend.blend(span, starts, lists, records, size, limits, accumulators), spans)

    def _finish(
        self, accumulators: Float32, size: tuple[int, int], background: tuple[float, float, float], with_depth: bool
    ) -> Frame:
        pixels = size[0] * size[1]
        rgb, alpha = np.empty(pixels * 3, np.float32), np.empty(pixels, np.float32)
        depth = np.empty(pixels if with_depth else 0, np.float32)
        back = (np.float32(background[0]), np.float32(background[1]), np.float32(background[2]))
        spans = _split(len(accumulators), self._threads)
        self._each(lambda span: cpu_blend.finish(span, accumulators, size, back, (rgb, alpha, depth)), spans)
        shape = (size[1], size[0])
        return Frame(rgb.reshape(*shape, 3), alpha.reshape(shape), depth.reshape(shape) if with_depth else None)

    def _project(
        self, splats: Splats, camera: NDArray[np.float64], sh_degree: int | None
    ) -> tuple[Float32, NDArray[np.uint32], NDArray[np.int32]]:
        """(records, positions of the survivors by depth, tiles that a survivor's box touches)."""
        count = splats.count
        degree = splats.sh_degree if sh_degree is None else min(sh_degree, splats.sh_degree)
        flat = [part.reshape(-1) for part in (splats.means, splats.covariances, splats.opacities, splats.sh)]
        sample = sample_of(count, splats.budget)
        scene = (*flat, splats.antialiased, sample.limit, sample.growth)
        chunks = -(-count // CHUNK)
        spans = _split(chunks, self._parts(count))
        bases = np.arange(0, (chunks + 1) * CHUNK, CHUNK)
        if count > BAND:  # a segment of its own for each chunk would be mostly empty
            bases[0] = 0
            self._each(lambda span: cpu_project.count_in_range(flat[0], sample.limit, camera, span, bases), spans)
            np.cumsum(bases, out=bases)
        room = min(count, int(bases[-1]))
        records = np.empty(room * RECORD, np.float32)
        depths = np.empty(room, np.float32)
        boxes = np.empty(room, np.int32)
        counts = np.zeros(chunks, np.int64)
        out = (records, depths, boxes, bases, counts)
        self._each(lambda span: cpu_project.project(scene, camera, degree, span, out), spans)
        survivors = int(counts.sum())
        keys, order = np.empty((2, survivors), np.uint32), np.empty((2, survivors), np.uint32)
        cpu_bin.depth_order(depths.view(np.uint32), bases, counts, keys, order)
        return records, order[1], boxes

    def _bin(
        self, records: Float32, order: NDArray[np.uint32], boxes: NDArray[np.int32], size: tuple[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """(where each tile's list starts [tiles + 1], the lists): a stable counting sort of (tile, splat) pairs."""
        width, height = size
        tiles = -(-width // TILE_WIDTH) * -(-height // TILE_HEIGHT)
        spans = _split(len(order), self._parts(len(order)))
        limits = np.array([0, *(stop for _, stop in spans)], np.int64)
        most = np.zeros(len(spans), np.int64)
        cpu_bin.box_totals(order, boxes, limits, most)
        bases = np.concatenate([[0], np.cumsum(most)])
        pair_tiles, pair_splats = np.empty(bases[-1], np.uint32), np.empty(bases[-1], np.uint32)
        counts = np.empty((len(spans), tiles), np.int64)
        ends = np.zeros(len(spans), np.int64)

        def emit(part: int) -> None:
            base = int(bases[part])
            ends[part] = cpu_bin.emit(order, records, spans[part], size, pair_tiles, pair_splats, base, counts[part])

        def scatter(part: int) -> None:
            span = (int(bases[part]), int(ends[part]))
            cpu_bin.scatter(pair_tiles, pair_splats, span, counts[part], lists)

        self._each(emit, list(range(len(spans))))
        starts = np.empty(tiles + 1, np.int64)
        lists = np.empty(cpu_bin.tile_starts(counts, starts), np.uint32)
        self._each(scatter, list(range(len(spans))))
        return starts, lists

    def _parts(self, items: int) -> int:
        return self._threads if self._pool and items >= _LIGHT_FRAME else 1

    def _each(self, work: Callable[[Any], None], items: list[Any]) -> None:
        if self._pool is None or len(items) == 1:
            for item in items:
                work(item)
            return
        for _ in self._pool.map(work, items):
            pass


def _camera_values(camera: Camera, constants: Constants) -> NDArray[np.float64]:
    values = np.empty(cpu_project.CAMERA_VALUES)
    values[0:9] = camera.view[:3, :3].reshape(-1)
    values[9:12] = camera.view[:3, 3]
    values[12:20] = (
        camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, camera.near, camera.far
    )  # fmt: skip
    values[20:23] = camera.position
    values[23:27] = (
        constants.frustum_margin, constants.blur_px2, constants.alpha_threshold, constants.compensation_floor
    )  # fmt: skip
    return values


def _bands(splats: Splats, camera: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Ranges of depth, nearest first, of about BAND Gaussians each: what a frame needs beside the scene stays bounded.

    No two depths that are the same float32 fall into different bands, so bands change no bit of a frame.
    """
    near, far = float(camera[cpu_project.NEAR]), float(camera[cpu_project.FAR])
    bands = -(-splats.count // BAND)
    if bands == 1:
        return [(near, far)]
    depths = splats.means[::_SAMPLED] @ camera[6:9].astype(np.float32) + np.float32(camera[11])
    depths = depths[(depths >= near) & (depths <= far)]
    if not len(depths):
        return [(near, far)]
    inner = np.quantile(depths, np.arange(1, bands) / bands).astype(np.float32)
    # Halfway between two neighbours in float32, and in float64 no number between the end of a band and the next.
    edges = np.unique((inner.astype(np.float64) + np.nextafter(inner, np.float32(np.inf)).astype(np.float64)) / 2)
    edges = edges[(edges > near) & (edges < far)]
    return list(zip([near, *np.nextafter(edges, np.inf)], [*edges, far], strict=True))


def _split(items: int, parts: int) -> list[tuple[int, int]]:
    parts = max(1, min(parts, items))
    edges = [items * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _equal_cost(starts: NDArray[np.int64], parts: int) -> list[tuple[int, int]]:
    """Spans of tiles with about as many splats each; a tile itself counts as 32 splats."""
    cost = starts + 32 * np.arange(len(starts))
    edges = np.searchsorted(cost, np.linspace(0, cost[-1], parts + 1))
    edges[0], edges[-1] = 0, len(starts) - 1
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [span for span in spans if span[0] < span[1]]


def threads_from_environment() -> int:
    """SPLATFLEET_RENDER_THREADS, else the CPUs granted; raises ValueError naming the variable."""
    text = os.environ.get(THREADS_ENV, "")
    if not text:
        return granted_cpus()
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{THREADS_ENV} is {text!r}, expected a whole number of at least 1")
    return int(text)


def granted_cpus() -> int:
    """CPUs that this process may use: its affinity, cut to the cgroup's quota (v2 `cpu.max`, v1 `cpu.cfs_quota_us`)."""
    cpus = float(len(os.sched_getaffinity(0)))
    for quota, period in (_quota_v2(), _quota_v1()):
        if quota > 0 and period > 0:
            cpus = min(cpus, quota / period)
    return max(1, int(cpus))


def _quota_v2() -> tuple[float, float]:
    words = _words(CGROUP / "cpu.max")
    return (float(words[0]), float(words[1])) if len(words) == 2 and words[0] != "max" else (0.0, 0.0)


def _quota_v1() -> tuple[float, float]:
    words = _words(CGROUP / "cpu" / "cpu.cfs_quota_us") + _words(CGROUP / "cpu" / "cpu.cfs_period_us")
    return (float(words[0]), float(words[1])) if len(words) == 2 else (0.0, 0.0)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def compile_kernels() -> None:
    """Compile every kernel for the one signature each is used with; later processes load them from numba's cache.

    The cache lies in NUMBA_CACHE_DIR where that is set, else beside the source.
    """
    one = np.ones((1, 3), np.float32)
    splats = make_splats(one * 0, np.ones((1, 4), np.float32), one * 0.1, np.ones(1, np.float32), one[:, None])
    camera = look_at((0, 0, -2), (0, 0, 0), (0, -1, 0), 50, 8, 8)
    CpuRasterizer(1)(splats, camera, (0.0, 0.0, 0.0), None, frozenset({"depth"}), DEFAULT)
