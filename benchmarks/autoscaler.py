"""What a tick over many pools costs: seconds of CPU, the slowest tick, and the memory that the process needs.

Each pool has two weeks of one-minute bins behind it. A few histories are read in full, as after a restart, and what
was learned from them is copied to the other pools; the refits run in the background as they do in production.
"""

from __future__ import annotations

import copy
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from autoscaler.boosting import Refitter, fit
from autoscaler.exposition import DecisionMetrics
from autoscaler.loop import Decision, Memory, Observation, Pool, ServiceTime, StartingPod, WarmAsk, tick
from autoscaler.memory import PoolMemory
from autoscaler.observation import Floats
from autoscaler.runner import Runner
from autoscaler.trees import FitTask
from benchmarks.machine import describe

BIN_S = 60.0
TICK_S = 15.0
DAY = 1440
HISTORY = 14 * DAY
RESTARTED = 60  # pools whose histories are read as after a restart: three intervals or so
MOST_RESTART_MIN = 60
KINDS = 2  # histories that are read in full


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run; `tick_cpu_s_mean` holds the refits' share of a tick."""

    pools: int
    ticks: int
    tick_cpu_s_mean: float
    tick_wall_s_p99: float
    peak_rss_mb: float
    build_s_mean: float  # of CPU, to read the history of one pool after a restart
    refit_s_mean: float  # of CPU, once a day and pool
    refits_finished: int  # in the background, while the ticks were measured
    restart_min: float  # until every pool is forecast again after a restart, from a sample of pools read for real
    restart_tick_wall_s_max: float  # meanwhile


