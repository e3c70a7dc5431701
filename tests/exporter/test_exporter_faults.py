"""Broken sources, each at the wire: the scrape stands, the source is down, the others are served."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter import collector as collector_module
from exporter.collector import NodeCollector
from exporter.reading import NodeReading
from exporter.sources import Blocking, SourceError, Sources, metrics_url
from tests.exporter.surroundings import MetricsServer, Store, write_json

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
RESIDENT = (
    'nv_inference_request_success{model="gaussian_renderer"} 1\n'
    'splatfleet_renderer_scene_resident_bytes{scene="a"} 9\nsplatfleet_renderer_budget_bytes 50\n'
)


def _with_length(body: bytes, extra: bytes = b"", length: int | None = None) -> bytes:
    return HEAD + extra + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def _problems(reading: NodeReading) -> dict[tuple[str, str], str]:
    return {(status.source, status.target): status.problem for status in reading.sources}


async def _collect(sources: Sources, times: int = 1) -> NodeReading:
    collector = NodeCollector(sources, 0.0)
    try:
        for _ in range(times):
            reading = await collector.collect()
        return reading
    finally:
        await collector.close()


FAULTS: dict[str, tuple[tuple[bytes, ...], bool, str]] = {
    "malformed": ((_with_length(b"<html>nope</html>\n"),), False, "line 1"),
    "another exporter": ((_with_length(b"go_goroutines 1\n"),), False, "8002"),
    "not UTF-8": ((_with_length(b"\xff\xfe\n"),), False, "UTF-8"),
    "not HTTP": ((b"SSH-2.0-OpenSSH\r\n",), False, ""),
    "error status": ((b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",), False, "503"),
    "redirect": ((b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",), False, "302"),
    "closed at once": ((), False, ""),
    "half a body, then closed": ((_with_length(b"nv_x 1\n", length=5000),), False, ""),
    "half a line, no length": ((HEAD + b"Connection: close\r\n\r\nnv_x 1\nnv_y 16676",), False, "cut short"),
    "hangs before the head": ((), True, "within"),
    "hangs inside the body": ((_with_length(b"nv_x 1\n", length=5000),), True, "within"),
    "compressed": ((_with_length(b"\x1f\x8b", b"Content-Encoding: gzip\r\n"),), False, "compressed"),
    "huge": ((HEAD + b"\r\n", *([b"x 1\n" * 65_536] * 40)), False, "more than"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_broken_triton_leaves_the_others_served(
    fault: str,
    serve_bytes: Callable[..., str],
    serve_metrics: Callable[[str], MetricsServer],
    triton_text: str,
    store: Store,
) -> None:
    chunks, hang, says = FAULTS[fault]
    broken = serve_bytes(*chunks, hang=hang)
    good = serve_metrics(triton_text).address
    store.put("a")
    deadline_s = 1.0 if hang else 20.0  # who does not hang has said what is wrong long before, on a busy machine too
    reading = await _collect(Sources("n", (broken, good), scene_cache=store.root, deadline_s=deadline_s))
    problems = _problems(reading)
    assert problems["triton", good] == ""
    assert problems["scene_cache", str(store.root)] == ""
    assert problems["triton", broken]
    assert says in problems["triton", broken]
    assert {entry.pod for entry in reading.models} == {good}
    assert reading.scene_cache is not None
    assert [scene.id for scene in reading.scene_cache.scenes] == ["a"]


async def test_a_drip_feeding_server_meets_one_deadline_for_all(serve_bytes: Callable[..., str]) -> None:
    body = b"nv_pinned_memory_pool_total_bytes 1\n"
    slow = serve_bytes(HEAD + b"Content-Length: %d\r\n\r\n" % len(body), *[bytes([byte]) for byte in body], pause_s=0.1)
    start_s = time.monotonic()
    reading = await _collect(Sources("n", (slow,), deadline_s=0.3))
    assert "within" in _problems(reading)["triton", slow]
    assert time.monotonic() - start_s < 3


async def test_a_refused_connection_and_ten_hanging_servers(serve_bytes: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused = f"127.0.0.1:{listener.getsockname()[1]}"
    hanging = tuple(serve_bytes(hang=True) for _ in range(10))
    start_s = time.monotonic()
    reading = await _collect(Sources("n", (refused, *hanging), deadline_s=0.5))
    took_s = time.monotonic() - start_s
    assert all(status.problem for status in reading.sources)
    assert took_s < 0.5 * 10 / 2, "they were asked at the same time"


async def test_a_pod_that_stops_answering_is_held_in_the_digest_and_then_dropped(
    serve_metrics: Callable[[str], MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "HOLD_S", 0.3)
    server = serve_metrics(RESIDENT)
    collector = NodeCollector(Sources("n", (server.address,)), 0.0)
    first = (await collector.collect()).digest
    assert [(scene.id, scene.bytes) for scene in first.pods[0].resident] == [("a", 9)]
    assert first.pods[0].budget_bytes == 50
    server.text = "broken"
    reading = await collector.collect()
    assert reading.digest is first
    assert reading.models == ()
    await asyncio.sleep(0.4)
    dropped = (await collector.collect()).digest
    assert dropped.generation == first.generation + 1
    assert dropped.pods[0].resident == ()
    server.text = RESIDENT
    assert (await collector.collect()).digest.pods == first.pods
    await collector.close()


async def test_a_store_that_vanishes_is_absent_from_metrics_and_held_in_the_digest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "HOLD_S", 0.3)
    store.put("a")
    collector = NodeCollector(Sources("n", scene_cache=store.root), 0.0)
    first = (await collector.collect()).digest
    store.root.rename(store.root.with_name("away"))
    reading = await collector.collect()
    assert reading.scene_cache is None
    assert reading.digest is first
    await asyncio.sleep(0.4)
    assert (await collector.collect()).digest.scene_cache.scenes == ()
    await collector.close()


async def test_callers_at_the_same_moment_share_one_scrape(
    serve_metrics: Callable[[str], MetricsServer], triton_text: str
) -> None:
    server = serve_metrics(triton_text)
    collector = NodeCollector(Sources("n", (server.address,)), 0.0)
    readings = await asyncio.gather(*(collector.collect() for _ in range(8)))
    assert all(reading is readings[0] for reading in readings)
    assert server.requests == 1
    await collector.collect()
    assert server.requests == 2
    await collector.close()


async def test_a_slow_disk_is_waited_for_not_asked_twice() -> None:
    calls = []

    def read() -> int:
        calls.append(1)
        time.sleep(0.3)
        return 7

    blocking = Blocking(read)
    for _ in range(2):
        with pytest.raises(SourceError, match="not read within"):
            await blocking(0.05)
    assert await blocking(2.0) == 7
    assert len(calls) == 1


async def test_only_pods_of_this_node_are_scraped_and_name_their_slices(
    tmp_path: Path, serve_metrics: Callable[[str], MetricsServer], triton_text: str
) -> None:
    here, elsewhere = serve_metrics(triton_text), serve_metrics(triton_text)
    pods = [
        {
            "uid": f"pod-{node}", "pool": "viewers", "node": node, "grpc_address": "", "http_address": "",
            "metrics_address": server.address, "budget_bytes": 77, "slice": "GPU-a/1g.10gb@1",
        }
        for node, server in (("n", here), ("m", elsewhere))
    ]  # fmt: skip
    write_json(tmp_path / "renderers.json", {"version": 1, "renderers": pods})
    slices = [{"profile": "1g.10gb", "start": start, "healthy": True, "pod_uid": ""} for start in (0, 1)]
    layout = {"gpus": [{"uuid": "GPU-a", "model": "H100-80", "healthy": True, "slices": slices}]}
    (tmp_path / "gpus.json").write_text(json.dumps(layout))
    sources = Sources("n", renderers_file=tmp_path / "renderers.json", gpus_file=tmp_path / "gpus.json")
    reading = await _collect(sources, times=2)
    assert elsewhere.requests == 0
    assert {(entry.pod, entry.pool) for entry in reading.models} == {("pod-n", "viewers")}
    assert [cut.pod_uid for cut in reading.digest.gpus[0].slices] == ["", "pod-n"]
    assert reading.digest.pods[0].budget_bytes == 77, "the file's where Triton publishes none"
    assert reading.digest.generation == 1


async def test_a_node_that_the_file_never_names_is_told_once_with_the_nodes_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pod = {"uid": "p", "pool": "v", "node": "m", "grpc_address": "", "http_address": "", "metrics_address": "h:1"}
    write_json(tmp_path / "renderers.json", {"version": 1, "renderers": [pod]})
    await _collect(Sources("n", renderers_file=tmp_path / "renderers.json"), times=2)
    told = capsys.readouterr().out
    assert told.count("no renderer on this node") == 1
    assert "['m']" in told


async def test_a_server_named_twice_is_one_pod(
    tmp_path: Path, serve_metrics: Callable[[str], MetricsServer], triton_text: str
) -> None:
    server = serve_metrics(triton_text)
    addresses = {"grpc_address": "", "http_address": "", "metrics_address": server.address}
    pod = {"uid": "pod-0", "pool": "viewers", "node": "n", **addresses}
    write_json(tmp_path / "renderers.json", {"version": 1, "renderers": [pod]})
    flags = (server.address, f"http://{server.address}/metrics")
    reading = await _collect(Sources("n", flags, renderers_file=tmp_path / "renderers.json"))
    assert server.requests == 1
    assert [status.source for status in reading.sources] == ["renderers", "triton"]
    assert [pod.uid for pod in reading.digest.pods] == ["pod-0"]


async def test_a_pod_with_a_broken_address_is_down_alone(
    tmp_path: Path, serve_metrics: Callable[[str], MetricsServer], triton_text: str
) -> None:
    addresses = {"grpc_address": "", "http_address": "", "metrics_address": "http://[::1/metrics"}
    pod = {"uid": "pod-0", "pool": "viewers", "node": "n", **addresses}
    write_json(tmp_path / "renderers.json", {"version": 1, "renderers": [pod]})
    good = serve_metrics(triton_text).address
    reading = await _collect(Sources("n", (good,), renderers_file=tmp_path / "renderers.json"))
    assert {entry.pod for entry in reading.models} == {good}
    assert sum(bool(status.problem) for status in reading.sources) == 1


async def test_dcgm_down_leaves_no_series_and_no_zero(serve_bytes: Callable[..., str]) -> None:
    reading = await _collect(Sources("n", dcgm=serve_bytes(hang=True), deadline_s=0.2))
    assert [(status.source, bool(status.problem)) for status in reading.sources] == [("dcgm", True)]
    assert reading.usages == ()


def test_metrics_addresses() -> None:
    assert metrics_url("127.0.0.1:8002") == "http://127.0.0.1:8002/metrics"
    assert metrics_url("http://h:1/") == "http://h:1/metrics"
    assert metrics_url("https://h:1/custom?x=1") == "https://h:1/custom?x=1"
    for wrong in ("", "ftp://h/x", "http://", "http://h:port/"):
        with pytest.raises(ValueError, match="metrics address"):
            metrics_url(wrong)
