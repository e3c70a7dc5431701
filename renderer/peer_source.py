"""An object at another node's agent: ranges over kept connections, a thread each while one is read.

obstore takes neither a client certificate nor a private CA, and here the bytes go from the socket to the disk with one
copy on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from kube.tls import ClientTls
from renderer.scene_source import (
    LARGEST_META_BYTES,
    META_FILE,
    SINGLE_FILE,
    Buffer,
    Part,
    SourceError,
    TryAgain,
    files_in_meta,
    pause_after,
)

_CONNECT_TIMEOUT_S = 0.5
_READ_TIMEOUT_S = 2.0
_CHUNK_BYTES = 2 << 20


class PeerSource:
    """The files of one object at an agent, listed when made; raises SourceError. It is asked once, never patiently."""

    def __init__(self, uri: str, headers: Mapping[str, str], tls: ClientTls | None) -> None:
        self.uri = uri
        self.is_folder = uri.endswith("/")
        parts = urlsplit(uri)
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path
        self._headers = dict(headers)
        self._tls = (tls or ClientTls()).context() if parts.scheme == "https" else None
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        try:
            names = [META_FILE, *files_in_meta(self._meta())] if self.is_folder else [SINGLE_FILE]
        except ValueError as error:
            raise SourceError(f"{uri}: {META_FILE}: {error}") from error
        self.parts = tuple(self._part(name) for name in names)

    @property
    def total_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    async def read(self, part: Part, span: tuple[int, int] | None, _chunk_bytes: int) -> AsyncIterator[Buffer]:
        """Bytes `start` to `end` of a part; each piece is good until the next is asked for. Raises SourceError."""
        start, end = span or (0, part.size_bytes)
        connection, answer = await asyncio.to_thread(self._ask, "GET", part.key, f"bytes={start}-{end - 1}")
        try:
            if answer.status not in (200, 206) or (answer.status == 200 and (start, end) != (0, part.size_bytes)):
                raise SourceError(f"{self.uri}: {answer.status} {answer.reason}")
            if answer.getheader("etag", "") != part.version:
                raise SourceError(f"{self.uri}: {part.name} changed while it was fetched")
            buffer = bytearray(_CHUNK_BYTES)
            while start < end:
                view = memoryview(buffer)[: min(_CHUNK_BYTES, end - start)]
                count = await asyncio.to_thread(self._read_into, answer, view)
                if count == 0:
                    raise SourceError(f"{self.uri}: the peer stopped {end - start} bytes before the end")
                start += count
                yield view[:count]
            with contextlib.suppress(OSError, http.client.HTTPException):
                if not answer.read(1):  # tells the connection that the answer is over
                    self._keep(connection)
                    return
        except asyncio.CancelledError:
            with contextlib.suppress(OSError, AttributeError):  # wakes the thread that reads
                connection.sock.shutdown(socket.SHUT_RDWR)
            raise
        connection.close()

    def pause_s(self, _part: Part, failures: int, _error: TryAgain) -> float:
        """As long as after any other fault; a peer is rarely asked twice."""
        return pause_after(failures)

    def close(self) -> None:
        """End the connections that are kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _read_into(self, answer: http.client.HTTPResponse, view: memoryview) -> int:
        try:
            return answer.readinto(view)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceError(f"{self.uri}: {error or type(error).__name__}") from None

    def _ask(self, verb: str, path: str, span: str = "") -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Over a kept connection, or over a new one where that had been closed meanwhile."""
        headers = {**self._headers, "range": span} if span else self._headers
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        for connection in filter(None, (kept, self._new())):
            try:
                if connection is not kept:
                    connection.connect()
                    wire: socket.socket = connection.sock
                    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    wire.settimeout(_READ_TIMEOUT_S)
                connection.request(verb, path, headers=headers)
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if connection is not kept:
                    raise SourceError(f"{self.uri}: {error or type(error).__name__}") from None
        raise AssertionError("a new connection was tried last")

    def _new(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=_CONNECT_TIMEOUT_S)
        return http.client.HTTPSConnection(self._host, self._port, timeout=_CONNECT_TIMEOUT_S, context=self._tls)

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.append(connection)

    def _part(self, name: str) -> Part:
        path = self._path + quote(name) if self.is_folder else self._path
        connection, answer = self._ask("HEAD", path)
        answer.read()
        self._keep(connection)
        length: Any = answer.getheader("content-length", "")
        if answer.status != 200 or not length.isdecimal():
            raise SourceError(f"{self.uri}: {answer.status} {answer.reason}")
        return Part(name, path, int(length), answer.getheader("etag", ""))

    def _meta(self) -> bytes:
        connection, answer = self._ask("GET", self._path + META_FILE)
        with contextlib.closing(connection):
            if answer.status != 200:
                raise SourceError(f"{self.uri}: {answer.status} {answer.reason}")
            raw = answer.read(LARGEST_META_BYTES + 1)
        if len(raw) > LARGEST_META_BYTES:
            raise ValueError(f"has more than {LARGEST_META_BYTES} bytes")
        return raw
