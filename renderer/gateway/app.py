"""The gateway: `POST /v1/render`, `WS /v1/stream`, `/viewer/SCENE`, `/v1/status`, `/metrics`, health."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from fleet.scene import SceneId
from kube.watch_metrics import WatchCollector
from renderer.audit import Audit
from renderer.catalogue import CatalogueEntry, load_catalogue
from renderer.gateway.access import Access
from renderer.gateway.hot import DENIED, RenderApp, refusal_headers
from renderer.gateway.metrics import UNKNOWN_SCENE, GatewayMetrics
from renderer.gateway.pods import POD_STATES, PodDirectory
from renderer.gateway.pool import Answer, Frame, Pool, unknown_scene
from renderer.gateway.routing import Limits, Router
from renderer.gateway.session import Pace
from renderer.gateway.sources import FileSource, RendererSource, WatchedPods, WatchSource
from renderer.gateway.split import Split
from renderer.gateway.stream import serve_stream
from renderer.gateway.tokens import ALL_SCENES, Caller
from renderer.gateway.viewer import Viewer
from renderer.gateway.wire import MAX_BODY_BYTES, FrameRequest, Refusal

LAST_FRAMES_S = 10  # for those that were handed to a pod when their wait was over


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What a gateway needs to know at its start."""

    renderers_file: Path | None = None
    watched: WatchedPods | None = None  # started; instead of the renderers file
    pools: tuple[str, ...] = ("renderer",)  # valid with no pod at all; the first takes requests that name none
    node_digests: Mapping[str, str] = field(default_factory=dict)  # URL by node
    catalogue: Path | None = None
    limits: Limits = field(default_factory=Limits)
    hold_s: float = 20.0
    deadline_s: float = 60.0  # for requests without one, and for the frames of a stream
    split: Mapping[str, float] = field(default_factory=dict)  # weight by pool, for requests that name none
    pace: Pace = field(default_factory=Pace)
    max_sessions: int = 4096
    viewer_max_side_px: int = 1920
    tokens_file: Path | None = None
    tokens: bytes | None = None  # the same document, out of the environment


