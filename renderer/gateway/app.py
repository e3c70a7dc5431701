"""The gateway over HTTP: `POST /v1/render`, `/v1/status`, `/metrics`, health.

The hot verb is a bare ASGI app, so that a request costs little beside its frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from renderer.catalogue import load_catalogue
from renderer.gateway.metrics import UNKNOWN_SCENE, GatewayMetrics
from renderer.gateway.pods import POD_STATES, PodDirectory
from renderer.gateway.pool import Answer, ClientGone, Frame, Pool, unknown_scene
from renderer.gateway.routing import Limits, Router
from renderer.gateway.wire import (
    CONTENT_TYPES,
    MAX_BODY_BYTES,
    FrameRequest,
    Refusal,
    compact,
    parse_frame_request,
)

log = structlog.get_logger("gateway")

_CLIENT_GONE = 499  # nobody reads it; it keeps the count of answers whole


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What a gateway needs to know at its start."""

    renderers_file: Path
    pools: tuple[str, ...] = ("renderer",)  # valid with no pod at all; the first takes requests that name none
    node_digests: Mapping[str, str] = field(default_factory=dict)  # URL by node
    catalogue: Path | None = None
    limits: Limits = field(default_factory=Limits)
    hold_s: float = 20.0
    deadline_s: float = 60.0  # for requests without one


