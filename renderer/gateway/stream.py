"""`WS /v1/stream?scene=ID`: cameras in, frames out, the latest camera wins.

A session has one frame under way at a time. While it waits for its turn the client may move on: the camera is taken
when a pod is free, so that nobody renders what nobody wants any more, and nobody loses a turn by moving.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from renderer.gateway.hot import DENIED, picture, refusal_headers
from renderer.gateway.metrics import Taken
from renderer.gateway.pool import Answer, Frame, Pool
from renderer.gateway.session import Draw, Session, View
from renderer.gateway.tokens import Caller
from renderer.gateway.wire import (
    MAX_BODY_BYTES,
    FrameRequest,
    Refusal,
    check_scene_id,
    framed,
    parse_stream_camera,
    with_base64,
)

if TYPE_CHECKING:
    from renderer.gateway.app import Gateway

IDLE_S = 600.0  # without a camera
NOTICE_S = (1.0, 5.0)  # a wait for a pod or a scene is told after so long, and again every so long
RETRY_S = (0.25, 5.0)  # first and longest pause after a failure that another try may mend
POLICY_VIOLATION, NORMAL, TRY_AGAIN_LATER = 1008, 1000, 1013
_NUMBERS = itertools.count()


async def serve_stream(gateway: Gateway, socket: WebSocket) -> None:
    """Answer one WebSocket until either side ends it; what may not begin is refused with an HTTP status."""
    try:
        stream = _open(gateway, socket)
    except Refusal as refusal:
        gateway.metrics.refused(refusal.pool or gateway.default_pool, refusal)
        if refusal.status in DENIED:
            gateway.audit.denied("stream", socket.scope, why=refusal.code)
        headers = {name.decode(): value.decode() for name, value in refusal_headers(refusal)}
        await socket.send_denial_response(Response(refusal.body(), refusal.status, headers))
        return
    sessions = gateway.metrics.sessions.labels(stream.pool.name)
    gateway.sessions += 1
    sessions.inc()
    try:
        await socket.accept()
        await stream.run()
    finally:
        gateway.sessions -= 1
        sessions.dec()


def _open(gateway: Gateway, socket: WebSocket) -> _Stream:
    now_s = time.monotonic()
    caller = gateway.access.caller(socket.headers, now_s)
    scene = socket.query_params.get("scene", "")
    check_scene_id(scene)
    caller.check_scene(scene)
    caller.check_rate(now_s, takes=False)
    if gateway.sessions >= gateway.settings.max_sessions:
        raise Refusal(503, "too_many_sessions", f"{gateway.sessions} sessions are open", retry_after_s=5)
    session = socket.query_params.get("session") or f"stream-{next(_NUMBERS)}"
    pool = gateway.pool_of(socket.query_params.get("pool"), f"{caller.name}\0{session}")
    label = gateway.label_of(pool, scene)
    return _Stream(gateway, socket, pool, (scene, label), caller)


class _Stream:
    """One open session."""

    def __init__(
        self, gateway: Gateway, socket: WebSocket, pool: Pool, scene_and_label: tuple[str, str], caller: Caller
    ) -> None:
        self.pool = pool
        self._gateway = gateway
        self._socket = socket
        self._scene, label = scene_and_label
        self._caller = caller
        self._demand = gateway.metrics.requests.labels(pool.name, label)
        self._session = Session(gateway.settings.pace)
        self._draw: Draw | None = None
        self._woken = asyncio.Event()
        self._seen_s = time.monotonic()

    async def run(self) -> None:
        """Read and draw until the client leaves, or has to."""
        reading = asyncio.ensure_future(self._read())
        drawing = asyncio.ensure_future(self._draw_all())
        try:
            await asyncio.wait((reading, drawing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, drawing):
                task.cancel()
            results = await asyncio.gather(reading, drawing, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                raise result

    # Cameras in.

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._seen_s = time.monotonic()
            try:
                self._look(message.get("text") or message.get("bytes") or b"")
            except Refusal as refusal:
                await self._refuse(refusal)

    def _look(self, message: str | bytes) -> None:
        if len(message) > MAX_BODY_BYTES:
            raise Refusal(413, "too_large", f"message is over {MAX_BODY_BYTES} bytes")
        camera = parse_stream_camera(message)
        view = View(camera.request(self._scene), camera.id, self._seen_s, camera.moving, camera.client_time_ms)
        if self._session.look(view):
            self._demand.inc()
        self._woken.set()

    # Frames out.

    async def _draw_all(self) -> None:
        retry_s, longest_s = RETRY_S
        while await self._wait_for_camera():
            began_s = time.monotonic()
            try:
                self._caller = self._gateway.access.current(self._caller, began_s)
                self._caller.check_scene(self._scene)
                await self._pay()
                await self._send_one(began_s)
                retry_s = RETRY_S[0]
            except Refusal as refusal:
                await self._refuse(refusal)
                if refusal.status in (401, 403):
                    await self._socket.close(POLICY_VIOLATION, refusal.code)
                    return
                if refusal.status < 500:
                    self._session.give_up()
                    continue
                await asyncio.sleep(max(retry_s, min(refusal.retry_after_s or 0.0, longest_s)))
                retry_s = min(2.0 * retry_s, longest_s)
        await self._socket.close(NORMAL, "idle")

    async def _wait_for_camera(self) -> bool:
        """Wait until a frame is due; False where the client sent nothing for IDLE_S."""
        while True:
            now_s = time.monotonic()
            due_s = self._session.due_s()
            if due_s is not None and due_s <= now_s:
                return True
            until_s = self._seen_s + IDLE_S if due_s is None else due_s
            if due_s is None and until_s <= now_s:
                return False
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_s - now_s):
                    await self._woken.wait()

    async def _pay(self) -> None:
        """Take a frame of the caller's rate, or say so and wait for it."""
        pause_s = self._caller.pause_s(time.monotonic())
        if pause_s > 0:
            limit = Refusal(
                429, "rate", "this token asked for more frames than it may; slowed down", round(pause_s + 1)
            )
            await self._refuse(limit)
        while pause_s > 0:
            await asyncio.sleep(pause_s)
            pause_s = self._caller.pause_s(time.monotonic())

    async def _send_one(self, began_s: float) -> None:
        deadline_s = self._gateway.settings.deadline_s
        request = self._session.draw(began_s).request
        frame = Frame(request, began_s, began_s + deadline_s, has_deadline=False, hold_s=deadline_s)
        frame.newest = self._newest
        notices = asyncio.ensure_future(self._tell_waits(frame))
        try:
            answer = await self.pool.render(frame)
        finally:
            notices.cancel()
            if frame.cold != "none":
                self._gateway.metrics.cold_requests.labels(self.pool.name, frame.cold).inc()
        draw = self._draw
        assert draw is not None  # a pod was asked, so `_newest` was called
        await self._send(draw, answer, began_s)
        self._session.drawn(draw, began_s, time.monotonic(), answer.cold == "none")

    def _newest(self) -> FrameRequest:
        self._draw = self._session.draw(time.monotonic())
        return self._draw.request

    async def _send(self, draw: Draw, answer: Answer, began_s: float) -> None:
        now_s = time.monotonic()
        taken = Taken.of(answer.reply.stats, now_s - began_s)
        metrics, image = self._gateway.metrics, picture(answer.reply)
        metrics.answered(self.pool.name, taken, len(image))
        if draw.superseded:
            metrics.superseded.labels(self.pool.name).inc(draw.superseded)
        if draw.is_refinement:
            self._demand.inc()
        fields: dict[str, Any] = {
            "id": draw.view.number,
            "whole": draw.is_whole,
            "size": draw.request.size,
            "format": draw.request.format,
            "superseded": draw.superseded,
            "wait_s": taken.wait_s,
            "service_s": taken.service_s,
            "gateway_s": now_s - draw.view.arrived_s,
            "pool": self.pool.name,
            "pod": answer.pod,
            "cold": answer.cold,
            "client_time_ms": draw.view.client_time_ms,
            "stats": answer.reply.stats,
        }
        if draw.request.encoding == "base64":
            await self._socket.send_text(with_base64(fields, image).decode())
        else:
            await self._socket.send_bytes(framed(fields, image))

    async def _tell_waits(self, frame: Frame) -> None:
        """Say what a cold frame waits for, so that a person does not think it broke."""
        pause_s = NOTICE_S[0]
        while True:
            await asyncio.sleep(pause_s)
            pause_s = NOTICE_S[1]
            if frame.cold != "none":
                waited_s = round(time.monotonic() - frame.arrived_s, 1)
                notice = {"waiting": {"for": frame.cold, "seconds": waited_s}}
                with contextlib.suppress(WebSocketDisconnect):
                    await self._socket.send_text(msgspec.json.encode(notice).decode())

    async def _refuse(self, refusal: Refusal) -> None:
        self._gateway.metrics.refused(self.pool.name, refusal)
        await self._socket.send_text(refusal.message_of_stream())