class Gateway:
    """The ASGI app and what stands behind it."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Raises CatalogueError, TokensError and ValueError for settings that cannot be used, and OSError."""
        self.settings = settings
        self.access = Access(settings.tokens_file, settings.tokens)
        self.audit = Audit("gateway")
        self.sessions = 0
        self._numbers = itertools.count()
        self._split = Split(settings.split or {settings.pools[0]: 1.0})
        self._catalogue = load_catalogue(settings.catalogue).entries if settings.catalogue else None
        self._scene_bytes: dict[str, int] = {
            str(scene): entry.resident_bytes or 0 for scene, entry in (self._catalogue or {}).items()
        }
        self.metrics = GatewayMetrics()
        self.directory = PodDirectory(self._source(), self._digests, self._make_pool)
        for name in {**dict.fromkeys(settings.pools), **settings.split}:
            self.directory.pool(name)
        self.app = Starlette(
            routes=[
                Route("/v1/render", RenderApp(self), methods=["POST"]),
                WebSocketRoute("/v1/stream", self._stream),
                Route("/viewer/{scene}", Viewer(self).page),
                Route("/v1/status", self._status),
                Route("/metrics", self._exposition),
                Route("/-/healthy", self._healthy),
                Route("/-/ready", self._ready),
            ],
            exception_handlers={HTTPException: _no_such_thing},
            lifespan=self._lifespan,
        )

    def _source(self) -> RendererSource:
        watched = self.settings.watched
        if watched is not None:
            self.metrics.registry.register(WatchCollector(lambda: [watched.renderers.reflector]))
            return WatchSource(watched.renderers)
        if self.settings.renderers_file is None:
            raise ValueError("the gateway needs a renderers file or a pod watch to find its pods")
        return FileSource(self.settings.renderers_file)

    def _digests(self) -> Mapping[str, str]:
        watched = self.settings.watched
        return {**(watched.nodes.exporters() if watched is not None else {}), **self.settings.node_digests}

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        await self.directory.start()
        try:
            yield
        finally:
            await self.directory.close()

    def _make_pool(self, name: str, suspect: Callable[[str], None]) -> Pool:
        router = Router(self.settings.limits, self._scene_bytes)
        pool = Pool(name, router, self.settings.hold_s, suspect)
        self.metrics.pending.labels(name).set_function(lambda: pool.router.waiting)
        self.metrics.in_flight.labels(name).set_function(lambda: pool.router.in_flight)
        for state in POD_STATES:
            gauge = self.metrics.pods.labels(name, state)
            gauge.set_function(partial(self._count_pods, name, state))
        return pool

    def _count_pods(self, pool: str, state: str) -> float:
        return self.directory.counts(pool)[state]

    # The hot verb.

    @property
    def default_pool(self) -> str:
        return self.settings.pools[0]

    async def render(
        self, request: FrameRequest, caller: Caller, arrived_s: float, gone: Callable[[], Awaitable[None]]
    ) -> tuple[str, Answer]:
        """The pool that served a request, and the frame; raises Refusal and ClientGone."""
        caller.check_scene(request.scene)
        caller.check_rate(arrived_s)
        session = f"{caller.name}\0{request.session}" if request.session else ""
        pool = self.pool_of(request.pool, session)
        limit_s = request.deadline_ms / 1000.0 if request.deadline_ms else self.settings.deadline_s
        frame = Frame(request, arrived_s, arrived_s + limit_s, request.deadline_ms is not None, session=session)
        frame.gone = gone
        try:
            label = self.label_of(pool, request.scene)
            self.metrics.requests.labels(pool.name, label).inc()
            return pool.name, await pool.render(frame)
        except Refusal as refusal:
            refusal.pool = pool.name
            raise
        finally:
            if frame.cold != "none":
                self.metrics.cold_requests.labels(pool.name, frame.cold).inc()

    def pool_of(self, name: str | None, key: str) -> Pool:
        """The pool that a request names, else the one that the split gives its key; raises Refusal 400."""
        name = name or self._split.pool(key or f"request-{next(self._numbers)}")
        pool = self.directory.pools.get(name)
        if pool is None:
            known = ", ".join(sorted(self.directory.pools))
            raise Refusal(400, "bad_request", f"pool is {name[:80]!r}, expected one of: {known}")
        return pool

    def label_of(self, pool: Pool, scene: str) -> str:
        """The scene as a label value; one that is unknown is counted here, and raises Refusal 404.

        Without a catalogue every id is worth asking a pod for, but for those that a pod just did not know.
        """
        known = scene in self._catalogue if self._catalogue is not None else not pool.is_unknown(scene)
        if known:
            return self.metrics.scene_label(scene)
        self.metrics.requests.labels(pool.name, UNKNOWN_SCENE).inc()
        raise unknown_scene(scene)

    def check_known(self, scene: str) -> None:
        """Raise Refusal 404 for a scene that is not in the catalogue, where there is one."""
        if self._catalogue is not None and scene not in self._catalogue:
            raise unknown_scene(scene)

    def entry(self, scene: str) -> CatalogueEntry | None:
        """What the catalogue says of a scene."""
        return self._catalogue.get(SceneId(scene)) if self._catalogue is not None else None

    async def _stream(self, socket: WebSocket) -> None:
        await serve_stream(self, socket)

    # For people and probes.

    async def _status(self, request: Request) -> Response:
        try:
            self.access.caller(request.headers, time.monotonic()).check_scene(ALL_SCENES)
        except Refusal as refusal:
            if refusal.status in DENIED:
                self.audit.denied("status", request.scope, why=refusal.code)
            headers = {name.decode(): value.decode() for name, value in refusal_headers(refusal)}
            return Response(refusal.body(), refusal.status, headers)
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
        """Ready with no pod at all: requests are held and counted. Not before it is known which pods there are."""
        watched = self.settings.watched
        if watched is not None and not watched.renderers.synced:
            return PlainTextResponse(watched.renderers.problem + "\n", 503)
        return PlainTextResponse("ok\n")


async def _no_such_thing(request: Request, error: Exception) -> Response:
    """A path or a method that is none here, in the words of every other refusal."""
    assert isinstance(error, HTTPException)
    wrong_method = error.status_code == 405
    allowed = (error.headers or {}).get("Allow", "")
    message = f"{request.url.path[:120]} takes {allowed}" if wrong_method else f"no {request.url.path[:120]} here"
    refusal = Refusal(error.status_code, "wrong_method" if wrong_method else "no_such_path", message)
    return Response(refusal.body(), refusal.status, dict(error.headers or {}), media_type="application/json")


def server_config(gateway: Gateway, timeout_graceful_shutdown: int) -> uvicorn.Config:
    """How the app is served: no access log, cameras of bounded size, pictures not deflated once more."""
    return uvicorn.Config(
        gateway.app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=timeout_graceful_shutdown,
        timeout_keep_alive=75,
        ws_max_size=MAX_BODY_BYTES,
        ws_per_message_deflate=False,
    )


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
    # What waits for a pod is served first, as long as it may wait; a second signal ends it at once.
    config = server_config(gateway, timeout_graceful_shutdown=math.ceil(settings.hold_s) + LAST_FRAMES_S)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises what it caught once more after it has shut down
    asyncio.run(_Server(config).serve(sockets=[listener]))
