"""Latency of the extender's verbs over loopback HTTP, by number of node names, beside a route that does nothing.

Nodes have eight GPUs of seven slices, half of them taken, and twenty scenes each. The server is one process with one
worker; the client sends one call after another on one connection, as kube-scheduler does, each for a new pod.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from dataclasses import asdict
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from fleet.digest import CachedScene, GpuDigest, NodeDigest, SceneCache, Slice
from fleet.labels import POOL_LABEL, SCENES_ANNOTATION

NAME_COUNTS = (100, 1000, 5000)
CALLS = 300
WARM_UP = 30
SCENES = 500
GB = 10**9


def node_digest(number: int, seeded: random.Random) -> NodeDigest:
    """A node of eight H100 with 20 of SCENES scenes in a cache of 40 GB that is nearly full."""
    gpus = tuple(
        GpuDigest(
            f"GPU-{number}-{gpu}",
            "H100-80",
            slices=tuple(
                Slice("1g.10gb", start, True, f"pod-{number}-{gpu}-{start}" if seeded.random() < 0.5 else "")
                for start in range(7)
            ),
        )
        for gpu in range(8)
    )
    held = seeded.sample(range(SCENES), 20)
    scenes = tuple(CachedScene(f"scene-{scene}", "0" * 64, 2 * GB, float(age)) for age, scene in enumerate(held))
    return NodeDigest(f"gpu-{number:04d}", 1, 1.0, SceneCache(41 * GB, GB, 1.0 * GB, 3.0 * GB, scenes), gpus)


def call_body(uid: str, names: list[str], seeded: random.Random) -> bytes:
    """ExtenderArgs as kube-scheduler sends them with `nodeCacheCapable: true`."""
    device = {"nvidia.com/mig-1g.10gb": "1"}
    pod = {
        "metadata": {
            "uid": uid,
            "name": uid,
            "namespace": "default",
            "labels": {POOL_LABEL: "pool-1"},
            "annotations": {SCENES_ANNOTATION: f"scene-{seeded.randrange(SCENES)}"},
        },
        "spec": {"containers": [{"name": "renderer", "resources": {"limits": device, "requests": device}}]},
    }
    return json.dumps({"Pod": pod, "Nodes": None, "NodeNames": names}).encode()


def _serve(nodes: int, pipe: Connection) -> None:
    """The server process: an extender that already knows `nodes` nodes, and a no-op route beside its verbs."""
    import asyncio

    import structlog
    import uvicorn
    from fastapi import Request, Response

    from scheduler_extender.app import Extender, make_app
    from scheduler_extender.cluster import Cluster
    from scheduler_extender.server import listen_on
    from scheduler_extender.state import DigestPoller

    # Every decision is logged, as in production, only to nowhere.
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(open(os.devnull, "w")),  # noqa: SIM115
        cache_logger_on_first_use=True,
    )
    seeded = random.Random(1)
    cluster = Cluster()
    for number in range(nodes):
        digest = node_digest(number, seeded)
        cluster.apply_digest(digest.node, digest, time.monotonic())
    extender = Extender(cluster, DigestPoller(cluster, {}, 3600.0, 1.0, time.monotonic))
    app = make_app(extender)

    async def no_op(request: Request) -> Response:
        await request.body()
        return Response(b"[]")

    app.router.add_route("/no-op", no_op, methods=["POST"])
    listener = listen_on(("127.0.0.1", 0))
    pipe.send(listener.getsockname()[1])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    asyncio.run(server.serve(sockets=[listener]))


def _measure(connection: HTTPConnection, verb: str, names: list[str], seeded: random.Random) -> list[float]:
    """Milliseconds of each call."""
    times_ms = []
    for call in range(WARM_UP + CALLS):
        body = call_body(f"{verb}-{call}", names, seeded)
        began_s = time.perf_counter()
        connection.request("POST", f"/{verb}", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        content = reply.read()
        times_ms.append((time.perf_counter() - began_s) * 1000)
        assert reply.status == 200, content[:200]
    return times_ms[WARM_UP:]


def measure(nodes: int) -> dict[str, Any]:
    """One row: p50 and p99 per verb at `nodes` names."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(nodes, there), daemon=True)
    server.start()
    try:
        if not here.poll(120):
            raise RuntimeError("the server did not start within 120 s")
        connection = HTTPConnection("127.0.0.1", here.recv(), timeout=60)
        seeded = random.Random(2)
        names = [f"gpu-{number:04d}" for number in range(nodes)]
        row: dict[str, Any] = {"names": nodes, "body_bytes": len(call_body("uid", names, seeded))}
        for verb, label in (("no-op", "noop"), ("filter", "filter"), ("prioritize", "prioritize")):
            times_ms = _measure(connection, verb, names, seeded)
            row[f"{label}_p50_ms"] = round(statistics.median(times_ms), 3)
            row[f"{label}_p99_ms"] = round(statistics.quantiles(times_ms, n=100)[98], 3)
        connection.close()
        return row
    finally:
        server.terminate()
        server.join(10)


def main(json_path: Path | None = None) -> None:
    """Print the table; write it to `json_path` too where one is given."""
    before = describe()
    rows = [measure(nodes) for nodes in NAME_COUNTS]
    load_after = os.getloadavg()[0]
    columns = list(rows[0])
    print(f"{before.cpu}, {before.cpus} cores, Python {before.python}, calibration loop {before.calibration_s:.3f} s")
    print(f"load average {before.load_average_1min:.2f} before, {load_after:.2f} after; {CALLS} calls per verb")
    print(" | ".join(columns))
    for row in rows:
        print(" | ".join(str(row[column]) for column in columns))
    if json_path is not None:
        figures = {"machine": asdict(before), "load_average_after": load_after, "rows": rows}
        json_path.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
