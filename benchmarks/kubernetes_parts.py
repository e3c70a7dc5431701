"""What stands around kube-scheduler in its benchmark: an extender that does nothing, and a thousand exporters."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from multiprocessing.connection import Connection

import msgspec
import numpy as np

from benchmarks.extender import GB, SCENES
from fleet.digest import CachedScene, GpuDigest, NodeDigest, SceneCache, Slice

SLICES = 7  # of each node


def node_digest(number: int, seeded: random.Random) -> NodeDigest:
    """A node of one H100 in seven free slices, with 20 of SCENES scenes in a cache that is nearly full."""
    cuts = tuple(Slice("1g.10gb", start) for start in range(SLICES))
    held = seeded.sample(range(SCENES), 20)
    scenes = tuple(CachedScene(f"scene-{scene}", "0" * 64, 2 * GB, float(age)) for age, scene in enumerate(held))
    cache = SceneCache(41 * GB, GB, 1.0 * GB, 3.0 * GB, scenes)
    return NodeDigest(node_name(number), 1, 1.0, cache, (GpuDigest(f"GPU-{number}", "H100-80", slices=cuts),))


def node_name(number: int) -> str:
    return f"gpu-{number:04d}"


def answer_digests(nodes: int, pipe: Connection) -> None:
    """The exporters of all nodes as one process, each on a port of its own, 304 to whoever has the digest."""

    async def serve() -> None:
        seeded, loop = random.Random(1), asyncio.get_running_loop()
        ports = []
        for number in range(nodes):
            body = msgspec.json.encode(node_digest(number, seeded))
            server = await loop.create_server(partial(_Exporter, body), "127.0.0.1", 0)
            ports.append(server.sockets[0].getsockname()[1])
            servers.append(server)
        pipe.send(ports)
        await asyncio.Event().wait()

    servers: list[asyncio.Server] = []
    asyncio.run(serve())


class _Exporter(asyncio.Protocol):
    """Answers with as little work as there can be: of real nodes none of it falls on the machine that is measured."""

    _transport: asyncio.WriteTransport

    def __init__(self, body: bytes) -> None:
        self._whole = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n' % len(body) + body
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._head = (self._head + data).split(b"\r\n\r\n")
        for head in heads:
            self._transport.write(_UNCHANGED if b'if-none-match: "1"' in head.lower() else self._whole)


_UNCHANGED = b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n'


def serve_no_op(pipe: Connection) -> None:
    """An extender of the same server and the same messages that lets every node pass and scores them alike."""
    from fastapi import Request, Response

    from scheduler_extender import wire
    from scheduler_extender.app import Extender
    from scheduler_extender.cluster import Cluster
    from scheduler_extender.server import Server, listen_on
    from scheduler_extender.state import DigestPoller

    cluster = Cluster()
    server = Server(Extender(cluster, DigestPoller(cluster, {}, 5.0, 2.0, lambda: 0.0)))

    async def filter_nodes(request: Request) -> Response:
        args = wire.decode_args(await request.body())
        return Response(wire.encode_filter(args, args.names, {}, {}), media_type="application/json")

    async def prioritize(request: Request) -> Response:
        args = wire.decode_args(await request.body())
        return Response(
            wire.encode_scores(args.names, np.zeros(len(args.names), np.int64)), media_type="application/json"
        )

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.05)
        pipe.send(listener.getsockname()[1])
        await serving

    server.config.app.add_hot_route("/no-op/filter", filter_nodes)  # type: ignore[union-attr]
    server.config.app.add_hot_route("/no-op/prioritize", prioritize)  # type: ignore[union-attr]
    listener = listen_on(("127.0.0.1", 0))
    asyncio.run(run())