class Gateway:
    """The ASGI app and what stands behind it."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Raises CatalogueError for a catalogue that cannot be used."""
        self._settings = settings
        self._catalogue = load_catalogue(settings.catalogue).entries if settings.catalogue else None
        self._scene_bytes: dict[str, int] = {
            str(scene): entry.resident_bytes or 0 for scene, entry in (self._catalogue or {}).items()
        }
        self.metrics = GatewayMetrics()
        self.directory = PodDirectory(settings.renderers_file, settings.node_digests, self._make_pool)
        for name in settings.pools:
            self.directory.pool(name)
        self.app = Starlette(
            routes=[
                Route("/v1/render", _Hot(self), methods=["POST"]),
                Route("/v1/status", self._status),
                Route("/metrics", self._exposition),
                Route("/-/healthy", self._healthy),
                Route("/-/ready", self._ready),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        await self.directory.start()
        try:
            yield
        finally:
            await self.directory.close()

    def _make_pool(self, name: str, suspect: Callable[[str], None]) -> Pool:
        router = Router(self._settings.limits, self._scene_bytes)
        pool = Pool(name, router, self._settings.hold_s, suspect)
        self.metrics.pending.labels(name).set_function(lambda: pool.router.waiting)
        self.metrics.in_flight.labels(name).set_function(lambda: pool.router.in_flight)
        for state in POD_STATES:
            gauge = self.metrics.pods.labels(name, state)
            gauge.set_function(partial(self._count_pods, name, state))
        return pool

    def _count_pods(self, pool: str, state: str) -> float:
        return self.directory.counts(pool)[state]

    # The hot verb.

    async def render(self, body: bytes, arrived_s: float, receive: Receive) -> tuple[str, FrameRequest, Answer]:
        """Answer one body; the pool that served it, what was asked, the frame. Raises Refusal and ClientGone."""
        request = parse_frame_request(body)
        pool = self._pool_of(request)
        known = self._knows(pool, request.scene)
        label = self.metrics.scene_label(request.scene) if known else UNKNOWN_SCENE
        self.metrics.requests.labels(pool.name, label).inc()
        if not known:
            refusal = unknown_scene(request.scene)
            refusal.pool = pool.name
            raise refusal
        limit_s = request.deadline_ms / 1000.0 if request.deadline_ms else self._settings.deadline_s
        frame = Frame(request, arrived_s, arrived_s + limit_s, request.deadline_ms is not None)
        frame.gone = _until_gone(receive)
        try:
            return pool.name, request, await pool.render(frame)
        except Refusal as refusal:
            refusal.pool = pool.name
            raise
        finally:
            if frame.cold != "none":
                self.metrics.cold_requests.labels(pool.name, frame.cold).inc()

    def _pool_of(self, request: FrameRequest) -> Pool:
        name = request.pool or self._settings.pools[0]
        pool = self.directory.pools.get(name)
        if pool is None:
            known = ", ".join(sorted(self.directory.pools))
            raise Refusal(400, "bad_request", f"pool is {name[:80]!r}, expected one of: {known}")
        return pool

    def _knows(self, pool: Pool, scene: str) -> bool:
        """Without a catalogue every id is worth asking a pod for, but for those that a pod just did not know."""
        return scene in self._catalogue if self._catalogue is not None else not pool.is_unknown(scene)

    # For people and probes.

    async def _status(self, _request: Request) -> Response:
        return Response(msgspec.json.encode(self.status()), media_type="application/json")

    def status(self) -> dict[str, Any]:
        """Pods, what they hold, and who waits for what."""
        directory = self.directory
        return {
            "scenes": self._scenes(),
            "pools": {
                name: {
                    "in_flight": pool.router.in_flight,
                    "pending": pool.router.waiting,
                    "pending_by_scene": pool.router.pending_by_scene,
                    "pods": {
                        uid: {"state": directory.state(uid), "node": pod.node, "slice": pod.slice}
                        | pool.router.view(uid)
                        for uid, pod in directory.renderers.items()
                        if pod.pool == name
                    },
                }
                for name, pool in directory.pools.items()
            },
        }

    def _scenes(self) -> list[dict[str, Any]]:
        """The scenes of the catalogue with their cameras; without one those that some pod holds."""
        if self._catalogue is not None:
            return [
                {"id": entry.id, "up": entry.up, "default_camera": entry.default_camera, "credit": entry.credit}
                for entry in self._catalogue.values()
            ]
        held = {scene for pool in self.directory.pools.values() for scene in pool.router.resident_scenes}
        return [{"id": scene} for scene in sorted(held)]

    async def _exposition(self, _request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _healthy(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, _request: Request) -> Response:
        """Ready with no pod at all: requests are held and counted."""
        return PlainTextResponse("ok\n")


class _Hot:
    """`POST /v1/render` as a bare ASGI app."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._metrics = gateway.metrics

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        arrived_s = time.monotonic()
        default_pool = self._gateway._settings.pools[0]
        try:
            body = await _read_body(receive)
            pool, request, answer = await self._gateway.render(body, arrived_s, receive)
        except ClientGone:
            self._metrics.responses.labels(default_pool, _CLIENT_GONE).inc()
            return
        except Refusal as refusal:
            self._metrics.responses.labels(refusal.pool or default_pool, refusal.status).inc()
            await _send(send, refusal.status, _refusal_headers(refusal), refusal.body())
            return
        stats = answer.reply.stats
        taken_s = time.monotonic() - arrived_s
        service_s = max(0.0, float(stats.get("service_s") or 0.0) - float(stats.get("load_s") or 0.0))
        wait_s = max(0.0, taken_s - service_s)
        self._metrics.responses.labels(pool, 200).inc()
        self._metrics.wait_s.labels(pool).observe(wait_s)
        self._metrics.frame_s.labels(pool).observe(taken_s)
        headers = [
            (b"content-type", CONTENT_TYPES[request.format]),
            (b"x-splatfleet-wait-seconds", b"%.6f" % wait_s),
            (b"x-splatfleet-service-seconds", b"%.6f" % service_s),
            (b"x-splatfleet-pod", answer.pod.encode("ascii", "replace")),
            (b"x-splatfleet-cache", str(stats.get("cache", "")).encode("ascii", "replace")),
            (b"x-splatfleet-cold", answer.cold.encode()),
            (b"x-splatfleet-stats", compact(stats)),
        ]
        image = answer.reply.image
        await _send(send, 200, headers, image if isinstance(image, bytes) else bytes(image.data))


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(413, "too_large", f"body is over {MAX_BODY_BYTES} bytes")
        if not message.get("more_body"):
            return bytes(body)


def _until_gone(receive: Receive) -> Callable[[], Awaitable[None]]:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    return gone


def _refusal_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", b"application/json")]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
    return headers


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            print(f"gateway listens on http://{host}:{port}", flush=True)


def serve(settings: GatewaySettings, listen: tuple[str, int]) -> None:
    """Serve until SIGTERM or SIGINT; raises OSError where the address is taken."""
    gateway = Gateway(settings)
    listener = socket.create_server(listen, backlog=1024)
    # asyncio sets it only where a socket names its protocol, as these do not; connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        gateway.app, log_level="warning", access_log=False, timeout_graceful_shutdown=5, timeout_keep_alive=75
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises what it caught once more after it has shut down
    asyncio.run(_Server(config).serve(sockets=[listener]))