class Fleet:
    """Pools with a daily cycle each, and a bin more every minute; nothing that is decided changes them."""

    def __init__(self, count: int, minutes: int) -> None:
        """So many minutes can be played after the histories."""
        random = np.random.default_rng(1)
        bins = np.arange(HISTORY + 1 + minutes)
        self.demand: dict[str, Floats] = {}
        self._pools = []
        for index in range(count):
            phase = 2 * np.pi * (bins / DAY + random.uniform())
            # Enough for forecasters of one shape: what one pool learned is copied to others below.
            mean = 60.0 * random.uniform(2.0, 40.0) * (1.2 - np.cos(phase))
            name = f"pool-{index:04d}"
            self.demand[name] = random.poisson(mean).astype(np.float64)
            self._pools.append(Pool(name, max_replicas=200, tick_s=TICK_S))
        self.shown = count
        self.desired = dict.fromkeys(self.demand, 8)

    def pools(self) -> Sequence[Pool]:
        return self._pools[: self.shown]

    def observe(self, pool: Pool, now_s: float) -> Observation:
        count, known = self.desired[pool.name], int(now_s // BIN_S)
        return Observation(
            pool.name,
            now_s,
            BIN_S,
            self.demand[pool.name][known - HISTORY : known],
            ready=count,
            desired=count,
            starting=(StartingPod("s", 20.0, "loading"),),
            pending=1.0,
            queue_to_compute=0.1,
            service=ServiceTime(0.25, 0.5, 1000),
            startup_s=(170.0, 180.0, 190.0),
            data_age_s=now_s - known * BIN_S,
        )

    def scale(self, pool: Pool, decision: Decision) -> None:
        self.desired[pool.name] = decision.replicas

    def warm(self, pool: Pool, asks: Sequence[WarmAsk]) -> None:
        del pool, asks


def measure(count: int, ticks: int, report: Callable[[str], None] = lambda _: None) -> Figures:
    """Read some histories, copy what they taught, then tick with refits in the background.

    `report` is told how far that is.
    """
    fleet, memory = Fleet(count, ticks // 4 + 1), Memory()
    now_s = HISTORY * BIN_S + 3 * TICK_S  # the newest bin is oldest just before the next
    report(f"reading {min(KINDS, count)} histories in full")
    kinds, build_s = _read_histories(fleet, min(KINDS, count), now_s)
    fit(FitTask(np.zeros((100, 2)), np.zeros(100), np.ones(100), 0.9))  # imports what it needs
    begin_s = time.thread_time()
    forecaster = kinds[0].forecaster
    assert forecaster is not None
    forecaster.adopt(fit(forecaster.refit_task()))
    refit_s = time.thread_time() - begin_s
    for index, pool in enumerate(fleet.pools()):
        memory.pools[pool.name] = copy.deepcopy(kinds[index % len(kinds)])
    sample = min(count, RESTARTED)
    report(f"a history is read in {build_s:.1f} s of CPU; now {sample} pools as after a restart, in real time")
    restart_s, slowest_s = _restart(sample, report)
    refitter, adopted = Refitter(), []
    refitter.adopted = lambda name, *_: adopted.append(name)
    cpu_s, wall_s = [], []
    try:
        for index in range(ticks):
            report(f"tick {index + 1} of {ticks} over {count} pools")
            now_s += TICK_S
            refitter.exchange(memory)
            begin_cpu_s, begin_s = time.thread_time(), time.monotonic()
            tick(fleet, memory, now_s)
            cpu_s.append(time.thread_time() - begin_cpu_s)
            wall_s.append(time.monotonic() - begin_s)
    finally:
        refitter.close()
    daily_s = count * refit_s * TICK_S / 86_400.0
    return Figures(
        pools=count,
        ticks=ticks,
        tick_cpu_s_mean=float(np.mean(cpu_s)) + daily_s,
        tick_wall_s_p99=float(np.quantile(wall_s, 0.99)),
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
        build_s_mean=build_s,
        refit_s_mean=refit_s,
        refits_finished=len(adopted),
        restart_min=restart_s * count / sample / 60.0,
        restart_tick_wall_s_max=slowest_s,
    )


def _restart(sample: int, report: Callable[[str], None]) -> tuple[float, float]:
    """Seconds of the wall clock until a runner that knows nothing has forecasts for all pools, and its slowest tick."""
    fleet, walls = Fleet(sample, MOST_RESTART_MIN), []
    runner = Runner(fleet, TICK_S, DecisionMetrics())
    now_s = HISTORY * BIN_S + 3 * TICK_S
    begin_s = time.monotonic()

    def looked(decisions: Sequence[Decision]) -> None:
        walls.append(runner.tick_s)
        known = sum(decision.forecast is not None for decision in decisions)
        spent_s = time.monotonic() - begin_s
        report(f"after {spent_s:.0f} s {known} of {sample} pools are forecast")
        if known == sample:
            runner.stopping.set()
        elif spent_s > 60.0 * (MOST_RESTART_MIN - 1):
            raise RuntimeError(f"{known} of {sample} pools are forecast {spent_s:.0f} s after a restart")

    try:
        runner.run(looked, lambda: now_s + time.monotonic() - begin_s)
    finally:
        runner.close()
    return time.monotonic() - begin_s, max(walls)


def _read_histories(fleet: Fleet, kinds: int, now_s: float) -> tuple[list[PoolMemory], float]:
    """What the first pools learn from their histories, and the mean CPU seconds of that."""
    count, fleet.shown = fleet.shown, kinds
    memory, begin_s = Memory(), time.thread_time()
    while not memory.pools or any(state.building for state in memory.pools.values()):
        tick(fleet, memory, now_s)
    fleet.shown = count
    return list(memory.pools.values()), (time.thread_time() - begin_s) / kinds


def main(
    pools: int = 1000, ticks: int = 12, json_path: Path | None = None, report: Callable[[str], None] = lambda _: None
) -> Figures:
    """Measure, print, and write the figures."""
    figures = measure(pools, ticks, report)
    for name, value in asdict(figures).items():
        print(f"{name:18} {value:10.3f}" if isinstance(value, float) else f"{name:18} {value:10d}")
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": asdict(describe()), **asdict(figures)}, indent=1) + "\n")
    return figures


if __name__ == "__main__":
    main()
