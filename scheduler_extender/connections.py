"""Connections that cannot be used up: a request must arrive in time, and beyond a number the idlest is closed.

uvicorn bounds neither: a connection that never says a word, or half a head, stays as long as its sender likes.
"""

from __future__ import annotations

import asyncio
import resource
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 256  # connections that are accepted in one go
QUEUE = 4096  # connections that wait to be accepted; the system may allow fewer
KEPT_FOR_OTHERS = BACKLOG + 128  # descriptors: those just accepted, digest polls, logs


def most_connections(at_most: int = 4096) -> int:
    """How many connections may stay open, by the descriptors that this process may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return at_most
    return max(64, min(at_most, limit - KEPT_FOR_OTHERS))


@dataclass(slots=True)
class Connections:
    """Open connections by what they do; one that never asked anything goes before one that did."""

    most: int = field(default_factory=most_connections)
    receipt_s: float = 2.0  # from the first byte of a head, or from the connection, to the whole head
    silent: OrderedDict[BoundedProtocol, None] = field(default_factory=OrderedDict)  # oldest first
    idle: OrderedDict[BoundedProtocol, None] = field(default_factory=OrderedDict)  # idle for longest first
    busy: set[BoundedProtocol] = field(default_factory=set)
    closed: int = 0  # to make room, or because nothing came

    def opened(self, connection: BoundedProtocol) -> None:
        self.silent[connection] = None
        if len(self.silent) + len(self.idle) + len(self.busy) > self.most:
            victim = next(iter(self.silent if len(self.silent) > 1 or not self.idle else self.idle))
            self.cut(victim)

    def now_busy(self, connection: BoundedProtocol) -> None:
        self.silent.pop(connection, None)
        self.idle.pop(connection, None)
        self.busy.add(connection)

    def now_idle(self, connection: BoundedProtocol) -> None:
        self.busy.discard(connection)
        self.idle[connection] = None

    def gone(self, connection: BoundedProtocol) -> None:
        self.silent.pop(connection, None)
        self.idle.pop(connection, None)
        self.busy.discard(connection)

    def cut(self, connection: BoundedProtocol) -> None:
        """Close a connection without a word."""
        self.gone(connection)
        self.closed += 1
        connection.transport.abort()


class OneWrite:
    """A transport that sends head and body of an answer at once.

    Each send lets another thread in (those of the watches among them), and the next one waits until it is let in again.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Sent with `flush`, or else when the callback that runs now is through."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Send now what was written."""
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a deadline for the head of each request."""

    open_connections: Connections  # set by `bounded`

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = OneWrite(transport, self.loop)
        super().connection_made(self._transport)  # type: ignore[arg-type]  # all that uvicorn asks of it
        self.open_connections.opened(self)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()  # the head is there; the body has a deadline of its own
            self.open_connections.now_busy(self)
        else:
            self._arm()

    def on_response_complete(self) -> None:
        self._transport.flush()  # before whatever was put off until after the answer
        self.open_connections.now_idle(self)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.open_connections.gone(self)
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.open_connections.receipt_s, self._late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        self.open_connections.cut(self)


def bounded(connections: Connections) -> Callable[..., asyncio.Protocol]:
    """The protocol class of one server, whose connections are counted in `connections`."""
    return type("Bounded", (BoundedProtocol,), {"open_connections": connections})
