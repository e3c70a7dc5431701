"""A decision log decides again to the last bit, over gaps, refits, a GPU budget and pools that cannot be seen."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from autoscaler.boosting import Refitter
from autoscaler.decision_log import DecisionLog, DecisionLogError, replay
from autoscaler.loop import (
    Behavior,
    Calendar,
    Decision,
    ForecastSettings,
    Memory,
    NodeState,
    Observation,
    Override,
    PodState,
    Pool,
    ServiceTime,
    StartingPod,
    WarmAsk,
    read_on,
    tick,
)
from fleet.scene import SceneId
from splatfleet.replay import COMMAND

DAY = 48


class World:
    """Two pools with a day of 48 bins; numbers that no rounding leaves alone."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(4)
        self.weights = (5.5, 1.0, 0.1, 0.2, 0.3, 0.7, 1.1)
        self.now_s = 1_700_000_000.1
        self.desired = {"one": 3, "two": 2}
        self.counts: dict[str, list[float]] = {"one": [], "two": []}
        self.blind = False
        for _ in range(10 * DAY):
            self.step()
        for counts in self.counts.values():
            counts[5:9] = [math.nan] * 4

    def step(self) -> None:
        self.now_s += 60.0
        self.weights = tuple(weight * 1.01 for weight in self.weights[1:] + self.weights[:1])
        for name, mean in (("one", 700.0), ("two", 250.0)):
            phase = 2 * math.pi * len(self.counts[name]) / DAY
            self.counts[name].append(self.random.poisson(mean * (1.1 - math.cos(phase))) / 3.0)

    def pools(self) -> Sequence[Pool]:
        season = ForecastSettings(season_s=(DAY * 60.0,), quantile=0.95)
        calendar = Calendar("work", "08:00", "18:00", "Europe/Berlin", min_replicas=2)
        override = Override(until_s=1_700_000_000.0 + 550 * 60, min_replicas=3, note="launch")
        first = Pool("one", max_replicas=40, tick_s=60.0, forecast=season, calendars=(calendar,), priority=1)
        second = replace(first, name="two", priority=0, overrides=(override,), min_replicas=0)
        first = replace(first, behavior=Behavior(headroom=0.3))
        return [replace(first, node_startup_s=600.0), second]

    def observe(self, pool: Pool, now_s: float) -> Observation:
        if self.blind and pool.name == "two":
            raise ConnectionError("refused")
        count = self.desired[pool.name]
        demand = np.array(self.counts[pool.name][-12 * DAY :])
        return Observation(
            pool.name,
            now_s,
            60.0,
            demand,
            ready=count,
            desired=count,
            starting=(StartingPod("s", 12.34),),
            pending=float(self.random.integers(0, 5)),
            queue_to_compute=float(self.random.uniform(0, 0.4)),
            service=ServiceTime(0.21, 0.7, 900),
            startup_s=(170.1, 181.3, 190.7),
            served=500.0,
            late=float(self.random.integers(0, 20)),
            scene_demand={SceneId(name): weight for name, weight in zip("abcdefg", self.weights, strict=True)},
            scene_bytes={SceneId("a"): 1000, SceneId("b"): 500},
            pods=(PodState("p", node="n", resident=(SceneId("a"),), budget_bytes=5000),),
            nodes=(NodeState("n", (SceneId("a"),), 10_000, 1e8),),
        )

    def scale(self, pool: Pool, decision: Decision) -> None:
        self.desired[pool.name] = decision.replicas

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        del pool, asks


@pytest.fixture(scope="module")
def log() -> str:
    world, memory, text = World(), Memory(gpu_budget=30.0, build_bins=300), io.StringIO()
    recorder, refitter = DecisionLog(text, memory), Refitter()
    memory.record, refitter.adopted = recorder.record, recorder.adopted
    try:
        for index in range(90):
            world.blind = 40 <= index < 45
            tick(world, memory, world.now_s)
            if read := read_on(memory, 150):
                recorder.read_on(read)
            if index in (5, 60):
                refitter.settle(memory)
            if index % 7:
                world.step()
    finally:
        refitter.close()
    return text.getvalue()


