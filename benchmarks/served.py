"""Real Triton pods behind a real gateway, for the length of a benchmark."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fleet import labels
from fleet.renderers import Renderer, RenderersFile
from local_fleet.spawn import spawn
from local_fleet.triton_files import DEFAULT_BACKENDS
from local_fleet.triton_server import TritonServer, build_backends

_GATEWAY_STARTS_S = 60.0
_FIRST_SCRAPE_S = 2.0


@dataclass(frozen=True, slots=True)
class Served:
    """What to ask and what to watch."""

    gateway: str  # http://127.0.0.1:port
    gateway_pid: int
    pods: Sequence[TritonServer]


@contextmanager
def served(folder: Path, count: int, environment: Mapping[str, str], flags: Sequence[str] = ()) -> Iterator[Served]:
    """`count` pods over folder/catalogue.json and a gateway with these flags; all gone when the block ends.

    Raises TritonUnavailable, TritonFailed or RuntimeError (the gateway did not start).
    """
    told = {
        labels.CATALOGUE_ENV: str(folder / "catalogue.json"),
        labels.SCENE_CACHE_ENV: str(folder / "store"),
        labels.RASTERIZER_ENV: "cpu",
        **environment,
    }
    backends = build_backends(DEFAULT_BACKENDS)
    with ExitStack() as stack:
        pods = [TritonServer(backends, folder / f"pod-{number}", told) for number in range(count)]
        for pod in pods:
            stack.callback(pod.stop)
            pod.start()
        for pod in pods:
            pod.wait_ready()
        yield stack.enter_context(_gateway(folder, pods, flags))


@contextmanager
def _gateway(folder: Path, pods: Sequence[TritonServer], flags: Sequence[str]) -> Iterator[Served]:
    renderers = [
        Renderer(f"pod-{n}", "renderer", "node", pod.grpc_address, pod.http_address, pod.metrics_address, ready=True)
        for n, pod in enumerate(pods)
    ]
    file = folder / "renderers.json"
    file.write_bytes(msgspec.json.encode(RenderersFile(tuple(renderers))))
    command = [sys.executable, "-m", "splatfleet", "gateway", "--listen", "127.0.0.1:0", *flags]
    command += ["--renderers-file", str(file), "--catalogue", str(folder / "catalogue.json")]
    log = folder / "gateway.log"
    process = spawn(command, log, Path.cwd(), {**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        end_s = time.monotonic() + _GATEWAY_STARTS_S
        while "listens on" not in (said := log.read_text() if log.exists() else ""):
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"the gateway did not start: {said}")
            time.sleep(0.05)
        time.sleep(_FIRST_SCRAPE_S)
        yield Served(next(word for word in said.split() if word.startswith("http://")), process.pid, pods)
    finally:
        process.terminate()
        process.wait(15)
