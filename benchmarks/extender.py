"""Latency of the extender's verbs over loopback HTTP, by number of node names, beside a route that does nothing.

Nodes have eight GPUs of seven slices, half of them taken, and twenty scenes each. The server is one process with one
worker; the client sends one call after another on one connection, as kube-scheduler does, each for a new pod.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.machine import describe
from fleet.digest import CachedScene, GpuDigest, NodeDigest, SceneCache, Slice
from fleet.labels import POOL_LABEL, SCENES_ANNOTATION

NAME_COUNTS = (100, 420, 1000, 5000)
VERBS = {"no-op": "noop", "filter": "filter", "prioritize": "prioritize"}  # route -> key, in the order of calls
CALLS = 1000  # a 99th percentile is the tenth slowest then, not the third
WARM_UP = 30
SCENES = 500
STARTS = 1000  # pods that were bound before: they make the demand mix
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
    # Without a space, as Go writes it.
    return json.dumps({"Pod": pod, "Nodes": None, "NodeNames": names}, separators=(",", ":")).encode()


def _answer_digests(nodes: int, pipe: Connection) -> None:
    """The exporters of all nodes as one process: every ask finds another scene in the cache."""
    import asyncio

    import msgspec

    seeded = random.Random(1)
    said = [node_digest(number, seeded) for number in range(nodes)]
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked += 1
                number = int(head.split(b" ", 2)[1].rsplit(b"/", 1)[1])
                digest, cache = said[number], said[number].scene_cache
                came = CachedScene(f"scene-{asked % SCENES}", "0" * 64, 2 * GB, float(asked))
                cache = replace(cache, scenes=(*cache.scenes[1:], came))
                said[number] = replace(digest, generation=digest.generation + 1, scene_cache=cache)
                body = msgspec.json.encode(said[number])
                writer.write(b'HTTP/1.1 200 OK\r\nETag: "%d"\r\nContent-Length: %d\r\n\r\n' % (asked, len(body)) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def _serve(nodes: int, updates_per_s: float, digest_port: int, pipe: Connection) -> None:
    """The server process: an extender that already knows `nodes` nodes, and a no-op route beside its verbs."""
    import asyncio

    from fastapi import Request, Response

    from fleet.mig import MigProfile
    from fleet.scene import SceneId
    from fleet.snapshot import Pod
    from scheduler_extender.app import Extender
    from scheduler_extender.cluster import Cluster
    from scheduler_extender.server import Server, listen_on, log_lines_to
    from scheduler_extender.state import DigestPoller

    # Every decision is logged, as in production, only to nowhere.
    log_lines_to(open(os.devnull, "w"))  # noqa: SIM115
    seeded = random.Random(1)
    cluster = Cluster()
    for number in range(nodes):
        digest = node_digest(number, seeded)
        cluster.apply_digest(digest.node, digest, time.monotonic())
    one_g = MigProfile.parse("1g.10gb")
    for number in range(STARTS):
        scene = SceneId(f"scene-{seeded.randrange(SCENES)}")
        cluster.set_pod(Pod(f"old-{number}", node="elsewhere", profiles=(one_g,), scenes=(scene,), ready=True), 0.0)
    urls = {}
    if updates_per_s:
        urls = {f"gpu-{number:04d}": f"http://127.0.0.1:{digest_port}/{number}" for number in range(nodes)}
    poller = DigestPoller(cluster, urls, nodes / (updates_per_s or 1.0), 10.0, time.monotonic)
    server = Server(Extender(cluster, poller))

    async def no_op(request: Request) -> Response:
        await request.body()
        return Response(b"[]")

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started or urls.keys() - poller.tried:
            await asyncio.sleep(0.05)
        pipe.send(listener.getsockname()[1])
        await serving

    server.config.app.add_hot_route("/no-op", no_op)  # type: ignore[union-attr]
    listener = listen_on(("127.0.0.1", 0))
    asyncio.run(run())


@contextmanager
def _process(target: Callable[..., None], *arguments: object) -> Iterator[int]:
    """A process that sends the port on which it listens, until the end of the block."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    try:
        if not here.poll(120):
            raise RuntimeError("the server did not start within 120 s")
        yield here.recv()
    finally:
        process.terminate()
        process.join(10)


def _call_ms(connection: HTTPConnection, verb: str, body: bytes) -> float:
    began_s = time.perf_counter()
    connection.request("POST", f"/{verb}", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    content = reply.read()
    took_ms = (time.perf_counter() - began_s) * 1000
    if reply.status != 200 or (verb == "prioritize" and len(content) < 3):
        raise RuntimeError(f"{verb} answered {reply.status}: {content[:200]!r}")
    return took_ms


def measure(nodes: int, updates_per_s: float = 0.0, calls: int = CALLS) -> dict[str, float]:
    """p50 and p99 per verb at `nodes` names, while `updates_per_s` digests change.

    The verbs take turns, so that whatever else the machine does falls on all of them alike.
    """
    with ExitStack() as processes:
        digest_port = processes.enter_context(_process(_answer_digests, nodes)) if updates_per_s else 0
        port = processes.enter_context(_process(_serve, nodes, updates_per_s, digest_port))
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        seeded = random.Random(2)
        names = [f"gpu-{number:04d}" for number in range(nodes)]
        times_ms: dict[str, list[float]] = {verb: [] for verb in VERBS}
        gc.disable()  # the client's own
        try:
            for call in range(WARM_UP + calls):
                # kube-scheduler's order is another each time, and prioritize gets what filter left.
                seeded.shuffle(names)
                body = call_body(f"uid-{call}", names, seeded)
                for verb, times in times_ms.items():
                    times.append(_call_ms(connection, verb, body))
        finally:
            gc.enable()
            connection.close()
        row = {}
        for verb, times in times_ms.items():
            row[f"{VERBS[verb]}_p50_ms"] = round(statistics.median(times[WARM_UP:]), 3)
            row[f"{VERBS[verb]}_p99_ms"] = round(statistics.quantiles(times[WARM_UP:], n=100)[98], 3)
        return row


def main(json_path: Path | None = None, nodes: int | None = None, updates_per_s: float = 0.0) -> None:
    """Print the table; write it to `json_path` too: with `nodes` the one row and nothing else."""
    before = describe()
    rows = {count: measure(count, updates_per_s) for count in ((nodes,) if nodes else NAME_COUNTS)}
    load_after = os.getloadavg()[0]
    print(f"{before.cpu}, {before.cpus} cores, Python {before.python}, calibration loop {before.calibration_s:.3f} s")
    print(f"load average {before.load_average_1min:.2f} before, {load_after:.2f} after; {CALLS} calls per verb")
    print(f"{updates_per_s:g} digests change a second")
    print(" | ".join(["names", *next(iter(rows.values()))]))
    for count, row in rows.items():
        print(" | ".join(str(figure) for figure in (count, *row.values())))
    if json_path is not None:
        table = [{"names": count, **row} for count, row in rows.items()]
        whole = {"machine": asdict(before), "load_average_after": load_after, "rows": table}
        json_path.write_text(json.dumps(rows[nodes] if nodes else whole, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
