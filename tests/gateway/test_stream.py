"""Streams over real WebSockets: cameras in, frames out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from renderer.gateway.app import GatewaySettings
from renderer.gateway.session import Pace
from tests.gateway.conftest import IDENTITY, Front, serving, write_renderers
from tests.gateway.fake_pod import PIXELS


def settings(tmp_path: Path, **fields: Any) -> GatewaySettings:
    return GatewaySettings(renderers_file=tmp_path / "renderers.json", **fields)


class Client:
    """One session as a client sees it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def look(self, number: int = 1, **fields: Any) -> None:
        camera = {"view_matrix": IDENTITY, "projection_matrix": IDENTITY, "size": [640, 480], "id": number}
        await self.socket.send(json.dumps(camera | fields))

    async def message(self) -> dict[str, Any]:
        """The next message; a frame's picture is in `image`."""
        async with asyncio.timeout(30):
            data = await self.socket.recv()
        if isinstance(data, str):
            told: dict[str, Any] = json.loads(data)
            return told
        length = int.from_bytes(data[:4], "big")
        head: dict[str, Any] = json.loads(data[4 : 4 + length])
        return head | {"image": data[4 + length :]}

    async def frame(self) -> dict[str, Any]:
        while "image" not in (message := await self.message()):
            assert "waiting" in message, message
        return message


@contextlib.asynccontextmanager
async def streaming(front: Front, scene: str = "robot", query: str = "", **headers: str) -> AsyncIterator[Client]:
    url = f"ws://127.0.0.1:{front.port}/v1/stream?scene={scene}{query}"
    async with connect(
        url, proxy=None, compression=None, additional_headers=headers, open_timeout=30, ping_interval=None
    ) as socket:
        yield Client(socket)


