"""Frames, parameters, warm and drop, metrics: through a real Triton."""

from __future__ import annotations

import asyncio
import io
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from autoscaler.decision import WarmAsk
from autoscaler.warm_calls import WarmCalls
from fleet import labels, metrics
from fleet.scene import SceneId
from local_fleet.triton_server import TritonServer
from renderer import constants
from renderer.camera import look_at, matrices
from renderer.catalogue import load_catalogue
from renderer.client import RendererClient, RendererError, RenderReply, render_once
from renderer.formats import read
from renderer.rasterizer import choose, to_uint8
from tests.triton.conftest import MakeServer, samples

pytestmark = pytest.mark.triton

CAMERA = look_at((1.9, -1.5, 1.9), (0, -0.5, 0), (0, -1, 0), 45, 96, 64)
VIEW, PROJECTION = matrices(CAMERA)
Protocol = Literal["grpc", "http"]


def ask(server: TritonServer, protocol: Protocol = "grpc", **parameters: Any) -> RenderReply:
    address = server.grpc_address if protocol == "grpc" else server.http_address
    return render_once(address, VIEW, PROJECTION, parameters, protocol)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_two_matrices_alone_are_a_request(server: TritonServer, protocol: Protocol) -> None:
    reply = ask(server, protocol)
    assert isinstance(reply.image, np.ndarray)
    assert reply.image.shape == (32, 48, 3)
    assert reply.image.std() > 5, "nothing was drawn"
    assert reply.stats["scene"] == "knot"
    assert reply.stats["cache"] == "hit"


def test_frame_is_that_of_the_library(server: TritonServer, catalogue: Path) -> None:
    splats = read(catalogue.parent / "planet.ply")
    reply = ask(server, scene="planet", width=96, height=64, background="0.2,0.4,0.6")
    frame = choose("cpu")(splats, CAMERA, (0.2, 0.4, 0.6), None, frozenset({"rgb"}), constants.DEFAULT)
    assert isinstance(reply.image, np.ndarray)
    # The matrices travel as float32, so a value on the edge of rounding may fall to the other side.
    assert np.abs(reply.image.astype(int) - to_uint8(frame.rgb).astype(int)).max() <= 1
    assert reply.stats["gaussians"] == splats.count


def test_stats_tell_where_the_time_went(server: TritonServer) -> None:
    stats = ask(server, width=96, height=64, client_time_ms=1234.5, format="jpeg").stats
    assert stats["client_time_ms"] == 1234.5
    assert (stats["width"], stats["height"], stats["state"]) == (96, 64, "resident")
    assert stats["load_s"] == 0
    assert 0 < stats["render_s"] + stats["encode_s"] <= stats["service_s"] < 5
    assert "paced_s" not in stats


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_encoded_frames(server: TritonServer, form: str) -> None:
    raw = ask(server, width=96, height=64)
    encoded = ask(server, "http", width=96, height=64, format=form, quality=100)
    assert isinstance(encoded.image, bytes)
    image = Image.open(io.BytesIO(encoded.image))
    assert (image.format, image.size) == (form.upper(), (96, 64))
    assert isinstance(raw.image, np.ndarray)
    off = np.abs(np.asarray(image.convert("RGB")).astype(int) - raw.image.astype(int)).mean()
    assert off <= (2 if form == "jpeg" else 0)


def test_alpha_and_depth_layers(server: TritonServer) -> None:
    alpha = ask(server, layers="alpha", width=96, height=64).image
    depth = ask(server, layers="depth", width=96, height=64)
    assert isinstance(alpha, np.ndarray)
    assert isinstance(depth.image, np.ndarray)
    assert alpha.max() > 200
    assert 0 < depth.stats["depth_near"] < depth.stats["depth_far"]
    assert depth.image[alpha > 200].min() > 0


