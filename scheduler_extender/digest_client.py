"""GETs on connections that stay open: what polls of digests need, and no more, since there are hundreds a second.

One connection is kept for each URL, as far as the descriptors of this process allow, and made again where the other
end closed it meanwhile.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from scheduler_extender.connections import KEPT_FOR_OTHERS, most_connections

MOST_HEAD_BYTES = 64 << 10
MOST_KEPT = 8192


class ReplyError(ValueError):
    """An answer that is no HTTP, or larger than it may be."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, header fields by lower-case name, and the body whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Open:
    """A connection on which nothing is under way."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class DigestClient:
    """Asks http and https URLs directly, not through a proxy; beyond `most_kept` each question has a connection."""

    def __init__(self, most_kept: int | None = None) -> None:
        self._kept: dict[str, _Open] = {}
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
            kept.writer.close()

    def close(self) -> None:
        """Close what is kept."""
        for url in list(self._kept):
            self.forget(url)

    async def _ask(self, at: _Open, url: str, headers: Mapping[str, str], most_body_bytes: int) -> Reply:
        keep = False
        try:
            parts = urlsplit(url)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            fields = {"Host": parts.netloc.rpartition("@")[2], **headers}
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            at.writer.write(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
            reply, more = await _read(at.reader, most_body_bytes)
            keep = more and url not in self._kept and len(self._kept) < self._most_kept
            return reply
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise ReplyError(f"the answer is no HTTP, or ends too soon: {error}") from error
        finally:
            if keep:
                self._kept[url] = at
            else:
                at.writer.close()


async def _connect(url: str) -> _Open:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = _trusting() if secure else None
    return _Open(*await asyncio.open_connection(parts.hostname, port, ssl=context, limit=MOST_HEAD_BYTES))


def _descriptors_left() -> int:
    """What the connections of those who call us leave of the descriptors that this process may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    left = MOST_KEPT if limit == resource.RLIM_INFINITY else limit - KEPT_FOR_OTHERS - most_connections()
    return max(0, min(MOST_KEPT, left))


async def _read(reader: asyncio.StreamReader, most_body_bytes: int) -> tuple[Reply, bool]:
    """The answer, and whether the connection bears another question."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, _, rest = head[0].partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"it begins with {head[0][:40]!r}")
    status = int(rest[:3])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    more = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    if status in (204, 304):
        return Reply(status, headers, b""), more
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Reply(status, headers, await _chunks(reader, most_body_bytes)), more
    announced = headers.get("content-length")
    if announced is not None:
        if int(announced) > most_body_bytes:
            raise ValueError(f"body is over {most_body_bytes} bytes")
        return Reply(status, headers, await reader.readexactly(int(announced))), more
    body = bytearray()
    while chunk := await reader.read(MOST_HEAD_BYTES):
        _add(body, chunk, most_body_bytes)
    return Reply(status, headers, bytes(body)), False


async def _chunks(reader: asyncio.StreamReader, most_body_bytes: int) -> bytes:
    body = bytearray()
    while length := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        if length > most_body_bytes:
            raise ValueError(f"body is over {most_body_bytes} bytes")
        _add(body, (await reader.readexactly(length + 2))[:-2], most_body_bytes)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return bytes(body)


def _add(body: bytearray, chunk: bytes, most_body_bytes: int) -> None:
    body += chunk
    if len(body) > most_body_bytes:
        raise ValueError(f"body is over {most_body_bytes} bytes")


@lru_cache(1)
def _trusting() -> ssl.SSLContext:
    return ssl.create_default_context()
