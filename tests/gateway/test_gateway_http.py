"""The gateway over real HTTP and gRPC: what clients, pods and Prometheus see of it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from renderer.client import RECONNECT_MS, RendererClient, RendererError
from renderer.gateway.app import GatewaySettings
from renderer.gateway.routing import Limits
from tests.gateway.conftest import IDENTITY, body, serving, write_renderers
from tests.gateway.fake_pod import PIXELS


def settings(tmp_path: Path, **fields: Any) -> GatewaySettings:
    return GatewaySettings(renderers_file=tmp_path / "renderers.json", **fields)


async def test_a_frame_comes_back_with_what_it_took(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front:
        await front.until(lambda: front.gateway.directory.pool("renderer").router.knows("robot"))
        answer = await front.ask(background=(0, 0.5, 1), quality=80, sh_degree=1)
    assert answer.status_code == 200
    assert answer.content == PIXELS
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-splatfleet-pod"] == "pod-a"
    assert answer.headers["x-splatfleet-cold"] == "none"
    assert answer.headers["x-splatfleet-cache"] == "hit"
    assert float(answer.headers["x-splatfleet-service-seconds"]) == pod.service_s
    assert float(answer.headers["x-splatfleet-wait-seconds"]) >= 0
    assert json.loads(answer.headers["x-splatfleet-stats"])["scene"] == "robot"
    asked = pod.rendered[0]
    assert (asked["scene"], asked["width"], asked["height"]) == ("robot", 64, 48)
    assert (asked["format"], asked["quality"], asked["sh_degree"], asked["background"]) == ("jpeg", 80, 1, "0,0.5,1")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"scene": "../../etc/passwd"}, "scene: scene id '../../etc/passwd' is not valid"),
        ({"scene": "/srv/robot.ply"}, "is not valid"),
        ({"view_matrix": [1.0] * 15}, "view_matrix is 15 numbers, expected 16"),
        ({"projection_matrix": [1e12, *IDENTITY[1:]]}, "projection_matrix[0] is 1e+12"),
        ({"size": [0, 10]}, "size[0] is 0, expected 1 to 8192"),
        ({"size": [10, 9000]}, "size[1] is 9000, expected 1 to 8192"),
        ({"quality": 101}, "quality is 101, expected 1 to 100"),
        ({"background": [0, 2, 0]}, "background[1] is 2, expected 0 to 1"),
        ({"deadline_ms": 0}, "deadline_ms is 0"),
        ({"format": "bmp"}, "$.format"),
        ({"pool": "nope"}, "pool is 'nope', expected one of: renderer"),
        ({"colour": 1}, "colour"),
    ],
)
async def test_a_bad_request_names_field_value_and_limit(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    async with serving(settings(tmp_path)) as front:
        answer = await front.client.post("/v1/render", json=body() | fields)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "bad_request"
        assert named in error["message"]
        assert await front.sample('splatfleet_gateway_responses_total{code="400"') == 1


async def test_a_huge_body_is_cut_off_and_no_json_is_refused(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as front:
        big = await front.client.post("/v1/render", content=b" " * 100_000)
        wrong = await front.client.post("/v1/render", content=b"{")
        got = await front.client.get("/v1/render")
    assert (big.status_code, big.json()["error"]["code"]) == (413, "too_large")
    assert wrong.status_code == 400
    assert got.status_code == 405


async def test_demand_is_counted_at_zero_replicas_and_the_hold_ends_with_a_clear_503(tmp_path: Path) -> None:
    async with serving(settings(tmp_path, hold_s=0.3)) as front:
        answers = await asyncio.gather(front.ask(), front.ask("garden"))
        assert [answer.status_code for answer in answers] == [503, 503]
        assert answers[0].json()["error"] == {
            "code": "hold_time",
            "message": "held for 0.3 s, no pod is ready in pool renderer",
        }
        assert int(answers[0].headers["retry-after"]) > 0
        assert await front.sample('splatfleet_gateway_requests_total{pool="renderer",scene="robot"}') == 1
        assert await front.sample('splatfleet_gateway_requests_total{pool="renderer",scene="garden"}') == 1
        assert await front.sample('splatfleet_gateway_cold_requests_total{cause="pod"') == 2
        assert await front.sample('splatfleet_gateway_pending_requests{pool="renderer"}') == 0
        assert await front.sample('splatfleet_gateway_pods{pool="renderer",state="ready"}') == 0


async def test_requests_are_held_until_a_pod_comes(tmp_path: Path, pods: Any) -> None:
    async with serving(settings(tmp_path)) as front:
        asked = [asyncio.create_task(front.ask()) for _ in range(3)]
        await front.until(lambda: front.gateway.directory.pool("renderer").router.waiting == 3)
        assert await front.sample('splatfleet_gateway_pending_requests{pool="renderer"}') == 3
        pod = await pods("late")
        front.write(pod.entry(ready=False))
        await asyncio.sleep(0.4)
        assert not any(task.done() for task in asked)
        front.write(pod.entry())
        answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-splatfleet-cold"] for answer in answers} == {"pod"}
    assert all(float(answer.headers["x-splatfleet-wait-seconds"]) > 0.4 for answer in answers)


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    async with serving(settings(tmp_path, limits=Limits(max_pending=2), hold_s=0.5)) as front:
        held = [asyncio.create_task(front.ask()) for _ in range(2)]
        await front.until(lambda: front.gateway.directory.pool("renderer").router.waiting == 2)
        answer = await front.ask()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
        assert answer.headers["retry-after"] == "1"
        assert await front.sample('splatfleet_gateway_requests_total{pool="renderer",scene="robot"}') == 3
        await asyncio.gather(*held)


async def test_a_deadline_ends_the_wait_with_504(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as front:
        answer = await front.ask(deadline_ms=150)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")


async def test_a_cold_scene_is_loaded_once_and_holds_nobody_else_up(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    pod.load_s = 0.6
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front:
        await front.until(lambda: front.gateway.directory.pool("renderer").router.knows("robot"))
        cold = [asyncio.create_task(front.ask("garden")) for _ in range(5)]
        await front.until(lambda: "garden" in pod.loading)
        warm = await front.ask("robot")
        assert not any(task.done() for task in cold)
        answers = await asyncio.gather(*cold)
        cold_requests = await front.sample('splatfleet_gateway_cold_requests_total{cause="scene"')
    assert warm.headers["x-splatfleet-cold"] == "none"
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-splatfleet-cache"] for answer in answers} == {"hit"}
    assert {answer.headers["x-splatfleet-cold"] for answer in answers} == {"scene"}
    assert cold_requests == 5
    assert pod.warmed == ["garden"]  # that it is resident is read from the pod's metrics: asking costs it queue time


async def test_a_load_that_fails_later_is_learnt_by_asking_again(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    pod.load_s = 60.0
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front:
        asked = asyncio.create_task(front.ask("garden"))
        await front.until(lambda: "garden" in pod.loading)
        pod.fails_to_load = {"garden"}
        answer = await asked
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "scene_failed")
    assert "header is a lie" in answer.json()["error"]["message"]
    assert pod.warmed.count("garden") == 2


async def test_a_newer_request_of_a_session_takes_the_place_of_the_one_that_waits(tmp_path: Path, pods: Any) -> None:
    async with serving(settings(tmp_path)) as front:
        router = front.gateway.directory.pool("renderer").router
        stale = asyncio.create_task(front.ask(session="me"))
        await front.until(lambda: router.waiting == 1)
        others = [asyncio.create_task(front.ask(session=f"other-{n}", quality=n + 1)) for n in range(6)]
        await front.until(lambda: router.waiting == 7)
        newer = asyncio.create_task(front.ask(session="me", quality=99))
        answer = await stale
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "superseded")
        assert router.waiting == 7
        pod = await pods("late")
        front.write(pod.entry())
        assert {task.status_code for task in await asyncio.gather(newer, *others)} == {200}
        assert await front.sample('splatfleet_gateway_superseded_frames_total{pool="renderer"}') == 1
    assert 99 in [asked["quality"] for asked in pod.rendered[:2]]  # it did not lose its turn; a pod gets two at once


async def test_a_picture_in_json_where_the_client_asks(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front:
        answer = await front.ask(encoding="base64")
    assert answer.headers["content-type"] == "application/json"
    assert base64.b64decode(answer.json()["image"]) == PIXELS
    assert (answer.json()["pod"], answer.json()["size"]) == ("pod-a", [64, 48])


async def test_a_canary_gets_its_share_and_its_own_metrics(tmp_path: Path, pods: Any) -> None:
    stable, canary = await pods("stable-0"), await pods("canary-0")
    write_renderers(tmp_path / "renderers.json", stable.entry(), canary.entry(pool="canary"))
    async with serving(settings(tmp_path, split={"renderer": 80, "canary": 20})) as front:
        answers = await asyncio.gather(*(front.ask(session=f"session-{number}") for number in range(100)))
        again = await asyncio.gather(*(front.ask(session=f"session-{number}") for number in range(10)))
        pools = [answer.headers["x-splatfleet-pool"] for answer in answers]
        assert 8 <= pools.count("canary") <= 35
        assert [answer.headers["x-splatfleet-pool"] for answer in again] == pools[:10]
        frames = await front.sample('splatfleet_gateway_frame_seconds_count{pool="canary"}')
        assert frames == len(canary.rendered)
        assert await front.sample('splatfleet_gateway_frame_bytes_total{pool="canary"}') == frames * len(PIXELS)


async def test_a_body_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("renderer.gateway.hot.BODY_S", 0.3)
    async with serving(settings(tmp_path)) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"POST /v1/render HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_an_unknown_scene_is_a_404_and_makes_no_label_of_its_own(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    catalogue = tmp_path / "catalogue.json"
    catalogue.write_text(json.dumps({"version": 1, "scenes": [{"id": "robot", "uri": "robot.ply"}]}))
    async with serving(settings(tmp_path, catalogue=catalogue)) as front:
        answer = await front.ask("atlantis")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_scene")
        assert await front.sample('splatfleet_gateway_requests_total{pool="renderer",scene="_unknown"}') == 1
        assert await front.sample('splatfleet_gateway_requests_total{pool="renderer",scene="atlantis"}') is None
        assert (await front.ask("robot")).status_code == 200


async def test_without_a_catalogue_the_pod_says_what_is_unknown(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front:
        first, second = await front.ask("atlantis"), await front.ask("atlantis")
        assert (first.status_code, second.status_code) == (404, 404)
        assert pod.warmed.count("atlantis") == 1
        assert await front.sample('splatfleet_gateway_requests_total{pool="renderer",scene="_unknown"}') == 1


async def test_a_scene_that_no_pod_can_load_is_a_502_with_the_reason(tmp_path: Path, pods: Any) -> None:
    both = [await pods("pod-a"), await pods("pod-b")]
    for pod in both:
        pod.fails_to_load = {"garden"}
    write_renderers(tmp_path / "renderers.json", *(pod.entry() for pod in both))
    async with serving(settings(tmp_path)) as front:
        answer = await front.ask("garden")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "scene_failed")
        assert "header is a lie" in answer.json()["error"]["message"]
        assert all("garden" in pod.warmed for pod in both)
        assert (await front.ask("robot")).status_code == 200


async def test_draining_pods_get_nothing_new_but_finish(tmp_path: Path, pods: Any) -> None:
    old, new = await pods("old"), await pods("new")
    old.service_s = 0.5
    write_renderers(tmp_path / "renderers.json", old.entry())
    async with serving(settings(tmp_path)) as front:
        running = asyncio.create_task(front.ask())
        await front.until(lambda: old.now_rendering == 1)
        front.write(old.entry(draining=True), new.entry())
        await front.until(lambda: front.gateway.directory.counts("renderer")["draining"] == 1)
        answers = await asyncio.gather(*(front.ask() for _ in range(6)))
        assert {answer.headers["x-splatfleet-pod"] for answer in answers} == {"new"}
        assert (await running).headers["x-splatfleet-pod"] == "old"
        assert await front.sample('splatfleet_gateway_pods{pool="renderer",state="draining"}') == 1


async def test_a_pod_that_dies_in_mid_frame_costs_nobody_a_frame(tmp_path: Path, pods: Any) -> None:
    dying, other = await pods("dying"), await pods("other")
    dying.service_s = 5.0
    write_renderers(tmp_path / "renderers.json", dying.entry())
    async with serving(settings(tmp_path)) as front:
        hit = [asyncio.create_task(front.ask()) for _ in range(2)]
        await front.until(lambda: dying.now_rendering == 1)
        front.write(dying.entry(), other.entry())
        await front.until(lambda: len(front.gateway.directory.renderers) == 2)
        await dying.die()
        answers = await asyncio.gather(*hit)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert {answer.headers["x-splatfleet-pod"] for answer in answers} == {"other"}
        assert front.gateway.directory.state("dying") == "unready"
        dying.service_s = 0.005
        await dying.start()  # the same address: the gateway finds out by itself
        await front.until(lambda: front.gateway.directory.state("dying") == "ready")


async def test_pods_that_ended_unseen_do_not_count_as_tries(tmp_path: Path, pods: Any) -> None:
    ended = [await pods(f"ended-{number}") for number in range(4)]
    other = await pods("other")
    write_renderers(tmp_path / "renderers.json", *(pod.entry() for pod in ended))
    async with serving(settings(tmp_path)) as front:
        directory = front.gateway.directory
        await front.until(lambda: directory.pool("renderer").router.knows("robot"))
        for pod in ended:
            await pod.die()
        asked = asyncio.create_task(front.ask())
        await front.until(lambda: asked.done() or {directory.state(pod.uid) for pod in ended} == {"unready"})
        front.write(*(pod.entry() for pod in ended), other.entry())
        answer = await asked
        assert (answer.status_code, answer.headers.get("x-splatfleet-pod")) == (200, "other")


async def test_a_pod_that_was_away_for_long_is_found_again_at_once(pods: Any) -> None:
    pod = await pods("pod-a")
    client = RendererClient(f"127.0.0.1:{pod.grpc_port}")
    assert (await client.warm("robot"))["state"] == "resident"
    await pod.die()

    async def refused() -> bool:
        try:
            await client.warm("robot", 5.0)
            return False
        except RendererError as error:
            return error.kind == "unavailable"

    try:
        away_s = time.monotonic() + 4.0  # gRPC's own pauses are over two seconds by then, and grow
        while time.monotonic() < away_s:
            assert await refused()
            await asyncio.sleep(0.1)
        await pod.start()
        asks = 1
        while await refused():
            asks += 1
            await asyncio.sleep(0.1)
    finally:
        await client.close()
    assert asks <= 2 + RECONNECT_MS / 100


async def test_a_pod_whose_model_fails_is_tried_once_elsewhere(tmp_path: Path, pods: Any) -> None:
    broken, other = await pods("broken"), await pods("other")
    broken.render_error = (grpc.StatusCode.INTERNAL, "in ensemble: no luck today")
    write_renderers(tmp_path / "renderers.json", broken.entry(), other.entry())
    async with serving(settings(tmp_path)) as front:
        answers = await asyncio.gather(*(front.ask() for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["x-splatfleet-pod"] for answer in answers} == {"other"}
        other.render_error = broken.render_error
        answer = await front.ask()
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "renderer_failed")
        assert "no luck today" in answer.json()["error"]["message"]


async def test_a_hot_scene_spreads_to_an_idle_pod(tmp_path: Path, pods: Any) -> None:
    busy, idle = await pods("busy"), await pods("idle", resident=())
    busy.service_s = idle.service_s = 0.05
    write_renderers(tmp_path / "renderers.json", busy.entry(), idle.entry())
    async with serving(settings(tmp_path)) as front:
        await front.until(lambda: front.gateway.directory.pool("renderer").router.knows("robot"))
        answers = await asyncio.gather(*(front.ask() for _ in range(40)))
    assert {answer.headers["x-splatfleet-pod"] for answer in answers} == {"busy", "idle"}
    assert {answer.headers["x-splatfleet-cache"] for answer in answers} == {"hit"}


async def test_a_broken_renderers_file_keeps_the_last_good_one(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front:
        assert (await front.ask()).status_code == 200
        front.file.write_text('{"version": 1, "renderers": [{"uid": ')
        await asyncio.sleep(0.4)
        assert (await front.ask()).status_code == 200
        front.file.unlink()
        await asyncio.sleep(0.4)
        assert (await front.ask()).status_code == 200


async def test_a_client_that_hangs_up_waits_no_more(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as front:
        router = front.gateway.directory.pool("renderer").router
        asked = asyncio.create_task(front.ask())
        await front.until(lambda: router.waiting == 1)
        asked.cancel()
        await front.until(lambda: router.waiting == 0)


async def test_status_says_who_holds_what(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path, pools=("renderer", "canary"))) as front:
        await front.until(lambda: front.gateway.directory.pool("renderer").router.knows("robot"))
        status = (await front.client.get("/v1/status")).json()
        assert (await front.client.get("/-/ready")).status_code == 200
        assert (await front.client.get("/-/healthy")).status_code == 200
    assert status["pools"]["renderer"]["pods"]["pod-a"]["resident"] == {"robot": 300}
    assert status["pools"]["renderer"]["pods"]["pod-a"]["state"] == "ready"
    assert status["pools"]["canary"]["pods"] == {}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/render", 405, "wrong_method"), ("GET", "/v1/nothing", 404, "no_such_path"),
     ("DELETE", "/v1/status", 405, "wrong_method"), ("POST", "/viewer", 404, "no_such_path")],
)  # fmt: skip
async def test_another_path_or_method_is_refused_like_anything_else(
    method: str, path: str, status: int, code: str, tmp_path: Path
) -> None:
    write_renderers(tmp_path / "renderers.json")
    async with serving(GatewaySettings(renderers_file=tmp_path / "renderers.json")) as front:
        answer = await front.client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert path in answer.json()["error"]["message"]
        assert answer.headers["content-type"] == "application/json"
        assert ("allow" in answer.headers) == (status == 405)
