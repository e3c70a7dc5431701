"""Objects of a node's store to other nodes, in ranges: open files, so that an eviction meanwhile harms no reader."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fleet.scene import StoreLayout, parse_digest
from renderer.scene_source import PLAIN_NAME

_CHUNK_BYTES = 256 << 10  # about what a socket takes at once: the rest would be copied until it does
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


def object_file(layout: StoreLayout, digest: str, name: str) -> Path | None:
    """The file of a visible object (`name` for one of a folder); None where there is none."""
    try:
        source = layout.object_dir(parse_digest(digest)) / "source"
    except ValueError:
        return None
    if name and PLAIN_NAME.fullmatch(name) is None:
        return None
    path = source / name if name else source
    return path if path.is_file() and not path.is_symlink() else None


def serve_file(request: Request, path: Path, tag: str, on_bytes: Callable[[int], None]) -> Response:
    """A file or one range of it (RFC 9110 14); 404 where it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return Response(status_code=404)
    size_bytes = os.fstat(descriptor).st_size
    headers = {"etag": f'"{tag}"', "accept-ranges": "bytes", "content-type": "application/octet-stream"}
    asked = request.headers.get("range")
    start, end, status = 0, size_bytes, 200
    found = _RANGE.fullmatch(asked) if asked else None
    if found is not None:  # another form of range is answered whole, as the standard allows
        start = int(found[1])
        end = min(size_bytes, int(found[2]) + 1) if found[2] else size_bytes
        if start >= end:
            os.close(descriptor)
            return Response(status_code=416, headers={"content-range": f"bytes */{size_bytes}"})
        status = 206
        headers["content-range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    headers["content-length"] = str(end - start)
    if request.method == "HEAD":
        os.close(descriptor)
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_chunks(descriptor, start, end, on_bytes), status, headers)


async def _chunks(descriptor: int, start: int, end: int, on_bytes: Callable[[int], None]) -> AsyncIterator[memoryview]:
    """Pieces that are good until the next is asked for; a thread is used only for what the disk has to be asked for."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, max(1, end - start))))
    try:
        while start < end:
            wanted = buffer[: min(len(buffer), end - start)]
            count = _from_page_cache(descriptor, wanted, start)
            if not count:
                count = await asyncio.to_thread(os.preadv, descriptor, [wanted], start)
            if not count:
                raise OSError("the object became shorter while it was served")
            yield wanted[:count]
            on_bytes(count)
            start += count
    finally:
        os.close(descriptor)


def _from_page_cache(descriptor: int, target: memoryview, at_byte: int) -> int:
    """Bytes that were there without waiting for the disk; 0 where none were, or the file system cannot tell."""
    try:
        return os.preadv(descriptor, [target], at_byte, os.RWF_NOWAIT)
    except OSError:
        return 0
