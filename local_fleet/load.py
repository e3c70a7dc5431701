"""Variable traffic against a gateway: open loop, so that a slow answer never slows the arrivals down.

A request is sent when its time has come, whatever became of those before it, and its latency counts from that time.
What was not sent because too many were open, or not answered in time, is a failed request and not a missing one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import msgspec
import numpy as np
from numpy.typing import NDArray

from fleet.traffic import Floats
from local_fleet.orbits import POSES, Orbit, encode_bodies

WAIT_OBJECTIVE_S = 0.5
SECONDS_A_TURN = 20.0
SUFFIXES = {"jpeg": "jpg", "png": "png", "webp": "webp", "raw": "rgb"}


@dataclass(frozen=True, slots=True, eq=False)
class LoadPlan:
    """Who asks for what when; the same plan is the same traffic."""

    arrivals_s: Floats  # [m], sorted, from the start of the replay
    scenes: NDArray[np.int64]  # [m], indices into `orbits`
    orbits: tuple[Orbit, ...]
    size: tuple[int, int] = (256, 256)
    format: str = "jpeg"
    quality: int | None = None
    pool: str | None = None
    deadline_s: float | None = None  # told to the gateway


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """What the client bears; beyond it a request fails at once."""

    max_open: int = 1000
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What became of one request; `status` 0 is no answer at all."""

    t_s: float  # when it was due, from the start
    scene: str
    status: int
    latency_s: float  # from when it was due
    late_s: float  # of which the client itself was late
    wait_s: float | None = None  # as the gateway says
    service_s: float | None = None
    cold: str = ""
    cache: str = ""
    bytes: int = 0
    pod: str = ""
    error: str = ""

    @property
    def waited_s(self) -> float:
        """The wait until the render started; for a request without a frame all the time it took."""
        return self.latency_s if self.status != 200 or self.wait_s is None else self.wait_s


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """The score of a run. Waits count failed requests with the time that they took."""

    requests: int
    frames: int
    violations: int  # waited over the objective, failed or refused
    violation_ratio: float
    refused: int  # 503: queue full or held too long
    deadlines: int  # 504
    errors: int  # everything else that is no frame
    wait_p50_s: float
    wait_p99_s: float
    frame_p50_s: float  # of answered requests, from when they were due
    frame_p99_s: float
    service_p50_s: float
    cold_requests: int
    scene_hits: int  # frames that met a pod with their scene in memory
    scene_misses: int
    bytes_received: int
    client_late_p99_s: float  # how late the client itself sent


@dataclass(frozen=True, slots=True)
class Saving:
    """Where every `every`-th frame is kept as a picture."""

    folder: Path
    every: int = 50


