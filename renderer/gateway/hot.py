"""`POST /v1/render` as a bare ASGI app, so that a request costs little beside its frame."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from renderer.client import RenderReply
from renderer.gateway.metrics import Taken
from renderer.gateway.pool import Answer, ClientGone
from renderer.gateway.wire import (
    CONTENT_TYPES,
    MAX_BODY_BYTES,
    FrameRequest,
    Refusal,
    compact,
    parse_frame_request,
    with_base64,
)

if TYPE_CHECKING:
    from renderer.gateway.app import Gateway

BODY_S = 10.0  # a body that takes longer is given up
DENIED = (401, 403)
_CLIENT_GONE = 499  # nobody reads it; it keeps the count of answers whole


class RenderApp:
    """One frame for one body."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._metrics = gateway.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived_s = time.monotonic()
        default_pool = self._gateway.default_pool
        try:
            caller = self._gateway.access.caller(Headers(scope=scope), arrived_s)
            request = parse_frame_request(await _read_body(receive))
            pool, answer = await self._gateway.render(request, caller, arrived_s, _until_gone(receive))
        except ClientGone:
            self._metrics.responses.labels(default_pool, _CLIENT_GONE).inc()
            return
        except Refusal as refusal:
            self._metrics.refused(refusal.pool or default_pool, refusal)
            if refusal.status in DENIED:
                self._gateway.audit.denied("render", scope, why=refusal.code)
            await _send(send, refusal.status, refusal_headers(refusal), refusal.body())
            return
        taken = Taken.of(answer.reply.stats, time.monotonic() - arrived_s)
        image = picture(answer.reply)
        self._metrics.answered(pool, taken, len(image))
        if request.encoding == "base64":
            fields = _fields(pool, request, answer, taken)
            await _send(send, 200, [(b"content-type", b"application/json")], with_base64(fields, image))
        else:
            await _send(send, 200, _headers(pool, request, answer, taken), image)


def picture(reply: RenderReply) -> bytes:
    """The picture of an answer as bytes."""
    return reply.image if isinstance(reply.image, bytes) else bytes(reply.image.data)


def refusal_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """The headers of an error as `Refusal.body` writes it."""
    headers = [(b"content-type", b"application/json")]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="splatfleet"'))
    return headers


def _headers(pool: str, request: FrameRequest, answer: Answer, taken: Taken) -> list[tuple[bytes, bytes]]:
    stats = answer.reply.stats
    return [
        (b"content-type", CONTENT_TYPES[request.format]),
        (b"x-splatfleet-wait-seconds", b"%.6f" % taken.wait_s),
        (b"x-splatfleet-service-seconds", b"%.6f" % taken.service_s),
        (b"x-splatfleet-pool", pool.encode("ascii", "replace")),
        (b"x-splatfleet-pod", answer.pod.encode("ascii", "replace")),
        (b"x-splatfleet-cache", str(stats.get("cache", "")).encode("ascii", "replace")),
        (b"x-splatfleet-cold", answer.cold.encode()),
        (b"x-splatfleet-stats", compact(stats)),
    ]


def _fields(pool: str, request: FrameRequest, answer: Answer, taken: Taken) -> Mapping[str, Any]:
    return {
        "format": request.format,
        "size": request.size,
        "wait_s": taken.wait_s,
        "service_s": taken.service_s,
        "pool": pool,
        "pod": answer.pod,
        "cold": answer.cold,
        "stats": answer.reply.stats,
    }


async def _read_body(receive: Receive) -> bytes:
    try:
        async with asyncio.timeout(BODY_S):
            return await _read_all(receive)
    except TimeoutError as error:
        raise Refusal(408, "slow_body", f"body did not come within {BODY_S:g} s") from error


async def _read_all(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(413, "too_large", f"body is over {MAX_BODY_BYTES} bytes")
        if not message.get("more_body"):
            return bytes(body)


def _until_gone(receive: Receive) -> Callable[[], Awaitable[None]]:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    return gone


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