def test_a_log_replays_bit_for_bit(log: str) -> None:
    found = replay(log.splitlines())
    assert (found.ticks, found.decisions, found.differences) == (90, 180, [])
    assert '"adopted":"one"' in log
    assert '"read_on":{"one":150}' in log
    assert '"places": {"count"' in log or '"places":{"count"' in log
    assert "gpu_budget" in log
    assert "observe_failed" in log


def test_another_process_replays_bit_for_bit(log: str, tmp_path: Path) -> None:
    """The hash of a text, by which sets are ordered, is another in each."""
    path = tmp_path / "log.jsonl"
    path.write_text(log)
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-m", "splatfleet", "replay", str(path)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "180 of 180 decisions the same bit for bit" in done.stdout, done.stdout + done.stderr


class Disk(io.RawIOBase):
    """Takes so many bytes, then none."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.room_bytes < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room_bytes -= len(data)
        return len(data)


def test_a_full_disk_ends_the_log_and_nothing_else() -> None:
    world, memory, told = World(), Memory(), []
    file = io.TextIOWrapper(io.BufferedWriter(Disk(60_000)))
    memory.record = DecisionLog(file, memory, told.append).record
    for _ in range(30):
        assert len(tick(world, memory, world.now_s)) == 2
        world.step()
    file.close()
    assert [error.errno for error in told] == [errno.ENOSPC]


def test_a_history_is_written_once(log: str) -> None:
    ticks = [json.loads(line) for line in log.splitlines() if line.startswith('{"now_s"')]
    fresh = [len(look["new"]) for line in ticks[1:] for look in line["looks"] if "new" in look]
    assert len(ticks[0]["looks"][0]["new"]) > 400
    assert max(fresh) <= 5  # after the time that the pool could not be seen
    assert min(fresh) == 0


def test_one_changed_number_is_found(log: str, tmp_path: Path) -> None:
    lines = log.splitlines()
    at = next(i for i, line in enumerate(lines) if '"reason": "' in line or '"reason":"' in line)
    changed = json.loads(lines[at])
    changed["looks"][0]["observation"]["pending"] += 37.0
    lines[at] = json.dumps(changed)
    found = replay(lines)
    assert found.differences
    assert found.differences[0].line == at + 1
    assert "explanation" in found.differences[0].fields
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(COMMAND, [str(path), "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 1
    assert "differ" in result.output
    assert json.loads((tmp_path / "out.json").read_text())["differences"] == len(found.differences)


def test_the_command_agrees(log: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(log)
    result = CliRunner().invoke(COMMAND, [str(path)])
    assert result.exit_code == 0
    assert "90 ticks, 180 of 180 decisions the same bit for bit" in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "empty"), ('{"log":"autoscaler","version":9}', "version 2"), ("nonsense", "line 1")],
)
def test_a_log_that_is_none(text: str, said: str) -> None:
    with pytest.raises(DecisionLogError, match=said):
        replay(text.splitlines())


def test_a_log_that_was_cut_says_where(log: str, tmp_path: Path) -> None:
    with pytest.raises(DecisionLogError, match="is cut or is no JSON"):
        replay(log[:-200].splitlines())
    path = tmp_path / "log.jsonl"
    path.write_text("nonsense\n")
    result = CliRunner().invoke(COMMAND, [str(path)])
    assert result.exit_code == 1
    assert "expected the head of a log" in result.output


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda head: head + b'{"pool":"\xe9"}\n', "line 2 is cut or is no JSON"),
        (lambda head: head + b"[" * 100_000, "line 2 is cut or is no JSON"),
        (lambda _: b"[" * 9_000, "line 1 is b'[[["),
        (lambda _: b"[" * 100_000 + b"\n", "line 1 is b'[[["),
        (lambda _: b"\xe9\n", "line 1 is b'"),
        (lambda head: head + b'{"adopted":"x","trees":{}}\n', "line 2: KeyError"),
    ],
)
def test_a_damaged_log_is_told_in_a_line(tmp_path: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(damage(b'{"log":"autoscaler","version":2,"gpu_budget":null,"build_bins":25000}\n'))
    result = CliRunner().invoke(COMMAND, [str(path)])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert said in result.output
    assert len(result.output.splitlines()) == 1
