"""Many streams through the gateway, open loop: goodput around and beyond capacity, a spike, memory, the longest wait.

Real Triton pods whose frame floor makes their capacity known, so that the load and not the machine is what is too much.
Cameras are Poisson over all sessions, each `moving: false`: one camera, one frame, unless a newer one supersedes it.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import psutil

from benchmarks.machine import describe
from benchmarks.served import served
from fleet import labels
from fleet.scene import SceneId
from local_fleet.orbits import Orbit, encode_bodies
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.formats.ply import write as write_ply
from renderer.made import make

SCENE = "knot"
PODS = 2
FRAME_FLOOR_S = 0.02
CAPACITY_PER_S = PODS / FRAME_FLOOR_S
PHASE_S = 10.0
# Cameras a second over capacity; the last three are a base, five times it, and the base again.
PHASES = (("half", 0.5), ("full", 1.0), ("double", 2.0), ("base", 0.3), ("spike", 1.5), ("after", 0.3))
DRAIN_S = 40.0


@dataclass(slots=True)
class Phase:
    """What was offered and what came of it."""

    name: str
    offered_per_s: float
    frames: int = 0
    errors_5xx: int = 0
    errors_other: int = 0
    waits_s: list[float] = field(default_factory=list)  # of a session, from its first open camera until a frame
    ages_ms: list[float] = field(default_factory=list)  # of the camera that a frame shows
    rss_bytes: int = 0

    def row(self, seconds: float) -> dict[str, Any]:
        waits, ages = self.waits_s or [float("nan")], self.ages_ms or [float("nan")]
        return {
            "phase": self.name,
            "offered_per_s": self.offered_per_s,
            "frames_per_s": round(self.frames / seconds, 1),
            "errors_5xx": self.errors_5xx,
            "errors_other": self.errors_other,
            "wait_p50_ms": round(1e3 * float(np.quantile(waits, 0.5)), 1),
            "wait_p99_ms": round(1e3 * float(np.quantile(waits, 0.99)), 1),
            "wait_max_ms": round(1e3 * max(waits), 1),
            "age_p50_ms": round(float(np.quantile(ages, 0.5)), 1),
            "gateway_rss_mib": round(self.rss_bytes / 2**20, 1),
        }


class Crowd:
    """All sessions of the benchmark in one client process."""

    def __init__(self, gateway: str, sessions: int, seed: int = 1) -> None:
        self.phase = Phase("none", 0.0)
        self._url = f"{gateway.replace('http', 'ws')}/v1/stream?scene={SCENE}"
        self._sessions = sessions
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []
        self._open_since_s: dict[int, float] = {}
        self._seeded = random.Random(seed)
        poses = encode_bodies(Orbit(SCENE), (96, 64), {})
        self._cameras = [_camera(pose) for pose in poses]

    @property
    def unanswered(self) -> int:
        return len(self._open_since_s)

    async def join(self, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        """Open every session, and read each."""
        for number in range(self._sessions):
            socket = await session.ws_connect(self._url, compress=0, max_msg_size=0)
            self._sockets.append(socket)
            tasks.create_task(self._read(number, socket))

    async def leave(self) -> None:
        for socket in self._sockets:
            await socket.close()

    async def play(self, phase: Phase, seconds: float) -> None:
        """Send cameras at the rate of the phase, each when it is due, for so long."""
        self.phase = phase
        due_s = time.monotonic()
        end_s = due_s + seconds
        while due_s < end_s:
            if (pause_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(pause_s)
            await self._send(self._seeded.randrange(self._sessions))
            due_s += self._seeded.expovariate(phase.offered_per_s)

    async def _send(self, number: int) -> None:
        now_s = time.monotonic()
        camera = self._seeded.choice(self._cameras)
        text = camera[:-1] + f',"moving":false,"client_time_ms":{now_s * 1e3:.1f}}}'
        self._open_since_s.setdefault(number, now_s)
        await self._sockets[number].send_str(text)

    async def _read(self, number: int, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                length = int.from_bytes(message.data[:4], "big")
                head = msgspec.json.decode(message.data[4 : 4 + length])
                now_s = time.monotonic()
                self.phase.frames += 1
                self.phase.ages_ms.append(now_s * 1e3 - head["client_time_ms"])
                self.phase.waits_s.append(now_s - self._open_since_s.pop(number, now_s))
            elif message.type is aiohttp.WSMsgType.TEXT and "error" in (told := msgspec.json.decode(message.data)):
                self.phase.errors_5xx += told["error"]["status"] >= 500
                self.phase.errors_other += told["error"]["status"] < 500


def _camera(body: bytes) -> str:
    fields = json.loads(body)
    del fields["scene"]
    return json.dumps(fields)


async def _measure(gateway: str, process: psutil.Process, sessions: int) -> dict[str, Any]:
    crowd = Crowd(gateway, sessions)
    before_bytes = process.memory_info().rss
    phases = [Phase(name, share * CAPACITY_PER_S) for name, share in PHASES]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session, asyncio.TaskGroup() as tasks:
        await crowd.join(session, tasks)
        joined_bytes = process.memory_info().rss
        drained_s = []
        for phase in phases:
            await crowd.play(phase, PHASE_S)
            phase.rss_bytes = process.memory_info().rss
            if phase.name in ("double", "after"):  # what was too much is answered before anything else is measured
                crowd.phase = Phase("drain", 0.0)
                drained_s.append(await _drain(crowd))
        unanswered = crowd.unanswered
        await crowd.leave()
    rows = [phase.row(PHASE_S) for phase in phases]
    peak = max(row["frames_per_s"] for row in rows)
    double = next(row for row in rows if row["phase"] == "double")
    return {
        "sessions": sessions,
        "capacity_per_s": CAPACITY_PER_S,
        "rows": rows,
        "goodput_at_double_ratio": round(double["frames_per_s"] / peak, 3),
        "unanswered_sessions": unanswered,
        "drain_s": [round(seconds, 2) for seconds in drained_s],
        "rss_per_session_bytes": round((joined_bytes - before_bytes) / sessions),
        "rss_before_mib": round(before_bytes / 2**20, 1),
        "rss_joined_mib": round(joined_bytes / 2**20, 1),
        "rss_end_mib": round(process.memory_info().rss / 2**20, 1),
    }


async def _drain(crowd: Crowd) -> float:
    began_s = time.monotonic()
    while crowd.unanswered and time.monotonic() - began_s < DRAIN_S:
        await asyncio.sleep(0.05)
    return time.monotonic() - began_s


def measure(sessions: int) -> dict[str, Any]:
    """Start pods and a gateway, play the phases; the figures. Raises TritonUnavailable."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sessions + 512
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    with tempfile.TemporaryDirectory(prefix="splatfleet-bench-") as name:
        folder = Path(name)
        write_ply(folder / "scene.ply", make(SCENE, 500))
        entry = CatalogueEntry(SceneId(SCENE), (folder / "scene.ply").as_uri())
        save_catalogue(Catalogue([entry]), folder / "catalogue.json")
        environment = {
            labels.SCENES_ENV: SCENE,
            labels.STORE_CAPACITY_ENV: str(1 << 28),
            labels.POD_BUDGET_ENV: str(1 << 26),
            labels.FRAME_FLOOR_ENV: str(FRAME_FLOOR_S),
        }
        with served(folder, PODS, environment) as fleet:
            return asyncio.run(_measure(fleet.gateway, psutil.Process(fleet.gateway_pid), sessions))


def main(sessions: int, json_path: Path | None = None) -> int:
    """Print the table; 1 where a goal is missed."""
    machine = describe()
    report = measure(sessions)
    print(f"{machine.cpu}, {machine.cpus} cores, calibration loop {machine.calibration_s:.3f} s")
    print(f"load average {machine.load_average_1min:.2f} before")
    print(f"{sessions} sessions, capacity {CAPACITY_PER_S:g} frames/s")
    print(" | ".join(report["rows"][0]))
    for row in report["rows"]:
        print(" | ".join(str(value) for value in row.values()))
    print(
        f"goodput at double load {report['goodput_at_double_ratio']:.0%} of its peak; "
        f"{report['unanswered_sessions']} sessions without an answer; drained in {report['drain_s']} s"
    )
    sizes_mib = [report[f"rss_{name}_mib"] for name in ("before", "joined", "end")]
    print("gateway RSS {} MiB before, {} with all sessions open, {} at the end".format(*sizes_mib))
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": asdict(machine), **report}, indent=1) + "\n")
    failed = sum(row["errors_5xx"] for row in report["rows"]) or report["unanswered_sessions"]
    return 1 if failed or report["goodput_at_double_ratio"] < 0.9 else 0
