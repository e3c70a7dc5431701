"""The exporter over HTTP: /metrics, the node digest with its ETag, health."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exporter.collector import NodeCollector
from exporter.exposition import Exposition
from exporter.sources import Sources
from fleet.digest import DIGEST_PATH, NodeDigest, etag

_LANDING = b'<html><head><title>Splatfleet exporter</title></head><body><a href="metrics">metrics</a></body></html>'


class DigestText:
    """The digest as JSON, encoded once per generation."""

    def __init__(self) -> None:
        self._digest: NodeDigest | None = None
        self._text = b""

    def of(self, digest: NodeDigest) -> bytes:
        if digest is not self._digest:
            self._digest, self._text = digest, msgspec.json.encode(digest)
        return self._text


def none_match(header: str | None, tag: str) -> bool:
    """Whether If-None-Match names `tag` (weak comparison, RFC 9110 13.1.2), so that the answer is 304."""
    if header is None:
        return False
    tags = [item.strip().removeprefix("W/") for item in header.split(",")]
    return tags == ["*"] or tag in tags


def build_app(sources: Sources) -> Starlette:
    """The ASGI application; it scrapes once as it starts, so that it is ready with a digest."""
    collector = NodeCollector(sources, started_at_s=time.time())
    exposition = Exposition()
    digest_text = DigestText()

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await collector.collect()
        yield
        await collector.close()

    async def metrics(request: Request) -> Response:
        reading = await collector.collect()
        body, content_type = exposition.render(reading, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def node(request: Request) -> Response:
        digest = (await collector.collect()).digest
        headers = {"etag": etag(digest), "cache-control": "no-cache"}
        if none_match(request.headers.get("if-none-match"), headers["etag"]):
            return Response(status_code=304, headers=headers)
        return Response(digest_text.of(digest), media_type="application/json", headers=headers)

    def text(body: bytes, media_type: str = "text/plain") -> Callable[[Request], Awaitable[Response]]:
        async def answer(_request: Request) -> Response:
            return Response(body, media_type=media_type)

        return answer

    return Starlette(
        routes=[
            Route("/", text(_LANDING, "text/html")),
            Route("/metrics", metrics),
            Route(DIGEST_PATH, node),
            Route("/-/healthy", text(b"healthy\n")),
            Route("/-/ready", text(b"ready\n")),
        ],
        lifespan=lifespan,
    )


class _Server(uvicorn.Server):
    """uvicorn that says when it listens, and whose end by signal is an ordinary one (exit 0)."""

    announcement = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        print(self.announcement, flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        caught = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in caught}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)


def serve(sources: Sources, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; port 0 takes a free one, which the line on stdout names. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        config = uvicorn.Config(
            build_app(sources),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=3,
            timeout_keep_alive=75,  # extenders and Prometheus come back every few seconds
            ws="none",
        )
        server = _Server(config)
        server.announcement = f"exporter of node {sources.node} on http://{shown}:{listener.getsockname()[1]}/metrics"
        server.run(sockets=[listener])
