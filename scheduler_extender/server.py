"""The process around the app: logs as JSON lines on stderr, one socket, an end on SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
import uvicorn

from scheduler_extender.app import Extender, make_app
from scheduler_extender.cluster import Cluster
from scheduler_extender.placement import Prices
from scheduler_extender.state import DigestPoller


@dataclass(frozen=True, slots=True)
class Settings:
    """How the extender runs; `urls` are the nodes' digests by node name."""

    urls: Mapping[str, str]
    prices: Prices
    poll_s: float = 5.0
    poll_timeout_s: float = 2.0
    reservation_s: float = 30.0
    max_body_bytes: int = 16 << 20


def make_extender(settings: Settings) -> Extender:
    """The extender on this process's monotonic clock."""
    cluster = Cluster(list(settings.urls), settings.prices, settings.reservation_s)
    poller = DigestPoller(cluster, settings.urls, settings.poll_s, settings.poll_timeout_s, time.monotonic)
    return Extender(cluster, poller, time.monotonic, settings.max_body_bytes)


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            print(f"extender listens on http://{host}:{port}", flush=True)


def listen_on(address: tuple[str, int]) -> socket.socket:
    """A listener whose connections send at once; raises OSError where the address is taken.

    asyncio sets TCP_NODELAY only on sockets that name their protocol, which those of create_server do not; without it
    a kept connection waits 40 ms between the head and the body of an answer.
    """
    listener = socket.create_server(address, backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections that it accepts inherit it
    return listener


def serve(settings: Settings, listen: tuple[str, int]) -> None:
    """Serve until SIGTERM or SIGINT; raises OSError where the address is taken."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    listener = listen_on(listen)
    # Connections of kube-scheduler stay open between bursts of pods.
    config = uvicorn.Config(
        make_app(make_extender(settings)),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises what it caught once more after it has shut down
    gc.freeze()  # what is loaded by now stays: collections look at the calls' garbage alone
    asyncio.run(_Server(config).serve(sockets=[listener]))
