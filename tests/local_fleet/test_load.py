"""The load client against a server that is real at the wire: open loop, bounded, honest about what failed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fleet.traffic import arrivals, zipf_scenes
from local_fleet.load import FrameRecord, LoadClient, LoadLimits, LoadPlan, Saving, summarize, write_records
from local_fleet.orbits import Orbit, encode_bodies, orbits_of_status
from renderer.camera import camera_from_matrices
from splatfleet.__main__ import main

ORBITS = (Orbit("robot"), Orbit("garden", eye=(0.0, -1.0, 4.0), target=(0.0, 0.5, 0.0)))


class Answering:
    """An HTTP server that answers every frame request alike, after `pause_s`."""

    def __init__(self, status: int = 200, pause_s: float = 0.0) -> None:
        self.status = status
        self.pause_s = pause_s
        self.bodies: list[dict[str, Any]] = []
        self.connections = 0
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                self.bodies.append(json.loads(await reader.readexactly(size)))
                await asyncio.sleep(self.pause_s)
                body = b"a frame" if self.status == 200 else b'{"error": {"code": "queue_full"}}'
                extra = b"x-splatfleet-wait-seconds: 0.7\r\nx-splatfleet-service-seconds: 0.01\r\n"
                extra += b"x-splatfleet-cold: scene\r\nx-splatfleet-cache: hit\r\nx-splatfleet-pod: pod-a\r\n"
                writer.write(
                    b"HTTP/1.1 %d OK\r\ncontent-length: %d\r\n%s\r\n%s" % (self.status, len(body), extra, body)
                )
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def answering(status: int = 200, pause_s: float = 0.0) -> AsyncIterator[Answering]:
    served = Answering(status, pause_s)
    server = await asyncio.start_server(served.answer, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()


def plan(count: int, seconds: float = 0.5, **fields: Any) -> LoadPlan:
    times_s = np.linspace(0.0, seconds, count)
    return LoadPlan(times_s, zipf_scenes(len(ORBITS), 1.0, count, 1), ORBITS, (64, 48), **fields)


async def test_every_request_is_sent_and_read_back() -> None:
    async with answering() as served:
        records = await LoadClient(served.url, plan(30, quality=70)).run()
    assert len(records) == len(served.bodies) == 30
    assert {record.scene for record in records} == {"robot", "garden"}
    first = records[0]
    assert (first.status, first.wait_s, first.service_s, first.cold, first.cache) == (200, 0.7, 0.01, "scene", "hit")
    assert (first.pod, first.bytes) == ("pod-a", 7)
    body = served.bodies[0]
    assert (body["size"], body["format"], body["quality"]) == ([64, 48], "jpeg", 70)
    assert served.connections < 30  # kept alive
    lines = io.StringIO()
    write_records(records, lines)
    assert [json.loads(line)["t_s"] for line in lines.getvalue().splitlines()] == [record.t_s for record in records]


async def test_slow_answers_do_not_slow_the_arrivals_down() -> None:
    async with answering(pause_s=1.0) as served:
        client = LoadClient(served.url, plan(20, seconds=0.4))
        task = asyncio.create_task(client.run())
        await asyncio.sleep(0.8)
        assert client.open == 20  # all are out, none is back
        records = await task
    assert min(record.latency_s for record in records) >= 1.0
    assert {record.status for record in records} == {200}


async def test_what_is_not_sent_or_not_answered_has_failed() -> None:
    async with answering(pause_s=30.0) as served:
        limits = LoadLimits(max_open=3, timeout_s=0.5)
        records = await LoadClient(served.url, plan(10, seconds=0.1), limits).run()
    assert [record.status for record in records] == [0] * 10
    assert sum("too many open" in record.error for record in records) == 7
    assert sum("Timeout" in record.error for record in records) == 3
    summary = summarize(records)
    assert (summary.requests, summary.frames, summary.errors, summary.violations) == (10, 0, 10, 10)
    assert math.isnan(summary.frame_p50_s)


async def test_refusals_are_counted_apart_from_errors() -> None:
    async with answering(status=503) as served:
        summary = summarize(await LoadClient(served.url, plan(5)).run())
    assert (summary.refused, summary.errors, summary.violations) == (5, 0, 5)


async def test_nobody_there_is_an_error_and_no_crash(free_port: int) -> None:
    records = await LoadClient(f"http://127.0.0.1:{free_port}", plan(3)).run()
    assert [record.status for record in records] == [0, 0, 0]


async def test_sample_frames_are_kept(tmp_path: Path) -> None:
    async with answering() as served:
        await LoadClient(served.url, plan(10), saving=Saving(tmp_path, every=5)).run()
    assert sorted(path.name[:6] for path in tmp_path.glob("*.jpg")) == ["000000", "000005"]


def test_the_score_counts_waits_over_the_objective() -> None:
    def record(status: int = 200, wait_s: float | None = 0.1, **fields: Any) -> FrameRecord:
        return FrameRecord(0.0, "robot", status, 0.2, 0.0, wait_s=wait_s, **fields)

    summary = summarize(
        [
            record(cache="hit", cold="none"),
            record(wait_s=0.6, cache="hit", cold="scene"),
            record(status=502, wait_s=None),
            record(status=503, wait_s=None),
            record(status=504, wait_s=None),
        ]
    )
    assert (summary.requests, summary.frames, summary.violations) == (5, 2, 4)
    assert (summary.refused, summary.deadlines, summary.errors) == (1, 1, 1)
    assert (summary.cold_requests, summary.scene_hits, summary.scene_misses) == (1, 1, 1)
    assert summary.wait_p50_s == 0.2
    with pytest.raises(ValueError, match="no request was sent"):
        summarize([])


def test_an_orbit_goes_around_its_target_at_its_height() -> None:
    orbit = Orbit("robot", eye=(2.0, -1.0, 0.0), target=(0.0, 0.5, 0.0))
    places = np.array([orbit.eye_at(turn) for turn in np.linspace(0, 1, 9)])
    assert places[0] == pytest.approx(places[-1])
    assert places[:, 1] == pytest.approx(-1.0)
    assert np.linalg.norm(places - orbit.target, axis=1) == pytest.approx(math.hypot(2.0, 1.5))
    assert np.linalg.norm(places[0] - places[4]) == pytest.approx(4.0)
    for body in encode_bodies(orbit, (64, 48), {"format": "png"}, poses=4):
        fields = json.loads(body)
        view, projection = (np.reshape(fields[name], (4, 4)) for name in ("view_matrix", "projection_matrix"))
        camera = camera_from_matrices(view, projection, 64, 48)
        seen = camera.view @ [0.0, 0.5, 0.0, 1.0]
        assert seen[:2] == pytest.approx([0.0, 0.0], abs=1e-4)
        assert seen[2] > 0


def test_orbits_come_from_the_status_of_a_gateway() -> None:
    status = {
        "scenes": [
            {
                "id": "robot",
                "up": [0, -1, 0],
                "default_camera": {"eye": [1, 2, 3], "target": [0, 0, 1], "fov_y_degrees": 40},
            },
            {"id": "garden"},
        ]
    }
    robot, garden = orbits_of_status(status)
    assert (robot.eye, robot.target, robot.fov_y_degrees) == ((1, 2, 3), (0, 0, 1), 40)
    assert garden == Orbit("garden")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--size", "big"], "--size: 'big' is no size"),
        (["--scenes", "../x"], "'../x' is not valid"),
        (["--trace", "nowhere.csv"], "--trace nowhere.csv"),
    ],
)
def test_wrong_usage_is_one_line_and_asks_nobody(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(main, ["load", "--gateway", "http://127.0.0.1:1", *arguments])
    assert result.exit_code == 2
    assert named in result.output
    assert "Traceback" not in result.output


def test_no_gateway_is_one_line(free_port: int) -> None:
    result = CliRunner().invoke(main, ["load", "--gateway", f"http://127.0.0.1:{free_port}", "--duration", "1"])
    assert result.exit_code == 1
    assert "no gateway answers there" in result.output


def test_the_same_seed_is_the_same_traffic() -> None:
    rates = np.full(5, 20.0)
    assert arrivals(rates, 1.0, 7).tolist() == arrivals(rates, 1.0, 7).tolist()
    assert arrivals(rates, 1.0, 7).tolist() != arrivals(rates, 1.0, 8).tolist()
