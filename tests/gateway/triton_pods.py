"""Real Triton pods for the gateway's tests."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fleet import labels
from local_fleet.triton_server import TritonServer, TritonUnavailable, build_backends
from tests.conftest import REPOSITORY


def triton_backends() -> Path:
    """The folder of the real server's backends; the test skips where there is none."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the Triton wheel is for Linux on x86-64")
    try:
        return build_backends(REPOSITORY / ".triton")
    except TritonUnavailable as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def start_pods(folder: Path, backends: Path, held: Sequence[str]) -> Iterator[list[TritonServer]]:
    """One pod for each entry of `held`, which is what it holds at its start; scenes of folder/catalogue.json."""
    servers = []
    for number, scenes in enumerate(held):
        environment = {
            labels.SCENES_ENV: scenes,
            labels.CATALOGUE_ENV: str(folder / "catalogue.json"),
            labels.SCENE_CACHE_ENV: str(folder / "store"),
            labels.STORE_CAPACITY_ENV: str(1 << 30),
            labels.POD_BUDGET_ENV: str(100_000_000),
            labels.RASTERIZER_ENV: "cpu",
        }
        servers.append(TritonServer(backends, folder / f"pod-{number}", environment))
        servers[-1].start()
    try:
        for server in servers:
            server.wait_ready()
        yield servers
    finally:
        for server in servers:
            server.stop()


def entry(number: int, server: TritonServer) -> dict[str, Any]:
    """Its line in the renderers file."""
    return {
        "uid": f"pod-{number}",
        "pool": "renderer",
        "node": "node-1",
        "grpc_address": server.grpc_address,
        "http_address": server.http_address,
        "metrics_address": server.metrics_address,
        "ready": True,
    }
