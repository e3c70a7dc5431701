"""The exporter beside a real Triton with the real renderer: what a pod holds reaches metrics and digest."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from fleet import labels, metrics
from fleet.scene import SceneId
from local_fleet.triton_server import TritonServer, TritonUnavailable, build_backends
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.client import render_once
from renderer.formats.ply import write as write_ply
from renderer.made import make
from renderer.made_shapes import SHAPES
from tests.exporter.surroundings import GIB, REPOSITORY, Exporter

pytestmark = [pytest.mark.triton, pytest.mark.waits]
VIEW = np.eye(4, dtype=np.float32)
PROJECTION = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -0.02], [0, 0, 1, 0]], np.float32)


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[TritonServer]:
    """A pod that holds the scene `robot`."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the Triton wheel is for Linux on x86-64")
    try:
        backends = build_backends(REPOSITORY / ".triton")
    except TritonUnavailable as error:
        pytest.skip(str(error))
    write_ply(tmp_path / "robot.ply", make(min(SHAPES), 2_000))
    entry = CatalogueEntry(SceneId("robot"), (tmp_path / "robot.ply").as_uri())
    save_catalogue(Catalogue([entry]), tmp_path / "catalogue.json")
    environment = {
        labels.SCENES_ENV: "robot",
        labels.CATALOGUE_ENV: str(tmp_path / "catalogue.json"),
        labels.SCENE_CACHE_ENV: str(tmp_path / "store"),
        labels.STORE_CAPACITY_ENV: str(GIB),
        labels.POD_BUDGET_ENV: str(100_000_000),
        labels.RASTERIZER_ENV: "cpu",
        labels.DEFAULT_SIZE_ENV: "32x32",
    }
    server = TritonServer(backends, tmp_path / "triton", environment)
    server.start()
    server.wait_ready()
    yield server
    server.stop()


def test_a_real_pod_from_frame_to_digest(
    triton: TritonServer, start_exporter: Callable[..., Exporter], tmp_path: Path
) -> None:
    exporter = start_exporter("--triton", triton.metrics_address, "--scene-cache", str(tmp_path / "store"))
    for _ in range(3):
        render_once(triton.grpc_address, VIEW, PROJECTION, {"scene": "robot"})
    labelled = f'{{model="{labels.MODEL_NAME}",pod="{triton.metrics_address}",pool="renderer"}}'
    pending = f"{metrics.TRITON_PENDING.name}{labelled}"
    success = f"{metrics.TRITON_REQUESTS.name}{labelled}".replace(",pod=", ',outcome="success",pod=')
    end_s = time.monotonic() + 10
    while True:  # Triton counts a request a moment after its answer has left
        text = httpx2.get(f"{exporter.url}/metrics", trust_env=False).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        if (values.get(pending), values.get(success)) == ("0.0", "3.0") or time.monotonic() > end_s:
            break
        time.sleep(0.05)
    assert float(values[f"{metrics.TRITON_COMPUTE_SECONDS.name}{labelled}"]) > 0
    assert float(values[pending]) == 0
    assert float(values[f"{metrics.TRITON_QUEUE_TO_COMPUTE.name}{labelled}"]) >= 0
    assert float(values[success]) == 3
    assert [line for line in values if line.startswith(metrics.SOURCE_UP.name) and values[line] != "1.0"] == []
    digest = httpx2.get(f"{exporter.url}/v1/node", trust_env=False).json()
    (pod,) = digest["pods"]
    assert pod["budget_bytes"] == 100_000_000
    assert [scene["id"] for scene in pod["resident"]] == ["robot"]
    assert pod["resident"][0]["bytes"] > 2_000 * 4 * 14
    assert [scene["id"] for scene in digest["scene_cache"]["scenes"]] == ["robot"]
    assert digest["scene_cache"]["capacity_bytes"] == GIB
    assert 0 < digest["scene_cache"]["free_bytes"] < GIB

    render_once(triton.grpc_address, VIEW, PROJECTION, {"scene": "robot", "action": "drop"})
    end_s = time.monotonic() + 10
    while httpx2.get(f"{exporter.url}/v1/node", trust_env=False).json()["pods"][0]["resident"]:
        assert time.monotonic() < end_s, "a dropped scene stays resident"
        time.sleep(0.1)