class LoadClient:
    """One replay of a plan against one gateway."""

    def __init__(
        self,
        gateway: str,
        plan: LoadPlan,
        limits: LoadLimits | None = None,
        saving: Saving | None = None,
        on_record: Callable[[FrameRecord], None] | None = None,
    ) -> None:
        self.records: list[FrameRecord] = []
        self.open = 0
        self._url = gateway.rstrip("/") + "/v1/render"
        self._plan = plan
        self._limits = limits or LoadLimits()
        self._saving = saving
        self._on_record = on_record
        options: dict[str, Any] = {"format": plan.format, "quality": plan.quality, "pool": plan.pool}
        options["deadline_ms"] = plan.deadline_s and plan.deadline_s * 1000.0
        given = {name: value for name, value in options.items() if value is not None}
        self._bodies = [encode_bodies(orbit, plan.size, given) for orbit in plan.orbits]

    async def run(self, start_s: float | None = None) -> list[FrameRecord]:
        """Send every request at its time; returns once all are answered or given up.

        `start_s` is the monotonic time of the plan's zero, now where absent.
        """
        begin_s = time.monotonic() if start_s is None else start_s
        timeout = aiohttp.ClientTimeout(total=self._limits.timeout_s)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60.0)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for number, due_s in enumerate(self._plan.arrivals_s.tolist()):
                pause_s = begin_s + due_s - time.monotonic()
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                if self.open >= self._limits.max_open:
                    self._keep(self._failed(number, begin_s, "too many open requests"))
                    continue
                self.open += 1
                tasks.create_task(self._one(session, number, begin_s))
        return self.records

    async def _one(self, session: aiohttp.ClientSession, number: int, begin_s: float) -> None:
        late_s = time.monotonic() - begin_s - float(self._plan.arrivals_s[number])
        scene = int(self._plan.scenes[number])
        pose = int(float(self._plan.arrivals_s[number]) / SECONDS_A_TURN * POSES) + 7 * scene
        data = self._bodies[scene][pose % POSES]
        try:
            async with session.post(self._url, data=data, headers={"content-type": "application/json"}) as answer:
                content = await answer.read()
                record = self._answered(number, begin_s, late_s, answer, content)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            record = self._failed(number, begin_s, f"{type(error).__name__}: {error}", late_s)
        finally:
            self.open -= 1
        self._keep(record)
        if record.status == 200 and self._saving is not None and number % self._saving.every == 0:
            name = f"{number:06d}-{record.scene}.{SUFFIXES[self._plan.format]}"
            (self._saving.folder / name).write_bytes(content)

    def _answered(
        self, number: int, begin_s: float, late_s: float, answer: aiohttp.ClientResponse, content: bytes
    ) -> FrameRecord:
        due_s = float(self._plan.arrivals_s[number])
        headers = answer.headers
        return FrameRecord(
            t_s=round(due_s, 6),
            scene=self._plan.orbits[int(self._plan.scenes[number])].scene,
            status=answer.status,
            latency_s=round(time.monotonic() - begin_s - due_s, 6),
            late_s=round(late_s, 6),
            wait_s=_number(headers.get("X-Splatfleet-Wait-Seconds")),
            service_s=_number(headers.get("X-Splatfleet-Service-Seconds")),
            cold=headers.get("X-Splatfleet-Cold", ""),
            cache=headers.get("X-Splatfleet-Cache", ""),
            bytes=len(content),
            pod=headers.get("X-Splatfleet-Pod", ""),
            error="" if answer.status == 200 else content[:300].decode(errors="replace"),
        )

    def _failed(self, number: int, begin_s: float, error: str, late_s: float = 0.0) -> FrameRecord:
        due_s = float(self._plan.arrivals_s[number])
        scene = self._plan.orbits[int(self._plan.scenes[number])].scene
        latency_s = time.monotonic() - begin_s - due_s
        return FrameRecord(round(due_s, 6), scene, 0, round(latency_s, 6), round(late_s, 6), error=error)

    def _keep(self, record: FrameRecord) -> None:
        self.records.append(record)
        if self._on_record is not None:
            self._on_record(record)


def summarize(records: list[FrameRecord], objective_s: float = WAIT_OBJECTIVE_S) -> LoadSummary:
    """Score a run; raises ValueError where nothing was sent."""
    if not records:
        raise ValueError("no request was sent, nothing to score")
    frames = [record for record in records if record.status == 200]
    waits_s = [record.waited_s for record in records]
    violations = sum(r.status != 200 or r.waited_s > objective_s for r in records)
    hits = sum(record.cache == "hit" and record.cold == "none" for record in frames)
    return LoadSummary(
        requests=len(records),
        frames=len(frames),
        violations=violations,
        violation_ratio=violations / len(records),
        refused=sum(record.status == 503 for record in records),
        deadlines=sum(record.status == 504 for record in records),
        errors=sum(record.status not in (200, 503, 504) for record in records),
        wait_p50_s=_quantile(waits_s, 0.5),
        wait_p99_s=_quantile(waits_s, 0.99),
        frame_p50_s=_quantile([record.latency_s for record in frames], 0.5),
        frame_p99_s=_quantile([record.latency_s for record in frames], 0.99),
        service_p50_s=_quantile([r.service_s for r in frames if r.service_s is not None], 0.5),
        cold_requests=sum(record.cold in ("pod", "scene") for record in records),
        scene_hits=hits,
        scene_misses=len(frames) - hits,
        bytes_received=sum(record.bytes for record in frames),
        client_late_p99_s=_quantile([record.late_s for record in records], 0.99),
    )


def write_records(records: list[FrameRecord], file: TextIO) -> None:
    """One JSON object a line, in the order of the answers."""
    for record in records:
        file.write(msgspec.json.encode(record).decode() + "\n")


def _quantile(values: list[float], at: float) -> float:
    """The quantile, NaN where there is nothing: no frame is not a fast frame."""
    return float(np.quantile(values, at)) if values else float("nan")


def _number(text: Any) -> float | None:
    return float(text) if text else None
