"""GETs on connections that stay open: what polls of digests need, and no more, since there are hundreds a second.

One connection is kept for each URL, as far as the descriptors of this process allow, and made again where the other
end closed it meanwhile. Nearly every answer is a 304, which is read here; h11 reads the others.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import h11

from scheduler_extender.connections import KEPT_FOR_OTHERS, most_connections

MOST_HEAD_BYTES = 64 << 10
MOST_KEPT = 8192
_END = b"\r\n\r\n"


class ReplyError(ValueError):
    """An answer that is no HTTP, or larger than it may be."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, header fields by lower-case name, and the body whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class DigestClient:
    """Asks http and https URLs directly, not through a proxy; beyond `most_kept` each question has a connection."""

    def __init__(self, most_kept: int | None = None) -> None:
        self._kept: dict[str, _Connection] = {}
        self._most_kept = _descriptors_left() if most_kept is None else most_kept

    async def get(self, url: str, headers: Mapping[str, str], most_body_bytes: int) -> Reply:
        """The answer of `url`; raises OSError and ReplyError."""
        kept = self._kept.pop(url, None)
        if kept is not None:
            try:
                return await self._ask(kept, url, headers, most_body_bytes)
            except (OSError, ReplyError):
                pass  # closed by the other end since, or as good as that: asked anew, which a GET allows
        return await self._ask(await _connect(url), url, headers, most_body_bytes)

    def forget(self, url: str) -> None:
        """Close the connection to a URL that will not be asked again."""
        kept = self._kept.pop(url, None)
        if kept is not None:
            kept.close()

    def close(self) -> None:
        """Close what is kept."""
        for url in list(self._kept):
            self.forget(url)

    async def _ask(self, at: _Connection, url: str, headers: Mapping[str, str], most_body_bytes: int) -> Reply:
        keep = False
        try:
            reply = await at.ask(headers, most_body_bytes)
            keep = at.reusable and url not in self._kept and len(self._kept) < self._most_kept
            return reply
        finally:
            if keep:
                self._kept[url] = at
            else:
                at.close()


class _Connection(asyncio.Protocol):
    """One connection to the host of a URL, which is asked one question at a time."""

    _transport: asyncio.Transport

    def __init__(self, url: str) -> None:
        self.reusable = False  # whether it bears another question after the last one
        self._url = url
        self._headers: Mapping[str, str] | None = None
        self._question = b""  # with `_headers`, which change once in many
        self._most_body_bytes = 0
        self._answer: asyncio.Future[Reply] | None = None
        self._reading: _Reading | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, headers: Mapping[str, str], most_body_bytes: int) -> Reply:
        if self._transport.is_closing():
            raise ConnectionResetError("the other end hung up")
        if headers != self._headers:
            self._headers, self._question = headers, _question(self._url, headers)
        self.reusable, self._most_body_bytes = False, most_body_bytes
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(self._question)
        return await self._answer

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self._transport.abort()  # nobody asked
            return
        unchanged = _unchanged(data) if self._reading is None else None
        if unchanged is not None:
            self.reusable = unchanged.headers.get("connection", "").lower() != "close"
            self._answer.set_result(unchanged)
        else:
            self._read(self._answer, data)

    def eof_received(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._read(self._answer, b"")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the other end hung up"))

    def _read(self, answer: asyncio.Future[Reply], data: bytes) -> None:
        self._reading = self._reading or _Reading(self._most_body_bytes)
        try:
            reply = self._reading.feed(data)
        except (h11.RemoteProtocolError, ReplyError) as error:
            answer.set_exception(ReplyError(f"the answer is no HTTP, or ends too soon: {error}"))
            return
        if reply is not None:
            self.reusable, self._reading = self._reading.reusable, None
            answer.set_result(reply)


class _Reading:
    """An answer as h11 reads it."""

    def __init__(self, most_body_bytes: int) -> None:
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)
        # Another GET than was sent: how an answer is read follows from the verb alone.
        self._parser.send(h11.Request(method="GET", target="/", headers=[("Host", "any")]))
        self._parser.send(h11.EndOfMessage())
        self._most_body_bytes = most_body_bytes
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def feed(self, data: bytes) -> Reply | None:
        """The answer once it is whole; no data is its end. Raises ReplyError and h11's RemoteProtocolError."""
        self._parser.receive_data(data)
        while (event := self._parser.next_event()) is not h11.NEED_DATA:
            match event:
                case h11.Response():
                    self._status = event.status_code
                    self._headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in event.headers}
                    if self._status not in (204, 304):
                        self._bounded(int(self._headers.get("content-length", "0")))
                case h11.Data():
                    self._bounded(len(self._body) + len(event.data))
                    self._body += event.data
                case h11.EndOfMessage():
                    return Reply(self._status, self._headers, bytes(self._body))
                case h11.ConnectionClosed():
                    raise ReplyError("the connection was closed")
        return None

    @property
    def reusable(self) -> bool:
        return self._parser.their_state is h11.DONE and not self._parser.trailing_data[0]

    def _bounded(self, body_bytes: int) -> None:
        if body_bytes > self._most_body_bytes:
            raise ReplyError(f"body is over {self._most_body_bytes} bytes")


def _question(url: str, headers: Mapping[str, str]) -> bytes:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {"Host": parts.netloc.rpartition("@")[2], **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def _unchanged(data: bytes) -> Reply | None:
    """A 304 that came in one piece and alone, as nearly all do; None for whatever else it is."""
    if not data.startswith(b"HTTP/1.1 304 ") or data.find(_END) != len(data) - len(_END):
        return None
    lines = data[: -len(_END)].decode("latin-1").split("\r\n")[1:]
    fields = (line.partition(":") for line in lines)
    return Reply(304, {name.strip().lower(): text.strip() for name, _, text in fields}, b"")


async def _connect(url: str) -> _Connection:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = _trusting() if secure else None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: _Connection(url), parts.hostname or "", port, ssl=context)
    return connection


def _descriptors_left() -> int:
    """What the connections of those who call us leave of the descriptors that this process may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    left = MOST_KEPT if limit == resource.RLIM_INFINITY else limit - KEPT_FOR_OTHERS - most_connections()
    return max(0, min(MOST_KEPT, left))


@lru_cache(1)
def _trusting() -> ssl.SSLContext:
    return ssl.create_default_context()
