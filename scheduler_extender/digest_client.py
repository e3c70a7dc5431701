"""One GET on a connection of its own: what a poll of a digest needs, at a third of a general client's processor time.

An exporter closes a kept connection after five idle seconds, which is when the next poll comes: keeping it saves
nothing and meets a closing socket now and then.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

MOST_HEAD_BYTES = 64 << 10


class ReplyError(ValueError):
    """An answer that is no HTTP, or larger than it may be."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, header fields by lower-case name, and the body whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def get(url: str, headers: Mapping[str, str], most_body_bytes: int) -> Reply:
    """The answer of `url` (http or https, asked directly, not through a proxy); raises OSError and ReplyError."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        parts.hostname,
        parts.port or (443 if secure else 80),
        ssl=_trusting() if secure else None,
        limit=MOST_HEAD_BYTES,
    )
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = {"Host": parts.netloc.rpartition("@")[2], "Connection": "close", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
        return await _read(reader, most_body_bytes)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise ReplyError(f"the answer is no HTTP, or ends too soon: {error}") from error
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, most_body_bytes: int) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, _, rest = head[0].partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"it begins with {head[0][:40]!r}")
    status = int(rest[:3])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    if status in (204, 304):
        return Reply(status, headers, b"")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Reply(status, headers, await _chunks(reader, most_body_bytes))
    announced = headers.get("content-length")
    if announced is not None:
        if int(announced) > most_body_bytes:
            raise ValueError(f"body is over {most_body_bytes} bytes")
        return Reply(status, headers, await reader.readexactly(int(announced)))
    body = bytearray()
    while chunk := await reader.read(MOST_HEAD_BYTES):
        _add(body, chunk, most_body_bytes)
    return Reply(status, headers, bytes(body))


async def _chunks(reader: asyncio.StreamReader, most_body_bytes: int) -> bytes:
    body = bytearray()
    while length := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        if length > most_body_bytes:
            raise ValueError(f"body is over {most_body_bytes} bytes")
        _add(body, (await reader.readexactly(length + 2))[:-2], most_body_bytes)
    return bytes(body)


def _add(body: bytearray, chunk: bytes, most_body_bytes: int) -> None:
    body += chunk
    if len(body) > most_body_bytes:
        raise ValueError(f"body is over {most_body_bytes} bytes")


@lru_cache(1)
def _trusting() -> ssl.SSLContext:
    return ssl.create_default_context()
