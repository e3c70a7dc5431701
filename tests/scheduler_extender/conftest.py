"""A running extender over real HTTP, exporters that answer at the wire, and the messages of kube-scheduler."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import msgspec
import pytest

from fleet.digest import DIGEST_PATH, CachedScene, GpuDigest, NodeDigest, SceneCache, Slice, etag
from fleet.labels import POOL_LABEL, SCENES_ANNOTATION
from scheduler_extender.app import Extender
from scheduler_extender.cluster import Cluster
from scheduler_extender.connections import Connections
from scheduler_extender.prices import Prices
from scheduler_extender.server import Server, listen_on
from scheduler_extender.state import DigestPoller

GB = 10**9
Fault = Callable[[BaseHTTPRequestHandler], None]


def digest(
    name: str,
    scenes: dict[str, int] | None = None,
    slices: tuple[Slice, ...] | None = None,
    generation: int = 1,
    **cache: Any,
) -> NodeDigest:
    """An H100 cut into seven 1g slices beside a cache of 100 GB, fetching at 100 MB/s and reading at 1 GB/s."""
    cut = tuple(Slice("1g.10gb", start) for start in range(7)) if slices is None else slices
    held = tuple(
        CachedScene(scene, "0" * 64, size, 1.0 + index) for index, (scene, size) in enumerate((scenes or {}).items())
    )
    fields = {"capacity_bytes": 100 * GB, "free_bytes": 100 * GB - sum((scenes or {}).values())}
    fields |= {"fetch_bytes_per_s": 0.1 * GB, "read_bytes_per_s": 1.0 * GB, "scenes": held} | cache
    return NodeDigest(
        name, generation, 1000.0, SceneCache(**fields), (GpuDigest(f"GPU-{name}", "H100-80", slices=cut),)
    )


def pod(uid: str, scenes: str = "", node: str = "", phase: str = "Pending", profile: str = "1g.10gb") -> dict[str, Any]:
    """A v1.Pod that asks for one slice."""
    device = {f"nvidia.com/mig-{profile}": "1"}
    return {
        "metadata": {
            "uid": uid,
            "name": uid,
            "namespace": "default",
            "labels": {POOL_LABEL: "pool-1"},
            "annotations": {SCENES_ANNOTATION: scenes},
        },
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": device, "requests": device}}]},
        "status": {"phase": phase},
    }


class Exporter:
    """A node's exporter as seen from outside: serves one digest with its ETag, or a fault."""

    def __init__(self) -> None:
        self.digest: NodeDigest | None = None
        self.fault: Fault | None = None
        self.answers: list[int] = []
        self.asked_s: list[float] = []
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                exporter.asked_s.append(time.monotonic())
                if exporter.fault is not None:
                    exporter.fault(self)
                    return
                assert self.path == DIGEST_PATH
                assert exporter.digest is not None
                tag = etag(exporter.digest)
                same = self.headers.get("If-None-Match") == tag
                exporter.answers.append(304 if same else 200)
                body = b"" if same else msgspec.json.encode(exporter.digest)
                self.send_response(304 if same else 200)
                self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}{DIGEST_PATH}"
        self.running = True

    def stop(self) -> None:
        if self.running:
            self.running = False
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


@dataclass
class Clock:
    """The monotonic clock, and a hand to move it on."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


@dataclass
class Rig:
    """An extender that listens, its clock and its exporters."""

    client: httpx2.Client
    extender: Extender
    clock: Clock
    exporters: dict[str, Exporter] = field(default_factory=dict)

    def filter(self, pod: dict[str, Any], names: list[str]) -> dict[str, Any]:
        return self._post("filter", pod, names)

    def prioritize(self, pod: dict[str, Any], names: list[str]) -> dict[str, int]:
        return {entry["Host"]: entry["Score"] for entry in self._post("prioritize", pod, names)}

    def explain(self, pod: dict[str, Any], names: list[str]) -> dict[str, Any]:
        whole = self._post("explain", pod, names)
        return {**whole, "by_node": {line["node"]: line for line in whole["nodes"]}}

    def event(self, kind: str, pod: dict[str, Any]) -> None:
        assert self.client.post("/v1/pod-events", json={"type": kind, "object": pod}).status_code == 200

    def metric(self, line_start: str) -> float:
        text = self.client.get("/metrics").text
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(line_start)]
        return sum(values)

    def until(self, holds: Callable[[], bool], deadline_s: float = 30.0) -> None:
        end_s = time.monotonic() + deadline_s
        while not holds():
            assert time.monotonic() < end_s, "did not happen in time"
            time.sleep(0.02)

    def until_digests(self, *names: str) -> None:
        self.until(lambda: all(self.extender.cluster.snapshot.nodes[name].seen_s is not None for name in names))

    def _post(self, verb: str, pod: dict[str, Any], names: list[str]) -> Any:
        reply = self.client.post(f"/{verb}", json={"Pod": pod, "Nodes": None, "NodeNames": names})
        assert reply.status_code == 200
        return reply.json()


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    """Start an extender over the given digests (None: an exporter that is dead); all of it ends with the test."""
    ends: list[Callable[[], None]] = []

    def start(
        poll_s: float = 0.1,
        most_body_bytes: int = 1 << 20,
        wait: bool = True,
        fault: Fault | None = None,
        connections: Connections | None = None,
        poll_timeout_s: float = 1.0,
        **digests: NodeDigest | None,
    ) -> Rig:
        clock = Clock()
        exporters = {}
        for keyword, said in digests.items():
            name = keyword.replace("_", "-")
            exporters[name] = Exporter()
            exporters[name].digest = said
            exporters[name].fault = fault
            ends.append(exporters[name].stop)
            if said is None:
                exporters[name].stop()
        urls = {name: exporter.url for name, exporter in exporters.items()}
        cluster = Cluster(list(urls), Prices(), time_to_live_s=30.0)
        poller = DigestPoller(cluster, urls, poll_s, poll_timeout_s, clock)
        extender = Extender(cluster, poller, clock, most_body_bytes, body_deadline_s=1.0)
        server = Server(extender, connections=connections)
        listener = listen_on(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join(10)

        ends.append(end)
        while not server.started:
            time.sleep(0.01)
        port = listener.getsockname()[1]
        client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
        ends.append(client.close)
        made = Rig(client, extender, clock, exporters)
        if wait:
            made.until_digests(*(name for name in exporters if exporters[name].running))
        return made

    yield start
    for end in reversed(ends):
        end()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], dict[str, Any]]:
    """A body captured from a real kube-scheduler, by verb and mode."""

    def read(name: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((request.path.parent / "golden" / f"{name}.json").read_text())["body"]
        return body

    return read
