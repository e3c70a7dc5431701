"""A node's scene store over HTTP: scenes asked for ahead of need, evicted, listed, and served to other nodes.

`PUT /v1/scenes/{id}` `{"deadline_s", "priority"?}` (seconds from now) answers 202 with the state of the ask, however
often it is put; `DELETE` 204, or 409 while a reader holds it; `GET /v1/scenes` what lies here and what is asked for;
`GET /v1/objects/{sha256}[/{file}]` the bytes. All of these want `Authorization: Bearer`; metrics and health do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fleet.scene import SCENES_PATH, SceneIdError, parse_scene_id
from kube.tls import ClientTls, ReloadingContext, TlsFiles
from renderer.agent_metrics import AgentMetrics
from renderer.agent_objects import object_file, serve_file
from renderer.agent_work import AgentWork
from renderer.audit import Audit
from renderer.catalogue import LiveCatalogue, UnknownScene
from renderer.credentials import BearerTokens, CredentialError
from renderer.peers import OBJECTS_PATH, Peers
from renderer.preload import Preload
from renderer.scene_roots import ANYWHERE, SceneRoots
from renderer.scene_store import SceneStore

log = structlog.get_logger()

_MAX_BODY_BYTES = 4096
_ACTS = {"ask": "warm", "drop": "evict"}  # what an auditor calls them
_LONGEST_DEADLINE_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What an agent is started with."""

    node: str
    store: Path
    capacity_bytes: int
    catalogue: Path
    tokens: BearerTokens
    peers: tuple[str, ...] = ()  # URLs of other nodes' agents, nearest first
    fetch_bytes_per_s: float | None = None
    slots: int = 2
    fetch_timeout_s: float = 600.0
    roots: SceneRoots = ANYWHERE
    tls: TlsFiles | None = None
    peer_tls: ClientTls | None = None
    gateways: tuple[str, ...] = ()  # whose counters say what is popular; none: nothing is preloaded
    preload_share: float = 0.5
    preload_every_s: float = 10.0


class AskBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of PUT /v1/scenes/{id}."""

    deadline_s: float
    priority: int = 0


class SceneAgent:
    """The application; `close` stops its fetches. Raises CatalogueError, CredentialError and OSError."""

    def __init__(self, settings: AgentSettings) -> None:
        settings.tokens.all()
        self._settings = settings
        self.metrics = AgentMetrics()
        self._audit = Audit("scene-agent")
        remote, peer = (self.metrics.fetched_bytes.labels(source) for source in ("remote", "peer"))
        self._store = SceneStore(
            settings.store,
            settings.capacity_bytes,
            settings.fetch_bytes_per_s,
            remote.inc,
            peers=Peers(settings.peers, settings.tokens, peer.inc, settings.peer_tls) if settings.peers else None,
            roots=settings.roots,
            on_quarantined=self.metrics.quarantined.inc,
        )
        self._catalogue = LiveCatalogue(settings.catalogue)
        self._work = AgentWork(self._store, self._catalogue, self.metrics, settings.slots, settings.fetch_timeout_s)
        self._checked: set[str] = set()  # objects that were looked at since the start: their first reader is a peer
        self._checker = ThreadPoolExecutor(1, "check", _step_back)
        self._preload: Preload | None = None
        if settings.gateways:
            self._preload = Preload(self._work, self._store, self._catalogue, settings.gateways, settings.preload_share)
            self._preload.start(settings.preload_every_s)
        self.app = Starlette(
            routes=[
                Route(SCENES_PATH, self._guarded("list", self._list), methods=["GET"]),
                Route(SCENES_PATH + "/{scene}", self._guarded("ask", self._ask), methods=["PUT"]),
                Route(SCENES_PATH + "/{scene}", self._guarded("drop", self._drop), methods=["DELETE"]),
                Route(OBJECTS_PATH + "/{digest}", self._guarded("object", self._object), methods=["GET"]),
                Route(OBJECTS_PATH + "/{digest}/{name}", self._guarded("object", self._object), methods=["GET"]),
                Route("/metrics", self._metrics),
                Route("/-/healthy", self._healthy),
                Route("/-/ready", self._healthy),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        if self._preload is not None:
            await asyncio.to_thread(self._preload.close)
        await asyncio.to_thread(self._work.close)
        self._checker.shutdown(wait=True, cancel_futures=True)

    def _guarded(
        self, verb: str, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Only with a token that is taken; every answer is counted."""

        async def guarded(request: Request) -> Response:
            try:
                if self._settings.tokens.allow(request.headers.get("authorization")):
                    response = await answer(request)
                    if verb in _ACTS:
                        scene, code = request.path_params["scene"], response.status_code
                        self._audit.did(_ACTS[verb], request.scope, scene=scene, code=code)
                else:
                    self._audit.denied(_ACTS.get(verb, verb), request.scope, path=request.url.path)
                    response = _refusal(401, "expected Authorization: Bearer with a token of this agent")
                    response.headers["www-authenticate"] = "Bearer"
            except CredentialError as error:
                response = _refusal(503, str(error))
            self.metrics.requests.labels(verb, str(response.status_code)).inc()
            return response

        return guarded

    async def _ask(self, request: Request) -> Response:
        body = await _body(request)
        try:
            wanted = msgspec.json.decode(body, type=AskBody)
        except msgspec.MsgspecError as error:
            return _refusal(400, f'{error}; expected {{"deadline_s": 60, "priority": 0}}')
        if not 0 <= wanted.deadline_s <= _LONGEST_DEADLINE_S or not -100 <= wanted.priority <= 100:
            return _refusal(
                400, f"deadline_s is 0 to {_LONGEST_DEADLINE_S:.0f} (seconds from now), priority -100 to 100"
            )
        try:
            state = await asyncio.to_thread(
                self._work.ask, request.path_params["scene"], wanted.priority, wanted.deadline_s
            )
        except SceneIdError as error:
            return _refusal(400, str(error))
        except UnknownScene as error:
            return _refusal(404, f"{error}{'; ' + self._catalogue.fault if self._catalogue.fault else ''}")
        return _json(dataclasses.asdict(state), 202)

    async def _drop(self, request: Request) -> Response:
        try:
            scene = parse_scene_id(request.path_params["scene"])
        except SceneIdError as error:
            return _refusal(400, str(error))
        if await asyncio.to_thread(self._work.drop, scene):
            return Response(status_code=204)
        return _refusal(409, f"scene {scene} is being read; ask again later")

    async def _list(self, _request: Request) -> Response:
        return _json(await asyncio.to_thread(self._listing))

    def _listing(self) -> dict[str, object]:
        return {
            "node": self._settings.node,
            "capacity_bytes": self._settings.capacity_bytes,
            "used_bytes": self._store.used_bytes(),
            "scenes": [dataclasses.asdict(record) for record in self._store.records()],
            "asks": [dataclasses.asdict(state) for state in self._work.states()],
        }

    async def _object(self, request: Request) -> Response:
        digest, name = request.path_params["digest"], request.path_params.get("name", "")
        path = object_file(self._store.layout, digest, name)
        if path is None:
            return _refusal(404, "no such object on this node")
        if digest not in self._checked:
            # Behind the answer: the peer checks what it gets anyway, and must not wait for ours.
            self._checked.add(digest)
            self._checker.submit(self._check, digest)
        return serve_file(request, path, f"{digest}/{name}" if name else digest, self.metrics.served_bytes.inc)

    def _check(self, digest: str) -> None:
        try:
            if not self._store.check(digest):
                self._checked.discard(digest)
                log.warning("object put aside or gone", digest=digest)
        except OSError as error:
            log.warning("object not checked", digest=digest, reason=str(error))

    async def _metrics(self, _request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _healthy(self, _request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")


def _step_back() -> None:
    """This thread takes the time that nobody else wants: Linux keeps a niceness a thread."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


async def _body(request: Request) -> bytes:
    """The body of a request up to what a sound one has."""
    got = b""
    async for chunk in request.stream():
        got += chunk
        if len(got) > _MAX_BODY_BYTES:
            break
    return got[:_MAX_BODY_BYTES]


def _json(document: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")


def _refusal(status: int, reason: str) -> Response:
    return _json({"error": reason}, status)


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    announcement = ""
    tls: ReloadingContext | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.ssl = self.tls
        await super().startup(sockets)
        if self.tls is not None:
            self._reloading = asyncio.create_task(self.tls.reload())
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            scheme = "http" if self.tls is None else "https"
            print(f"{self.announcement} listens on {scheme}://{host}:{port}", flush=True)


def serve(settings: AgentSettings, listen: tuple[str, int]) -> None:
    """Serve until SIGTERM or SIGINT. Raises OSError, CatalogueError, CredentialError and TlsError."""
    tls = None if settings.tls is None else ReloadingContext.of(settings.tls)
    listener = socket.create_server(listen, backlog=256)
    # asyncio sets it only on sockets that name their protocol: without it a short answer waits 40 ms for its body.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    agent = SceneAgent(settings)
    config = uvicorn.Config(agent.app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
    server = _Server(config)
    server.tls = tls
    server.announcement = f"scene agent of node {settings.node}"
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises what it caught once more after it has shut down
    asyncio.run(server.serve(sockets=[listener]))
