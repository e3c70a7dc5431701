"""A real gateway over real HTTP, in front of pods that are real servers of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from renderer.gateway.app import Gateway, GatewaySettings, server_config
from tests.conftest import REPOSITORY
from tests.gateway.fake_pod import FakePod

IDENTITY = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def body(scene: str = "robot", **fields: Any) -> dict[str, Any]:
    """A frame request that is right in every field."""
    return {
        "scene": scene,
        "view_matrix": IDENTITY,
        "projection_matrix": IDENTITY,
        "size": [64, 48],
    } | fields


class Front:
    """A gateway that listens, and a client of it."""

    def __init__(self, gateway: Gateway, client: httpx2.AsyncClient, file: Path) -> None:
        self.gateway = gateway
        self.client = client
        self.file = file
        self.port = client.base_url.port

    async def ask(self, scene: str = "robot", **fields: Any) -> httpx2.Response:
        return await self.client.post("/v1/render", json=body(scene, **fields))

    async def until(self, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until something became true."""
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.02)

    def write(self, *entries: dict[str, Any]) -> None:
        write_renderers(self.file, *entries)

    async def sample(self, line_start: str) -> float | None:
        """The value of the first metric line that begins so."""
        text = (await self.client.get("/metrics")).text
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(line_start)), None)


def write_renderers(file: Path, *entries: dict[str, Any]) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps({"version": 1, "renderers": entries}))
    temporary.replace(file)


@contextlib.asynccontextmanager
async def serving(settings: GatewaySettings) -> AsyncIterator[Front]:
    """The gateway behind a socket for as long as the block runs."""
    gateway = Gateway(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(gateway, timeout_graceful_shutdown=1))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    port = listener.getsockname()[1]
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield Front(gateway, client, settings.renderers_file)
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def pods() -> AsyncIterator[Callable[..., Any]]:
    """Makes started pods, and stops them at the end."""
    made: list[FakePod] = []

    async def make(uid: str, known: dict[str, int] | None = None, resident: tuple[str, ...] = ("robot",)) -> FakePod:
        pod = FakePod(uid, known or {"robot": 300, "garden": 400, "logo": 500}, resident)
        made.append(pod)
        return await pod.start()

    yield make
    for pod in made:
        await pod.stop()


@contextlib.contextmanager
def running_gateway(folder: Path, *arguments: str, log: Path | None = None, **environment: str) -> Iterator[str]:
    """The URL of a gateway that runs as a command; renderers.json and catalogue.json lie in the folder."""
    command = [sys.executable, "-m", "splatfleet", "gateway", "--listen", "127.0.0.1:0", *arguments]
    command += ["--renderers-file", str(folder / "renderers.json"), "--catalogue", str(folder / "catalogue.json")]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if log else None,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | environment,
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("gateway listens on http://127.0.0.1:"), line
            yield line.split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)
            if log is not None:
                log.write_text(process.stdout.read())
            assert process.wait(40) == 0
