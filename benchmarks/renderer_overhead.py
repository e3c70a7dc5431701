"""What serving adds to a frame: gateway, Triton and encoder over the bare render of the same request."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.renderer_frames import View, orbit, views
from benchmarks.served import served
from fleet import labels
from fleet.scene import SceneId
from renderer.camera import Camera, matrices
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.client import Parameter, RendererClient
from renderer.constants import DEFAULT
from renderer.cpu import CpuRasterizer, granted_cpus
from renderer.formats import ply

_WARM_UP_FRAMES = 5
_SCENE = SceneId("scene")


@dataclass(frozen=True, slots=True)
class Overhead:
    """Medians over the frames of an orbit, one request at a time, JPEG.

    A frame's overhead is its time at the client less the render that the pod told of for that very frame.
    """

    scene: str
    gaussians: int
    size: str
    frames: int
    overhead_ms_p50: float
    overhead_ms_p99: float
    encode_ms_p50: float
    triton_ms_p50: float  # the same over a Triton client without the gateway
    frame_ms_p50: float  # at the client
    bare_ms_p50: float  # the rasterizer alone in this process, on as many threads


def measure(
    folder: Path, scenes_dir: Path | None, frames: int, size: tuple[int, int], say: Callable[[str], None]
) -> Overhead:
    """One pod, one gateway, the first scene that is there; raises TritonUnavailable."""
    view = next(views(scenes_dir))
    say(f"overhead: {view.name} {size[0]}x{size[1]} through gateway and Triton, {frames} frames")
    ply.write(folder / "scene.ply", view.splats)
    save_catalogue(Catalogue([CatalogueEntry(_SCENE, (folder / "scene.ply").as_uri())]), folder / "catalogue.json")
    cameras = orbit(view, frames, size)
    cameras = cameras[:_WARM_UP_FRAMES] + cameras
    bare_ms = _bare(view, cameras)
    environment = {
        labels.SCENES_ENV: _SCENE,
        labels.STORE_CAPACITY_ENV: str(1 << 34),
        labels.POD_BUDGET_ENV: str(2 * view.splats.nbytes),
    }
    with served(folder, 1, environment) as fleet:
        direct = asyncio.run(_ask_triton(fleet.pods[0].grpc_address, cameras))
        told = [_ask_gateway(fleet.gateway, cameras), direct]
    (total_ms, render_ms, encode_ms), alone = (np.array(rows[_WARM_UP_FRAMES:]).T for rows in told)
    over_ms = total_ms - render_ms
    return Overhead(
        scene=view.name,
        gaussians=view.splats.count,
        size=f"{size[0]}x{size[1]}",
        frames=frames,
        overhead_ms_p50=float(np.median(over_ms)),
        overhead_ms_p99=float(np.quantile(over_ms, 0.99)),
        encode_ms_p50=float(np.median(encode_ms)),
        triton_ms_p50=float(np.median(alone[0] - alone[1])),
        frame_ms_p50=float(np.median(total_ms)),
        bare_ms_p50=float(np.median(bare_ms[_WARM_UP_FRAMES:])),
    )


def _bare(view: View, cameras: list[Camera]) -> list[float]:
    rasterize = CpuRasterizer(granted_cpus())
    times_ms = []
    for camera in cameras:
        began_s = time.perf_counter()
        rasterize(view.splats, camera, (0.0, 0.0, 0.0), None, frozenset({"rgb"}), DEFAULT)
        times_ms.append(1e3 * (time.perf_counter() - began_s))
    return times_ms


def _ask_gateway(url: str, cameras: list[Camera]) -> list[tuple[float, float, float]]:
    """(ms at the client, ms of the render, ms of the encoder) of each camera over one connection."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    rows = []
    for camera in cameras:
        view, projection = (matrix.reshape(-1).tolist() for matrix in matrices(camera))
        fields = {"view_matrix": view, "projection_matrix": projection, "size": [camera.width, camera.height]}
        began_s = time.perf_counter()
        connection.request("POST", "/v1/render", json.dumps({"scene": _SCENE, "format": "jpeg", **fields}))
        answer = connection.getresponse()
        picture = answer.read()
        total_ms = 1e3 * (time.perf_counter() - began_s)
        if answer.status != 200:
            raise RuntimeError(f"the gateway answered {answer.status}: {picture[:200]!r}")
        stats = json.loads(answer.headers["X-Splatfleet-Stats"])
        rows.append((total_ms, 1e3 * stats["render_s"], 1e3 * stats["encode_s"]))
    connection.close()
    return rows


async def _ask_triton(address: str, cameras: list[Camera]) -> list[tuple[float, float, float]]:
    """The same over one Triton client, which is what the gateway has."""
    client = RendererClient(address)
    rows = []
    for camera in cameras:
        parameters: dict[str, Parameter] = {
            "scene": _SCENE,
            "format": "jpeg",
            "width": camera.width,
            "height": camera.height,
        }
        began_s = time.perf_counter()
        stats = (await client.render(*matrices(camera), parameters)).stats
        rows.append((1e3 * (time.perf_counter() - began_s), 1e3 * stats["render_s"], 1e3 * stats["encode_s"]))
    await client.close()
    return rows