async def test_a_moving_frame_is_small_and_the_frame_at_rest_is_whole(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front, streaming(front) as client:
        await client.look(7, moving=True, format="png", client_time_ms=12.5)
        small, whole = await client.frame(), await client.frame()
        assert (small["id"], small["whole"], small["format"], small["image"]) == (7, False, "jpeg", PIXELS)
        assert (whole["id"], whole["whole"], whole["format"], whole["size"]) == (7, True, "png", [640, 480])
        assert small["size"][0] < 640
        assert (whole["client_time_ms"], whole["pod"], whole["pool"]) == (12.5, "pod-a", "renderer")
        await client.look(8, moving=False, background=[0, 0, 1])
        assert (await client.frame())["whole"]
        assert await front.sample('splatfleet_gateway_sessions{pool="renderer"}') == 1
        assert await front.sample('splatfleet_gateway_responses_total{code="200",pool="renderer"}') == 3
        assert await front.sample('splatfleet_gateway_requests_total{pool="renderer",scene="robot"}') == 3
    assert [asked["format"] for asked in pod.rendered] == ["jpeg", "png", "jpeg"]
    assert pod.rendered[2]["background"] == "0,0,1"


async def test_the_latest_camera_wins(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    pod.service_s = 0.15
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front, streaming(front) as client:
        for number in range(1, 61):
            await client.look(number, moving=True)
            await asyncio.sleep(0.01)
        frames = [await client.frame()]
        while not frames[-1]["whole"]:
            frames.append(await client.frame())
        assert frames[-1]["id"] == 60
        assert [frame["id"] for frame in frames] == sorted(frame["id"] for frame in frames)
        assert len(frames) < 12
        small = [frame for frame in frames if not frame["whole"]]
        shown = {frame["id"] for frame in frames}
        assert sum(frame["superseded"] for frame in frames) == 60 - len(shown)
        superseded = await front.sample('splatfleet_gateway_superseded_frames_total{pool="renderer"}')
        assert superseded == 60 - len(shown)
        assert small


async def test_the_camera_is_taken_when_a_pod_is_free_and_not_before(tmp_path: Path, pods: Any) -> None:
    async with serving(settings(tmp_path)) as front, streaming(front) as client:
        router = front.gateway.directory.pool("renderer").router
        await client.look(1, moving=True)
        await front.until(lambda: router.waiting == 1)
        for number in range(2, 40):
            await client.look(number, moving=True)
        await asyncio.sleep(0.2)
        assert router.waiting == 1  # a session waits once, whatever it sends
        assert "waiting" in await client.message()
        pod = await pods("late")
        front.write(pod.entry())
        frame = await client.frame()
        assert (frame["id"], frame["cold"], frame["superseded"]) == (39, "pod", 38)
    assert len(pod.rendered) == 1


async def test_a_pod_killed_in_mid_session_costs_one_frame_time(tmp_path: Path, pods: Any) -> None:
    dying, other = await pods("dying"), await pods("other")
    dying.service_s = 5.0
    write_renderers(tmp_path / "renderers.json", dying.entry())
    async with serving(settings(tmp_path)) as front, streaming(front) as client:
        await client.look(1, moving=True)
        await front.until(lambda: dying.now_rendering == 1)
        front.write(dying.entry(), other.entry())
        await front.until(lambda: len(front.gateway.directory.renderers) == 2)
        await client.look(2, moving=True)
        await dying.die()
        frame = await client.frame()
        assert (frame["id"], frame["pod"]) == (2, "other")


async def test_a_pod_that_hangs_loses_its_frame_to_another(
    tmp_path: Path, pods: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renderer.gateway.pool.HANG_S", 0.4)
    hung, other = await pods("hung"), await pods("other")
    hung.service_s = 30.0
    write_renderers(tmp_path / "renderers.json", hung.entry())
    async with serving(settings(tmp_path)) as front, streaming(front) as client:
        await client.look(1, moving=False)
        await front.until(lambda: hung.now_rendering == 1)
        front.write(hung.entry(), other.entry())
        assert (await client.frame())["pod"] == "other"


async def test_what_another_try_may_mend_is_tried_again(tmp_path: Path, pods: Any) -> None:
    async with serving(settings(tmp_path, deadline_s=0.3)) as front, streaming(front) as client:
        await client.look(1, moving=False)
        error = (await client.message())["error"]
        assert (error["status"], error["code"]) == (503, "hold_time")
        pod = await pods("late")
        front.write(pod.entry())
        async with asyncio.timeout(15):
            while (message := await client.message()).get("id") != 1:
                assert "error" in message or "waiting" in message


async def test_a_wrong_camera_is_named_and_the_session_goes_on(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front, streaming(front) as client:
        await client.look(1, size=[0, 10])
        error = (await client.message())["error"]
        assert (error["status"], error["message"]) == (400, "size[0] is 0, expected 1 to 8192")
        await client.socket.send("{")
        assert (await client.message())["error"]["code"] == "bad_request"
        await client.look(2, scene="garden")
        assert "scene" in (await client.message())["error"]["message"]
        await client.look(3, moving=False, encoding="base64")
        frame = await client.message()
        assert (frame["id"], base64.b64decode(frame["image"])) == (3, PIXELS)
        refused = await front.sample('splatfleet_gateway_refusals_total{error="bad_request",pool="renderer"}')
        assert refused == 3
        await client.socket.send(" " * 100_000)
        with pytest.raises(ConnectionClosed) as closed:
            await client.message()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_a_handshake_is_refused_with_a_status(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.json"
    catalogue.write_text(json.dumps({"version": 1, "scenes": [{"id": "robot", "uri": "robot.ply"}]}))
    async with serving(settings(tmp_path, catalogue=catalogue, max_sessions=1)) as front:
        for scene, query, status, code in (
            ("atlantis", "", 404, "unknown_scene"),
            ("..%2Fetc", "", 400, "bad_request"),
            ("", "", 400, "bad_request"),
            ("robot", "&pool=nope", 400, "bad_request"),
        ):
            assert await refused(front, scene, query) == (status, code)
        async with streaming(front) as client:
            assert await refused(front, "robot") == (503, "too_many_sessions")
            await client.socket.ping()
        await front.until(lambda: front.gateway.sessions == 0)
        async with streaming(front):
            pass


async def refused(front: Front, scene: str, query: str = "", **headers: str) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as error:
        async with streaming(front, scene, query, **headers):
            pass
    response = error.value.response
    return response.status_code, json.loads(response.body or b"")["error"]["code"]


async def test_a_client_that_leaves_takes_its_turn_with_it(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as front:
        router = front.gateway.directory.pool("renderer").router
        async with streaming(front) as client:
            await client.look()
            await front.until(lambda: router.waiting == 1)
        await front.until(lambda: router.waiting == 0 and front.gateway.sessions == 0)


async def test_a_client_that_does_not_read_gets_no_more_frames(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    pod.service_s = 0.001
    pod.picture = b"x" * 400_000
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path, pace=Pace(frame_s=0.002))) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port, limit=1024)
        writer.write(
            b"GET /v1/stream?scene=robot HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        camera = {"view_matrix": IDENTITY, "projection_matrix": IDENTITY, "size": [64, 48], "moving": True}
        text = json.dumps(camera).encode()
        for _ in range(300):
            writer.write(bytes([0x81, 0x80 | 126]) + len(text).to_bytes(2, "big") + bytes(4) + text)
            await asyncio.sleep(0.005)
        assert len(pod.rendered) < 60  # what the sockets buffer, not 300
        writer.transport.abort()
        await front.until(lambda: front.gateway.sessions == 0)


async def test_two_hundred_sessions_share_two_pods_fairly(tmp_path: Path, pods: Any) -> None:
    """Open loop: each session sends a camera every 0.2 s, which is 1,000 a second for pods that render 200.

    What each session got is counted from when all are open until six frames a session have come.
    """
    both = [await pods("pod-a"), await pods("pod-b")]
    for pod in both:
        pod.service_s = 0.01
    write_renderers(tmp_path / "renderers.json", *(pod.entry() for pod in both))
    async with serving(settings(tmp_path)) as front, contextlib.AsyncExitStack() as stack:
        router = front.gateway.directory.pool("renderer").router
        await front.until(lambda: router.knows("robot"))
        clients = [await stack.enter_async_context(streaming(front)) for _ in range(200)]
        frames = [0] * len(clients)
        deepest = 0

        async def look(client: Client) -> None:
            nonlocal deepest
            for camera in itertools.count(1):
                await client.look(camera, moving=True, size=[64, 48])
                deepest = max(deepest, router.waiting)
                await asyncio.sleep(0.2)

        async def count(number: int) -> None:
            while True:
                message = await clients[number].message()
                assert "error" not in message, message
                frames[number] += "image" in message

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(look(client)) for client in clients]
            tasks += [group.create_task(count(number)) for number in range(len(clients))]
            await front.until(lambda: all(frames), 60.0)  # everybody asks
            rendered, began = sum(len(pod.rendered) for pod in both), list(frames)
            await front.until(lambda: sum(frames) - sum(began) >= 6 * len(clients), 60.0)
            shown = [now - before for now, before in zip(frames, began, strict=True)]
            rendered = sum(len(pod.rendered) for pod in both) - rendered
            for task in tasks:
                task.cancel()
        await stack.aclose()
        await front.until(lambda: front.gateway.sessions == 0 and router.waiting == 0)
        assert await front.sample('splatfleet_gateway_responses_total{code="503"') is None
    assert deepest <= len(clients)
    assert min(shown) >= 0.5 * sum(shown) / len(shown) > 0
    # What is rendered is shown, but for a frame a session that is on its way.
    assert rendered < 1.2 * sum(shown) + len(clients)