def test_sh_degree_caps_the_colours(server: TritonServer) -> None:
    full, flat = (ask(server, scene="noise", width=64, height=64, **extra).image for extra in ({}, {"sh_degree": 0}))
    assert not np.array_equal(full, flat)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"width": 0}, "width is 0, expected 1 to 8192"),
        ({"format": "gif"}, "format is 'gif'"),
        ({"widht": 5}, "did you mean width?"),
        ({"scene": "nope"}, "scene 'nope' is not in the catalogue; known are broken, knot"),
        ({"scene": "../../etc/passwd"}, "scene id '../../etc/passwd' is not valid"),
        ({"quality": "high"}, "quality is 'high', expected a whole number from 1 to 100"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    server: TritonServer, protocol: Protocol, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(RendererError) as caught:
        ask(server, protocol, **parameters)
    assert caught.value.kind == "bad_request"
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_camera(server: TritonServer) -> None:
    for view, message in ((np.zeros((4, 4)), "view matrix"), (np.eye(3), r"expected \[4, 4\]")):
        with pytest.raises(RendererError, match=message) as caught:
            render_once(server.grpc_address, view, PROJECTION)
        assert caught.value.kind == "bad_request"


def test_failures_are_counted_and_hurt_nobody_else(server: TritonServer) -> None:
    """Raised, not returned: only then does Triton count them."""

    async def both() -> list[RenderReply | BaseException]:
        client = RendererClient(server.grpc_address)
        asks = [client.render(VIEW, PROJECTION, {"width": width}) for width in (0, 16, 0, 16, 0, 16)]
        try:
            return await asyncio.gather(*asks, return_exceptions=True)
        finally:
            await client.close()

    failures = ("nv_inference_request_failure", (("reason", "BACKEND"),))
    counted_frames(server)  # and with it the failures of the tests before
    before = samples(server)[failures]
    replies = asyncio.run(both())
    assert [isinstance(reply, RendererError) for reply in replies] == [True, False] * 3
    counted_frames(server)
    assert samples(server)[failures] == before + 3


def counted_frames(server: TritonServer) -> float:
    """Frames that the pod has counted, one that is asked for now included: counts come a moment after their frame."""
    series = ("splatfleet_renderer_render_seconds_count", ())
    before = samples(server)[series]
    ask(server)
    end_s = time.monotonic() + 10
    seen = [before, before - 1]
    while seen[-1] != seen[-2] or seen[-1] == before:
        assert time.monotonic() < end_s, "the frame was not counted"
        time.sleep(0.1)
        seen.append(samples(server)[series])
    return seen[-1]


def test_late_frames_are_refused_before_the_launch(server: TritonServer) -> None:
    before = counted_frames(server)
    with pytest.raises(RendererError, match=r"deadline_ms is .* not rendered") as caught:
        ask(server, deadline_ms=time.time() * 1000 - 50)
    assert caught.value.kind == "deadline"
    assert counted_frames(server) == before + 1, "the late frame was rendered"
    ask(server, deadline_ms=time.time() * 1000 + 5000)
    ask(server, deadline_ms=5000)


def test_broken_scene_fails_and_says_so(server: TritonServer) -> None:
    with pytest.raises(RendererError, match=r"scene broken: .*broken.ply") as caught:
        ask(server, scene="broken")
    assert caught.value.kind == "failed"
    ask(server)


async def test_warm_and_drop(server: TritonServer) -> None:
    client = RendererClient(server.grpc_address)
    series = ("splatfleet_renderer_scene_resident_bytes", (("scene", "planet"),))
    try:
        await client.drop("planet")
        told = await client.warm("planet", timeout_s=5)
        assert told["state"] in ("loading", "resident")
        await _state(client, "planet", "resident")
        assert samples(server)[series] > 0
        assert (await client.render(VIEW, PROJECTION, {"scene": "planet"})).stats["cache"] == "hit"
        assert (await client.drop("planet"))["state"] == "unknown"
        assert samples(server)[series] == 0
        assert (await client.render(VIEW, PROJECTION, {"scene": "planet"})).stats["cache"] == "load"

        assert (await client.warm("nope"))["state"] == "unknown"
        assert "nope" in (await client.warm("nope"))["message"]
        await client.warm("broken")
        failed = await _state(client, "broken", "failed")
        assert "broken.ply" in failed["message"]
    finally:
        await client.close()


async def _state(client: RendererClient, scene: str, wanted: str) -> dict[str, Any]:
    end_s = time.monotonic() + 10
    while (told := await client.warm(scene))["state"] != wanted:
        assert time.monotonic() < end_s, told
        await asyncio.sleep(0.02)
    return told


def test_warm_without_pixels(server: TritonServer) -> None:
    reply = ask(server, "http", action="warm", scene="knot")
    assert isinstance(reply.image, np.ndarray)
    assert reply.image.shape == (0, 0, 3)


def test_every_renderer_metric_is_there(server: TritonServer) -> None:
    ask(server)
    found = samples(server)
    names = {name for name, _ in found}
    for declared in metrics.CATALOGUE.values():
        if declared.name.startswith("splatfleet_renderer_"):
            suffix = "_bucket" if declared.kind == "histogram" else ""
            assert declared.name + suffix in names
            own = {name for (sample, pairs) in found if sample == declared.name + suffix for name, _ in pairs}
            assert own - {"le"} == set(declared.labels)
    assert found["splatfleet_renderer_budget_bytes", ()] == 2 << 30
    assert found["splatfleet_renderer_scene_requests_total", (("result", "hit"),)] > 0
    assert found["splatfleet_renderer_fetched_bytes_total", ()] > 0
    resident = {dict(pairs)["scene"]: n for (name, pairs), n in found.items() if name.endswith("scene_resident_bytes")}
    assert sum(resident.values()) == found["splatfleet_renderer_resident_bytes", ()]


def test_promtool_has_nothing_to_say_about_our_names(server: TritonServer) -> None:
    promtool = shutil.which("promtool") or next(
        (str(path) for path in (Path(__file__).resolve().parents[2] / ".tools").rglob("promtool")), None
    )
    if promtool is None:
        pytest.skip("no promtool here (Debian's package prometheus has it)")
    text = urllib.request.urlopen(f"http://{server.metrics_address}/metrics").read()
    said = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert b"splatfleet" not in said.stderr + said.stdout


def test_budget_evicts_the_least_recently_used(make_server: MakeServer, catalogue: Path) -> None:
    sizes = {entry.id: entry.resident_bytes or 0 for entry in load_catalogue(catalogue).entries.values()}
    budget = sizes["knot"] + sizes["noise"]  # type: ignore[index]
    pod = make_server(**{labels.POD_BUDGET_ENV: str(budget), labels.FRAME_FLOOR_ENV: "0.15"})
    pod.start()
    pod.wait_ready()
    for scene in ("knot", "noise", "planet"):
        stats = ask(pod, scene=scene, width=16, height=16).stats
        assert stats["cache"] == "load"
        assert stats["paced_s"] > 0, "the frame floor is not owned up to"
        assert stats["service_s"] >= 0.15
    found = samples(pod)
    assert found["splatfleet_renderer_scene_evictions_total", (("cause", "budget"),)] >= 1
    assert found["splatfleet_renderer_resident_bytes", ()] <= budget
    assert found["splatfleet_renderer_scene_resident_bytes", (("scene", "knot"),)] == 0


async def test_requests_that_waited_too_long_are_never_rendered(make_server: MakeServer) -> None:
    """A client's patience travels with the request, and Triton's queue refuses what outlived it."""
    pod = make_server(**{labels.SCENES_ENV: "knot", labels.FRAME_FLOOR_ENV: "0.3"})
    pod.start()
    pod.wait_ready()
    client = RendererClient(pod.grpc_address)
    before = samples(pod)["splatfleet_renderer_render_seconds_count", ()]
    try:
        replies = await asyncio.gather(
            *(client.render(VIEW, PROJECTION, {"width": 16, "height": 16}, timeout_s=0.5) for _ in range(8)),
            return_exceptions=True,
        )
        failed = [reply for reply in replies if isinstance(reply, RendererError)]
        assert len(failed) >= 5
        assert {error.kind for error in failed} <= {"deadline", "unavailable"}
        await asyncio.sleep(1.0)
        after = samples(pod)["splatfleet_renderer_render_seconds_count", ()]
        assert after - before <= 3, "frames were rendered that nobody waited for"
    finally:
        await client.close()


def test_the_autoscaler_warms_a_scene_over_http(server: TritonServer) -> None:
    calls = WarmCalls({}.get, {"pod-1": f"http://{server.http_address}"}.get, time.time)
    key = ("splatfleet_renderer_scene_resident_bytes", (("scene", "noise"),))
    ask(server, "grpc", action="drop", scene="noise")  # an earlier test may have brought it
    assert samples(server).get(key, 0.0) == 0.0
    calls.ask([WarmAsk(SceneId("noise"), "memory", 0.0, pod_uid="pod-1")])
    end_s = time.monotonic() + 30.0
    while samples(server).get(key, 0.0) == 0.0:
        assert time.monotonic() < end_s
        time.sleep(0.05)
    assert calls.failed == 0
    calls.close()
    ask(server, "http", action="drop", scene="noise")
