"""The process around the app: logs as JSON lines on stderr, one socket, an end on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec
import structlog
import uvicorn

from kube.tls import ReloadingContext, TlsFiles
from scheduler_extender.app import Extender, make_app
from scheduler_extender.cluster import Cluster
from scheduler_extender.connections import BACKLOG, QUEUE, Connections, bounded
from scheduler_extender.contest import Contest
from scheduler_extender.garbage import collect_when_idle
from scheduler_extender.journal import Journal, RecordedCluster
from scheduler_extender.kubernetes import ClusterWatch
from scheduler_extender.prices import Prices
from scheduler_extender.state import DigestPoller

HANDSHAKE_S = 3.0
SWITCH_S = 0.0001


@dataclass(frozen=True, slots=True)
class Settings:
    """How the extender runs; `urls` are the nodes' digests by node name."""

    urls: Mapping[str, str]
    prices: Prices
    poll_s: float = 5.0
    poll_timeout_s: float = 2.0
    reservation_s: float = 30.0
    max_body_bytes: int = 16 << 20
    tls: TlsFiles | None = None
    decisions: Path | None = None
    most_decisions_bytes: int = 1 << 30
    decisions_file_bytes: int = 64 << 20
    watch: ClusterWatch | None = None
    weight: int = 0


def make_extender(settings: Settings) -> Extender:
    """The extender on this process's monotonic clock; raises JournalError."""
    nodes = list(settings.urls)
    if settings.decisions is None:
        cluster = Cluster(nodes, settings.prices, settings.reservation_s)
    else:
        journal = Journal(settings.decisions, settings.most_decisions_bytes, settings.decisions_file_bytes)
        cluster = RecordedCluster(journal.write, nodes, settings.prices, settings.reservation_s)
    poller = DigestPoller(cluster, settings.urls, settings.poll_s, settings.poll_timeout_s, time.monotonic)
    contest = Contest(settings.weight, taints_known=settings.watch is not None)
    return Extender(cluster, poller, time.monotonic, settings.max_body_bytes, watch=settings.watch, contest=contest)


class Server(uvicorn.Server):
    """The extender's HTTP server: bounded connections, certificates that reload, collections while nobody calls."""

    def __init__(
        self, extender: Extender, tls: ReloadingContext | None = None, connections: Connections | None = None
    ) -> None:
        self.connections = connections or Connections()
        self._extender = extender
        self._tls = tls
        self._running: list[asyncio.Task[None]] = []
        super().__init__(
            uvicorn.Config(
                make_app(extender),
                http=bounded(self.connections),  # type: ignore[arg-type]  # a class, as the annotation cannot say
                log_level="warning",
                access_log=False,
                proxy_headers=False,  # nobody asks where a call came from
                timeout_keep_alive=75,  # connections of kube-scheduler stay open between bursts of pods
                timeout_graceful_shutdown=5,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            kind: Any = self.config.http_protocol_class
            made: asyncio.Protocol = kind(self.config, self.server_state, self.lifespan.state, _loop=loop)
            return made

        for listener in sockets or []:
            handshake_s = None if self._tls is None else HANDSHAKE_S
            server = await loop.create_server(
                protocol, sock=listener, ssl=self._tls, ssl_handshake_timeout=handshake_s, backlog=BACKLOG
            )
            self.servers.append(server)
            listener.listen(QUEUE)  # the queue may be longer than what is accepted in one go
        self._running.append(
            loop.create_task(collect_when_idle(self._extender.clock, lambda: self._extender.last_call_s))
        )
        if self._tls is not None:
            self._running.append(loop.create_task(self._tls.reload()))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._running:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await super().shutdown(sockets)


def listen_on(address: tuple[str, int]) -> socket.socket:
    """A listener whose connections send at once; raises OSError where the address is taken.

    asyncio sets TCP_NODELAY only on sockets that name their protocol, which those of create_server do not; without it
    a kept connection waits 40 ms between the head and the body of an answer.
    """
    listener = socket.create_server(address, backlog=QUEUE)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections that it accepts inherit it
    return listener


def log_lines_to(file: TextIO) -> None:
    """Write every log event to `file` as one line of JSON."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_line),
        ],
        logger_factory=structlog.WriteLoggerFactory(file),
        cache_logger_on_first_use=True,
    )


_encode = msgspec.json.Encoder(enc_hook=str).encode


def _line(event: Any, **_: Any) -> str:
    return _encode(event).decode()


def serve(settings: Settings, listen: tuple[str, int]) -> None:
    """Serve until SIGTERM or SIGINT; raises OSError where the address is taken, TlsError for bad certificates."""
    log_lines_to(sys.stderr)
    # Watches are read in threads; with Python's own 5 ms a call would wait that long for each of them.
    sys.setswitchinterval(SWITCH_S)
    tls = None if settings.tls is None else ReloadingContext.of(settings.tls)
    extender = make_extender(settings)
    if tls is not None:
        extender.metrics.certificate_until(lambda: tls.not_after_s)
    listener = listen_on(listen)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises what it caught once more after it has shut down
    asyncio.run(_serve(Server(extender, tls), listener, "http" if tls is None else "https"))


async def _serve(server: Server, listener: socket.socket, scheme: str) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        host, port = listener.getsockname()[:2]
        print(f"extender listens on {scheme}://{host}:{port}", flush=True)
    await serving
